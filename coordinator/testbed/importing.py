"""Inventories of others as ours: Ansible (YAML or INI), labgrid (places or an environment), CoLExT.

What cannot be carried over is told, never dropped without a word. YAML is read by its safe loader alone.
"""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.testbed.inventory import Board, Inventory, parse
from coordinator.testbed.inventory import as_text as text_of
from protos.energy.boards import BOARDS
from protos.errors import ConfigError

__all__ = ["FORMATS", "Imported", "import_inventory"]

FORMATS = ("ansible", "labgrid", "colext")
_MOST_HOSTS = 4096
# Names that others have for kinds of boards.
_KINDS = {
    "raspberrypi5": "pi5", "rpi5": "pi5", "raspberrypi4": "pi4", "rpi4": "pi4", "raspberrypi3": "pi3b-plus",
    "rpi3": "pi3b-plus", "pi3": "pi3b-plus", "raspberrypizero2": "pi-zero-2", "rpizero2": "pi-zero-2",
    "coraldevboard": "coral-dev", "coral": "coral-dev",
}  # fmt: skip


@dataclass
class Imported:
    """An inventory, and what of the source has no place in it."""

    inventory: Inventory
    remarks: list[str] = field(default_factory=list)


def import_inventory(
    source: Path,
    target: Path,
    *,
    form: str | None = None,
    hosts: Path | None = None,
    coordinator: str = "",
    coordinator_state: str = "",
) -> Imported:
    """Read another's inventory.

    Args:
        target: the file that it will be; relative paths are beside it.
        form: one of `FORMATS`; None: it is found out.
        hosts: for CoLExT, which names kinds and counts alone: a file with lines ``HOST KIND``.
        coordinator, coordinator_state: for ``[lab]``, of which those inventories know nothing.

    Raises:
        ConfigError: it cannot be read, is of none of these, or has no board.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot be read ({reason})", where=str(source), fix="check the path") from error
    where = str(source)
    document = None if source.suffix in (".ini", ".cfg") else _yaml(text, where)
    form = form or _form_of(document)
    remarks: list[str] = []
    if form == "ansible":
        rows = (
            _ansible_yaml(document, where, remarks)
            if isinstance(document, dict)
            else _ansible_ini(text, where, remarks)
        )
    elif form == "labgrid":
        rows = _labgrid(document, where, remarks)
    elif form == "colext":
        rows = _colext(document, where, hosts, remarks)
    else:
        raise ConfigError(f"no format {form!r} is known", where=where, fix=f"choose {', '.join(FORMATS)}")
    boards = []
    for name, values in rows.items():
        if "host" not in values:
            raise ConfigError("has no address", where=f"{where}: {name}", fix="give it one there, or leave it out")
        values["groups"] = tuple(dict.fromkeys(values.get("groups", ())))
        boards.append(Board(name, **values))
    if not boards:
        raise ConfigError("names no board", where=where, fix="check the file")
    name = re.sub(r"[^\w.-]", "-", source.stem)
    made = Inventory(target, name, tuple(boards), coordinator, coordinator_state)
    # What our own reader refuses is refused here, with the source's name.
    try:
        checked = parse(text_of(made), source)
    except ConfigError as error:
        raise ConfigError(error.what, where=error.where, fix="correct it in the source") from error
    return Imported(Inventory(target, name, checked.boards, coordinator, coordinator_state), remarks)


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        # The loader knows labgrid's own tags, such as !template, as what stands behind them.
        return _plain(yaml.compose(text, Loader=yaml.SafeLoader), where)
    except (yaml.YAMLError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if re.match(r"\s*(\[|[A-Za-z0-9.-]+(\s|$))", text):
            return text
        raise ConfigError(f"not YAML: {first}", where=where, fix="correct it there") from error


def _plain(node: Any, where: str, depth: int = 0) -> Any:
    """A node of YAML as values; a tag that is not YAML's own counts as its content."""
    import yaml

    if depth > 50:
        raise ConfigError("is nested more than 50 deep", where=where, fix="check the file")
    if node is None:
        return None
    if isinstance(node, yaml.MappingNode):
        return {str(_plain(k, where, depth + 1)): _plain(v, where, depth + 1) for k, v in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each_node, where, depth + 1) for each_node in node.value]
    if not node.tag.startswith("tag:yaml.org,2002:"):
        return node.value
    return yaml.SafeLoader("").construct_object(yaml.ScalarNode(node.tag, node.value), deep=True)


