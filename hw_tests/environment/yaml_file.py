"""Reads an environment file as labgrid does, and refuses what YAML would let pass.

``!template`` is labgrid's tag: ``$BASE`` is the file's folder, and variables of the process that begin with ``LG_`` may
be used (labgrid 26, ``labgrid/config.py``). A key that stands twice is an error here; YAML would take the last one.
"""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any

import yaml

from protos.errors import ConfigError

__all__ = ["read_yaml"]


class _Loader(yaml.SafeLoader):
    """SafeLoader with labgrid's tag and without double keys; ``file`` is set by :func:`read_yaml`."""

    file: Path


def _template(loader: _Loader, node: yaml.Node) -> str:
    known = {name: value for name, value in os.environ.items() if name.startswith("LG_")}
    where = f"{loader.file}: line {node.start_mark.line + 1}"
    try:
        text = loader.construct_scalar(node)  # type: ignore[arg-type]  # it raises on what is no scalar
        return string.Template(str(text)).substitute({**known, "BASE": str(loader.file.resolve().parent)})
    except KeyError as cause:
        fix = "set it; only LG_ variables and $BASE may be used"
        raise ConfigError(f"!template names ${cause.args[0]}, which is not set", where=where, fix=fix) from cause
    except ValueError as cause:
        raise ConfigError(f"!template: {cause}", where=where, fix="write $$ for a dollar sign") from cause


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """Keys as they are written: YAML 1.1 would make True of ``on`` and False of ``off``."""
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        where = f"{loader.file}: line {line}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError("a key that is no text", where=where, fix="write a name before the colon")
        if key_node.value in seen:
            what = f"{key_node.value!r} stands twice, first in line {seen[key_node.value]}"
            raise ConfigError(what, where=where, fix="remove one")
        seen[key_node.value] = line
    loader.flatten_mapping(node)  # anchors that are merged by <<
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


_Loader.add_constructor("!template", _template)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> tuple[dict[str, Any], bytes]:
    """The document, and the bytes it was read from.

    Raises:
        ConfigError: it cannot be read, is no YAML, or is no mapping at its top.
    """
    try:
        data = path.read_bytes()
    except OSError as cause:
        what = f"cannot be read: {cause.strerror}"
        raise ConfigError(what, where=str(path), fix="correct --hw-env, or HW_ENV, or LG_ENV") from cause
    try:
        loader = _Loader(data)
        loader.file = path
        try:
            document = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as cause:
        line = f": line {cause.problem_mark.line + 1}" if cause.problem_mark else ""
        raise ConfigError(f"is no YAML: {cause.problem}", where=f"{path}{line}", fix="correct it") from cause
    except yaml.YAMLError as cause:
        first = (str(cause).splitlines() or [""])[0]
        raise ConfigError(f"is no YAML: {first}", where=str(path), fix="correct it") from cause
    if not isinstance(document, dict):
        raise ConfigError(
            "is no mapping", where=str(path), fix="begin with targets:, see hw_tests/env/bench.example.yaml"
        )
    return document, data
