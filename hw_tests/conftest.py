"""Loads the plugin of the bench."""

from __future__ import annotations

from importlib.util import find_spec

pytest_plugins = [
    "hw_tests.plugin.options",
    "hw_tests.plugin.selection",
    "hw_tests.plugin.report",
    "hw_tests.plugin.keeping",
    "hw_tests.plugin.fixtures",
    *(["hw_tests.boards.fixtures"] if find_spec("hw_tests.boards.fixtures") else []),
]