def _form_of(document: Any) -> str:
    if isinstance(document, dict):
        if "targets" in document or "places" in document:
            return "labgrid"
        if isinstance(document.get("clients"), list) or "colext" in document:
            return "colext"
        values = [one for one in document.values() if isinstance(one, dict)]
        if values and all({"hosts", "children", "vars"} & value.keys() for value in values):
            return "ansible"
        if values and all({"tags", "matches", "acquired", "comment"} & value.keys() for value in values):
            return "labgrid"
    return "ansible"


Rows = dict[str, dict[str, Any]]
_ANSIBLE = {
    "ansible_host": "host", "ansible_ssh_host": "host", "ansible_port": "port", "ansible_ssh_port": "port",
    "ansible_user": "user", "ansible_ssh_user": "user", "ansible_ssh_private_key_file": "key",
    "ansible_private_key_file": "key", "ansible_python_interpreter": "python",
}  # fmt: skip
_OURS = (
    "kind",
    "bridge",
    "sensor",
    "channel",
    "power",
    "outlet",
    "place",
    "shard",
    "budget_j",
    "led",
    "folder",
    "service",
    "lock",
)


def _ansible_yaml(document: Mapping[str, Any], where: str, remarks: list[str]) -> Rows:
    rows: Rows = {}

    def walk(group: str, body: Any, inherited: Mapping[str, Any], above: tuple[str, ...]) -> None:
        if body is None:
            return
        if not isinstance(body, dict):
            raise ConfigError(f"group {group} is no mapping", where=where, fix="correct it there")
        variables = {**inherited, **(body.get("vars") or {})}
        words = above if group in ("all", "ungrouped") else (*above, group)
        for pattern, own in (body.get("hosts") or {}).items():
            for name in _expanded(str(pattern), where):
                _ansible_host(rows, name, {**variables, **(own or {})}, words, where, remarks)
        for child, inner in (body.get("children") or {}).items():
            walk(str(child), inner, variables, words)

    for group, body in document.items():
        walk(str(group), body, {}, ())
    return rows


def _ansible_host(
    rows: Rows, name: str, variables: Mapping[str, Any], groups: tuple[str, ...], where: str, remarks: list[str]
) -> None:
    row = rows.setdefault(name, {"host": name})
    row["groups"] = (*row.get("groups", ()), *groups)
    for key, value in variables.items():
        if key in _ANSIBLE:
            row[_ANSIBLE[key]] = _whole(value, f"{where}: {name}: {key}") if _ANSIBLE[key] == "port" else str(value)
        elif key.removeprefix("edgejoule_") in _OURS:
            own = key.removeprefix("edgejoule_")
            at = f"{where}: {name}: {key}"
            row[own] = (
                _whole(value, at) if own == "channel" else _number(value, at) if own == "budget_j" else str(value)
            )
        elif key in ("ansible_become", "ansible_sudo"):
            row["sudo"] = str(value).lower() in ("true", "yes", "1")
        elif not (key == "ansible_connection" and value == "ssh"):
            _remark(remarks, f"{key} has no place in it", name)
    if "kind" not in row and (kind := _kind_of(*groups)):
        row["kind"] = kind


