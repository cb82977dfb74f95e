"""What the product never does: read objects from bytes, run text as code, or hand text to a shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("protos", "edge_runtime", "coordinator", "firmware_tools", "hw_tests", "packaging", "examples", "benchmarks")
# Reading any of these runs what it reads.
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "xmlrpc"}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "commands.getoutput", "subprocess.getoutput",
    "subprocess.getstatusoutput", "tempfile.mktemp", "torch.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "asyncio.create_subprocess_shell",
}  # fmt: skip


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in MODULES:
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES and not node.level:
            yield node.lineno, f"from {node.module} import"
        elif isinstance(node, ast.Call):
            name, words = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
            shell, pickled = words.get("shell"), words.get("allow_pickle")
            if name in CALLS:
                yield node.lineno, name
            starts = name.startswith(("subprocess.", "asyncio.")) or name.rpartition(".")[2] in ("run", "Popen", "call")
            if starts and shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
                yield node.lineno, "shell="
            if pickled is not None and not (isinstance(pickled, ast.Constant) and pickled.value is False):
                yield node.lineno, "allow_pickle="
            if name in ("np.load", "numpy.load") and pickled is None:
                yield node.lineno, f"{name} without allow_pickle=False"


FILES = sorted(
    path
    for room in PRODUCT
    for path in (ROOT / room).rglob("*.py")
    if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
)


def test_the_product_reads_no_objects_and_runs_no_text() -> None:
    assert len(FILES) > 400
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in FILES
        for line, what in dangers(ast.parse(path.read_text(), str(path)))
    ]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from marshal import loads", "eval('1')", "yaml.load(x)", "os.system('x')",
        "import shelve as s",
        "subprocess.run(x, shell=True)", "subprocess.run(x, shell=flag)", "np.load(p)", "np.load(p, allow_pickle=True)",
        "exec(text)", "torch.load(p)", "tempfile.mktemp()",
    ],
)  # fmt: skip
def test_the_check_sees_it(text: str) -> None:
    assert list(dangers(ast.parse(text)))


def test_the_check_lets_the_harmless_pass() -> None:
    text = "re.compile('x')\nmodel.eval()\nnp.load(p, allow_pickle=False)\nyaml.safe_load(x)\nrun(x, shell=False)"
    assert not list(dangers(ast.parse(text)))
