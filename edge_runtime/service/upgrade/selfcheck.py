"""``edge-runtime service check``: what a version says of itself before it may be switched to.

The version that runs asks the new one, in a process of its own, and reads the answer as JSON. So keys are only added.
Nothing on the machine is changed, and the running service is not disturbed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_runtime.board import software_version
from edge_runtime.config import Resolved
from edge_runtime.doctor.finding import Finding
from edge_runtime.service.unit import Written, read_back
from edge_runtime.service.upgrade.environments import Environment
from edge_runtime.state import READS, layout_of
from protos.errors import EdgejouleError, UpgradeError

TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Answer:
    """What a version said of itself.

    Attributes:
        unit: the text of its unit for these settings.
        delegate: kernels that its engine runs with outside of the unit, or None.
    """

    version: str
    unit: str
    delegate: str | None


def examine(resolved: Resolved, unit: str, state: Path) -> dict[str, Any]:
    """The answer as JSON's values: engine, data and state as this version sees them.

    Args:
        unit: its unit's text.
        state: the service's state, which may not be there yet.
    """
    from edge_runtime.doctor.fresh_start import measure

    imports = _imports()
    # A bundle would be trained on for a while; the trial does that.
    figures = measure(dataclasses.replace(resolved.settings, bundle=None, state=state))
    findings = [imports, _start(figures.error), _kernels(resolved, figures.delegate), *_state(state)]
    return {
        "version": software_version(),
        "layouts": list(READS),
        **asdict(figures),
        "unit": unit,
        "checks": [asdict(finding) for finding in findings],
        "ok": all(finding.verdict != "fail" for finding in findings),
    }


def ask(environment: Environment, written: Written) -> Answer:
    """Ask a version.

    Raises:
        UpgradeError: it does not run, does not answer, or says that something is wrong.
    """
    command = [str(environment.program), "service", "check", "--json", "--config", str(written.config)]
    for credential in written.credentials:
        command += ["--credential", f"{credential.name}:{credential.path}"]
    env = {name: text for name, text in os.environ.items() if not name.startswith(("EDGEJOULE_", "PYTHON"))}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=env, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UpgradeError(f"its self check does not run: {error}", where=str(environment.path)) from error
    try:
        answer = _answer(json.loads(done.stdout), str(environment.path))
    except (ValueError, KeyError, TypeError) as error:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it says nothing")
        what = f"its self check ended with exit code {done.returncode}: {said.strip()[:300]}"
        raise UpgradeError(what, where=str(environment.path)) from error
    unit = read_back(answer.unit)
    if unit is None or unit.program != environment.program:
        raise UpgradeError("its self check gives a unit that does not start it", where=str(environment.path))
    return answer


def _answer(found: Mapping[str, Any], where: str) -> Answer:
    wrong = [check for check in found["checks"] if check["verdict"] == "fail"]
    if wrong or not found["ok"]:
        said = "; ".join(f"{check['check']}: {check['what']}" for check in wrong) or "it says that it is not fit"
        raise UpgradeError(f"its self check failed: {said}", where=where, fix="mend that, or stay with this version")
    return Answer(str(found["version"]), str(found["unit"]), found.get("delegate"))


def lines(found: Mapping[str, Any]) -> Sequence[str]:
    """The answer for people."""
    return [f"{check['verdict']:4}  {check['check']}: {check['what']}" for check in found["checks"]]


def _imports() -> Finding:
    """The daemon itself, which nothing else of this command needs."""
    try:
        importlib.import_module("edge_runtime.daemon.process")
    except Exception as error:  # whatever it is, the service would end by it
        return Finding("import", "fail", f"{type(error).__name__}: {error}", "this version is broken")
    return Finding("import", "ok", "the daemon is imported")


def _start(error: str | None) -> Finding:
    if error:
        return Finding("fresh start", "fail", error, "mend this, then check again")
    return Finding("fresh start", "ok", "settings and data are read, the engine runs")


def _kernels(resolved: Resolved, delegate: str | None) -> Finding:
    wanted = resolved.settings.require_delegate
    if wanted is not None and delegate is not None and delegate != wanted:
        return Finding("engine", "fail", f"runs with {delegate} kernels, and {wanted} is required", "")
    return Finding("engine", "ok" if delegate else "warn", f"runs with {delegate or 'unknown'} kernels")


def _state(state: Path) -> Sequence[Finding]:
    """Whether what the version before left can be read, reports without an answer first of all."""
    if not state.is_dir():
        return [Finding("state", "ok", "there is none yet")]
    from edge_runtime.daemon.outbox import Outbox
    from protos.convert.reports import parse_report

    try:
        layout_of(state)
        # Damaged files are set aside by whoever finds them; a copy keeps the real ones where they are.
        with tempfile.TemporaryDirectory(prefix="edgejoule-check-") as folder:
            copies = [_copy(path, Path(folder)) for path in sorted((state / "outbox").glob("*.report"))]
            letters = Outbox(Path(folder)).pending()
            for letter in letters:
                parse_report(letter.data)
    except (EdgejouleError, OSError) as error:
        return [Finding("state", "fail", str(error), "stay with the version that wrote it")]
    if len(letters) != sum(copies):
        return [Finding("state", "fail", f"{sum(copies) - len(letters)} unsent reports cannot be read", "")]
    return [Finding("state", "ok", f"layout and {len(letters)} unsent reports are read")]


def _copy(report: Path, folder: Path) -> bool:
    # The daemon may have been answered, and have deleted it, since the folder was listed.
    with contextlib.suppress(FileNotFoundError):
        (folder / report.name).write_bytes(report.read_bytes())
        return True
    return False