def _ansible_ini(text: str, where: str, remarks: list[str]) -> Rows:
    reader = configparser.RawConfigParser(allow_no_value=True, delimiters=("\0",), comment_prefixes=("#", ";"))
    reader.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        reader.read_string(text if re.match(r"\s*\[", re.sub(r"(?m)^\s*[#;].*$", "", text)) else f"[ungrouped]\n{text}")
    except configparser.Error as error:
        raise ConfigError(f"not INI: {str(error).splitlines()[0]}", where=where, fix="correct it there") from error
    groups: dict[str, list[str]] = {}
    children: dict[str, list[str]] = {}
    variables: dict[str, dict[str, str]] = {}
    for section in reader.sections():
        name, _, what = section.partition(":")
        lines = list(reader.options(section))
        if what == "children":
            children[name] = [line.split()[0] for line in lines]
        elif what == "vars":
            pairs = [line.partition("=") for line in lines]
            variables[name] = {key.strip(): value.strip().strip("'\"") for key, _, value in pairs}
        else:
            groups[name] = lines
    above: dict[str, list[str]] = {}
    for parent, inner in children.items():
        for child in inner:
            above.setdefault(child, []).append(parent)

    def lineage(group: str, seen: tuple[str, ...] = ()) -> Iterator[str]:
        if group in seen:
            raise ConfigError(f"group {group} is its own child", where=where, fix="correct it there")
        for parent in above.get(group, []):
            yield from lineage(parent, (*seen, group))
        yield group

    rows: Rows = {}
    for group, lines in groups.items():
        line_of = list(dict.fromkeys(lineage(group)))
        for line in lines:
            first, *words = shlex.split(line, comments=True)
            own = dict(variables.get("all", {}))
            for one in line_of:
                own |= variables.get(one, {})
            for word in words:
                key, equals, value = word.partition("=")
                if not equals:
                    raise ConfigError(f"{word!r} is no key=value", where=f"{where}: {first}", fix="correct it there")
                own[key] = value
            for name in _expanded(first, where):
                words_of = tuple(one for one in line_of if one not in ("all", "ungrouped"))
                _ansible_host(rows, name, own, words_of, where, remarks)
    return rows


def _expanded(pattern: str, where: str) -> Iterator[str]:
    """Hosts of a pattern such as ``pi-[01:16].lab``, as Ansible has it: both ends count, zeros are kept."""
    found = re.search(r"\[([0-9]+|[a-z]):([0-9]+|[a-z])(?::([0-9]+))?\]", pattern)
    if found is None:
        yield pattern
        return
    low, high, step = found[1], found[2], int(found[3] or 1)
    if low.isdigit() != high.isdigit() or step < 1:
        raise ConfigError(f"{pattern!r} is no range", where=where, fix="such as pi-[01:16]")
    ends = (int(low), int(high)) if low.isdigit() else (ord(low), ord(high))
    if not 0 <= ends[1] - ends[0] < _MOST_HOSTS:
        raise ConfigError(f"{pattern!r} is no range of up to {_MOST_HOSTS}", where=where, fix="such as pi-[01:16]")
    for number in range(ends[0], ends[1] + 1, step):
        one = f"{number:0{len(low)}}" if low.isdigit() else chr(number)
        yield from _expanded(pattern[: found.start()] + one + pattern[found.end() :], where)


def _labgrid(document: Any, where: str, remarks: list[str]) -> Rows:
    """An environment (``targets``), or places as the coordinator's ``places.yaml`` has them."""
    if not isinstance(document, dict):
        raise ConfigError("is no mapping", where=where, fix="give an environment or places.yaml of labgrid")
    rows: Rows = {}
    targets = document.get("targets")
    if isinstance(targets, dict):
        for name, body in targets.items():
            resources = (body or {}).get("resources") or {}
            rows[name] = {}
            for kind, values in _resources(resources):
                values = values if isinstance(values, dict) else {}
                if kind == "NetworkService":
                    rows[name] |= {"host": str(values.get("address", "")), "user": str(values.get("username", ""))}
                    if "port" in values:
                        rows[name]["port"] = _whole(values["port"], f"{where}: {name}: port")
                elif kind == "RemotePlace":
                    place = str(values.get("name", name))
                    rows[name]["place"] = place
                    rows[name].setdefault("host", place)
                elif kind == "RawSerialPort":
                    rows[name]["bridge"] = str(values.get("port", ""))
                elif kind.endswith("PowerPort"):
                    rows[name]["place"] = rows[name].get("place", name)
                else:
                    _remark(remarks, f"{kind} has no place in it", name)
        return rows
    for name, body in (document.get("places") or document).items():
        body = body or {}
        tags = body.get("tags") or {}
        if not isinstance(tags, dict):
            raise ConfigError("its tags are no mapping", where=f"{where}: place {name}", fix="correct it there")
        row: dict[str, Any] = {"host": str(tags.get("host", name)), "place": name}
        for key, value in tags.items():
            if key == "user":
                row["user"] = str(value)
            elif key in ("board", "kind", "type"):
                row["kind"] = _kind_of(str(value)) or str(value)
            elif key != "host":
                _remark(remarks, f"the tag {key} became a group", name)
                row["groups"] = (*row.get("groups", ()), f"{key}-{value}")
        rows[name] = row
    return rows


