"""Places in a module where one small thing can be changed, and the module with the change made.

A change is what a slip of the hand or a wrong edge would be: another operator, a comparison that takes its bound in or
leaves it out, a constant one further, a condition the other way round, a statement left out.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Site:
    """One change of one module.

    Attributes:
        path: of the module, from the root of the tree.
        line: where it is.
        first, last: lines of the statement that it is in, without the block of a compound one.
        function: qualified name of what it is in, empty in the module itself.
        before, after: what is changed, on one line each.
        span: of characters of the module's text.
        text: that takes their place.
    """

    path: str
    line: int
    first: int
    last: int
    function: str
    before: str
    after: str
    span: tuple[int, int]
    text: str

    @property
    def name(self) -> str:
        """The same for the same change, wherever its lines are."""
        return f"{self.path} :: {self.function} :: {self.before} -> {self.after}"

    def applied(self, source: str) -> str:
        """The module with this change."""
        start, end = self.span
        return source[:start] + self.text + source[end:]


def sites(path: str, source: str) -> list[Site]:
    """Every change that can be made in a module, in the order of its text."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return finder.found


class _Finder(ast.NodeVisitor):
    """Walks a module; annotations, messages of errors, docstrings and decorators are left as they are."""

    def __init__(self, path: str, source: str) -> None:
        self.found: list[Site] = []
        self._path = path
        self._names: list[str] = []
        self._statement: tuple[int, int] = (1, 1)
        # Columns of nodes count bytes.
        self._lines = source.encode().splitlines(keepends=True)
        self._before = [0]
        for line in self._lines:
            self._before.append(self._before[-1] + len(line.decode()))

    def _offset(self, line: int, column: int) -> int:
        return self._before[line - 1] + len(self._lines[line - 1][:column].decode())

    def _add(self, node: ast.expr | ast.stmt, changed: ast.AST | str) -> None:
        after = changed if isinstance(changed, str) else ast.unparse(changed)
        text = after if isinstance(node, ast.stmt) else f"({after})"
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        span = (self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset))
        before = ast.unparse(node)
        site = Site(
            self._path, node.lineno, *self._statement, ".".join(self._names), before.replace("\n", " "),
            after.replace("\n", " "), span, text,
        )  # fmt: skip
        self.found.append(site)

    def visit(self, node: ast.AST) -> None:
        """Note the changes of a node, then those of what it is made of."""
        if isinstance(node, ast.stmt):
            self._statement = _header(node)
        for changed in _changes(node):
            assert isinstance(node, ast.expr | ast.stmt)
            self._add(node, changed)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._names.append(node.name)
            for each_node in _inside(node):
                self.visit(each_node)
            self._names.pop()
            return
        for each_node in _inside(node):
            self.visit(each_node)


def _header(node: ast.stmt) -> tuple[int, int]:
    body = getattr(node, "body", None)
    last = node.end_lineno or node.lineno
    if body:
        last = max(node.lineno, body[0].lineno - 1)
    return node.lineno, last


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment", "type_params"):
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, ast.AST):
                yield one


def _changes(node: ast.AST) -> Iterator[ast.AST | str]:
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        if not any(isinstance(expr, ast.Constant) and isinstance(expr.value, str) for expr in (node.left, node.right)):
            yield _with(node, op=_BINARY[type(node.op)]())
    elif isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            yield _with(node, ops=[*node.ops[:at], _COMPARISON[type(op)](), *node.ops[at + 1 :]])
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            yield _with(node, func=ast.Name(_CALLS[node.func.id]))
    elif isinstance(node, ast.IfExp):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "pass"
    elif isinstance(node, ast.Continue):
        yield "break"
    elif isinstance(node, ast.Break):
        yield "continue"


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    value: Any = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
    elif isinstance(value, float):
        yield ast.Constant(value * 2 if value else 1.0)


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    made = copy.copy(node)
    for name, value in fields.items():
        setattr(made, name, value)
    return made
