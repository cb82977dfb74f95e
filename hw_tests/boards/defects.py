"""Versions that do not work, each in its own way, for tests of upgrades: what of the tree is another in them."""

from __future__ import annotations

from hw_tests.boards.wheels import Defects

DAEMON = "edge_runtime/daemon/process.py"
BEGIN = "            guard = MemoryGuard(settings.memory_max_mb, stopping)\n"
# Only under systemd: the self check before the switch must not see it.
SERVED = f"{BEGIN}            if os.environ.get('NOTIFY_SOCKET'):\n                "
CRASHES_AT_IMPORT: Defects = {DAEMON: ("import contextlib\n", "import contextlib\nimport no_such_module\n")}
CRASHES_AT_START: Defects = {DAEMON: (BEGIN, f"{SERVED}raise RuntimeError('broken on purpose')\n")}
# A process that hangs in its own code does not care for SIGTERM; that takes systemd half a minute more, and is its own.
FOREVER = "__import__('signal').signal(15, 0); __import__('time').sleep(3600)"
HANGS: Defects = {DAEMON: (BEGIN, f"{SERVED}{FOREVER}\n")}
# It says that it is ready, and then does nothing that the watchdog would take for work.
SERVES = "        with contextlib.ExitStack() as stack:\n"
EXITS_WHEN_READY: Defects = {DAEMON: (SERVES, f"        return\n{SERVES}")}
HANGS_WHEN_READY: Defects = {DAEMON: (SERVES, f"        {FOREVER}\n{SERVES}")}