def _resources(resources: Any) -> Iterator[tuple[str, Any]]:
    """Resources of a target: a mapping by kind, or a list of such."""
    if isinstance(resources, dict):
        yield from resources.items()
    elif isinstance(resources, list):
        for resource in resources:
            if isinstance(resource, dict):
                yield from resource.items()


def _colext(document: Any, where: str, hosts: Path | None, remarks: list[str]) -> Rows:
    """``clients: [{dev_type, count, add_args}]``: kinds and counts, whose hosts stand in a file of their own."""
    body = document if isinstance(document, dict) else {}
    clients = body.get("clients") or (body.get("colext") or {}).get("clients")
    if not isinstance(clients, list):
        raise ConfigError("has no list of clients", where=where, fix="write clients: [{dev_type: ..., count: ...}]")
    if hosts is None:
        what = "names kinds and counts, and no hosts"
        raise ConfigError(what, where=where, fix="give --hosts FILE with lines of HOST KIND")
    known: dict[str, list[str]] = {}
    try:
        for number, line in enumerate(hosts.read_text(encoding="utf-8").splitlines(), 1):
            words = line.split("#")[0].split()
            if words and len(words) != 2:
                raise ConfigError(f"{line!r} is no HOST KIND", where=f"{hosts}:{number}", fix="correct it")
            if words:
                known.setdefault(words[1], []).append(words[0])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot be read", where=str(hosts), fix="check the path") from error
    rows: Rows = {}
    for client in clients:
        kind, count = (client.get("dev_type"), client.get("count", 1)) if isinstance(client, dict) else (None, 1)
        if not isinstance(kind, str):
            raise ConfigError(f"{client!r} has no dev_type", where=f"{where}: clients", fix="correct it there")
        here, wanted = known.get(kind, []), _whole(count, f"{where}: {kind}: count")
        if wanted > len(here):
            what = f"wants {wanted} of {kind}, and {hosts.name} has {len(here)} more"
            raise ConfigError(what, where=f"{where}: clients", fix="add hosts there")
        if client.get("add_args"):
            _remark(remarks, "add_args are for a client of Flower, and were left out", kind)
        for host in here[:wanted]:
            rows[host.partition(".")[0] if not re.match(r"[\d.:]+\Z", host) else f"{kind.lower()}-{len(rows) + 1}"] = {
                "host": host, "kind": _kind_of(kind) or kind, "groups": (kind,),
            }  # fmt: skip
        known[kind] = here[wanted:]
    return rows


def _kind_of(*words: str) -> str | None:
    """The power profile that a name of a board means, or None."""
    for word in words:
        if word in BOARDS:
            return word
        found = _KINDS.get(re.sub(r"[^a-z0-9]", "", word.lower()))
        if found is not None and found in BOARDS:
            return found
    return None


def _whole(value: Any, where: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ConfigError(f"{value!r} is no whole number", where=where, fix="correct it there") from None


def _number(value: Any, where: str) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ConfigError(f"{value!r} is no number", where=where, fix="correct it there") from None


def _remark(remarks: list[str], what: str, name: str) -> None:
    for index, remark in enumerate(remarks):
        if remark.startswith(what):
            if name not in remark.split(": ", 1)[1].split(", "):
                remarks[index] = f"{remark}, {name}"
            return
    remarks.append(f"{what}: {name}")
