"""Pages whose commands need no hardware are played; of every other page it is said why not, and which tests do."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import test_documents
from played_page import ROOT, changed, missing, played

# One second of work, in the place of the reader's own.
WORK = "import time\ntime.sleep(1.0)\n"
PLAYED = {
    "docs/energy.md": ("## Measuring a period or a command", "### Recordings"),
    "docs/recordings.md": ("# Recordings", "## Files of other instruments"),
}
FIRST_HOUR = "docs/first-hour.md"
_OWN = "the reader's own model and data; tests/firmware_tools/convert and tests/coordinator/lab run the same verbs"
_PORT = "a board on a serial port; tests/firmware_tools/bridge and machine run the same verbs on simulated ones"
_SERVICE = "changes a machine's systemd; tests/edge_runtime/service runs it on a folder, and make hw-sim in a Debian"
NOT_PLAYED = {
    "README.md": _OWN,
    "docs/beyond-the-head.md": "a model of the reader's own; tests/firmware_tools/convert runs the same options",
    "docs/coral.md": "Google's compiler, which nothing downloads; tests/firmware_tools/compile has a stand-in",
    "docs/data.md": "data of the reader's own; tests/protos and tests/edge_runtime/data run the same verbs",
    "docs/diffusion.md": "a model and data of the reader's own; tests/coordinator/test_plan_files.py runs its plan",
    "docs/doctor.md": "settings of a board; tests/edge_runtime/doctor runs every check",
    "docs/exports.md": "runs of the reader's own; tests/coordinator/results and test_recording_formats.py write them",
    "docs/experiments.md": "whole fleets; tests/coordinator/lab/test_sweep_runs.py runs a sweep on one of processes",
    "docs/first-board.md": _PORT,
    "docs/installing.md": "a PostgreSQL server; tests/coordinator/test_store_opening.py starts one",
    "docs/json.md": "a page of JSON; tests/test_command_lines.py asks every command for its schema",
    "docs/live.md": "a run that goes on; tests/coordinator/live opens page, terminal and metrics beside one",
    "docs/models.md": "PyTorch and ONNX, which nothing installs; tests/firmware_tools/convert converts what they give",
    "docs/model.md": "a board that has finished a run; tests/edge_runtime/model runs the same verbs",
    "docs/one-pass.md": "whole demos; tests/coordinator/lab runs one, and tests/coordinator the closed form",
    "docs/personal.md": "a model and data of the reader's own; tests/edge_runtime/model makes heads of class sums, and "
    "tests/firmware_tools/convert the sums",
    "docs/plans.md": "a plan of the reader's own; tests/protos/test_plan_rules.py reads every plan in plans/",
    "docs/pruning.md": "a model and data of the reader's own; tests/firmware_tools/prune runs the same verbs",
    "docs/quantfl.md": "a whole run; tests/coordinator/test_plan_files.py runs its plan",
    "docs/reports.md": "runs of the reader's own; tests/coordinator/live makes reports of played ones",
    "docs/robust.md": "a whole run; tests/coordinator/export rounds heads of one",
    "docs/security.md": "addresses of several machines; tests/coordinator/trust runs the same verbs",
    "docs/sensors.md": _PORT,
    "docs/service.md": _SERVICE,
    "docs/simulation.md": "data of the reader's own; tests/coordinator/simulated runs the same verb",
    "docs/sites.md": "several machines; tests/coordinator/test_tree_of_sites.py starts them on one",
    "docs/testbed.md": "boards behind SSH; tests/coordinator/testbed runs every verb on real servers, and make lab-sim",
    "examples/plugin/README.md": "installs a package; tests/test_examples.py runs the examples",
    "firmware_tools/bridge/README.md": _PORT,
    "firmware_tools/bridge/firmware/README.md": "compilers of microcontrollers; tests/firmware_tools/firmware builds",
    "firmware_tools/bridge/machine/README.md": "an emulated microcontroller; tests/firmware_tools/machine runs it",
}


@pytest.mark.processes
@pytest.mark.parametrize("name", PLAYED)
def test_what_a_page_shows_is_what_its_commands_print(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the page draws a picture: the extra plot")
    after, until = PLAYED[name]
    (tmp_path / "work.py").write_text(WORK)
    with played(ROOT / name, tmp_path, after=after, until=until) as found:
        pass
    assert not {one.command: (one.code, one.printed) for one in found if one.code}
    wrong = {one.command: lost for one in found if (lost := missing(one.said, one.printed))}
    assert not wrong, {one.command: one.printed for one in found}
    assert not {one.command: pairs for one in found if (pairs := changed(one.command, one.said, one.printed))}
    assert sum(bool(one.said) for one in found) >= 2


def test_of_every_page_with_commands_it_is_decided_whether_it_is_played() -> None:
    with_commands = {
        str(page.relative_to(ROOT))
        for page in test_documents.PAGES
        if any(list(test_documents._commands(text)) for text in test_documents._fenced(page))
    }
    assert with_commands - {FIRST_HOUR} == PLAYED.keys() | NOT_PLAYED.keys()
    assert not PLAYED.keys() & NOT_PLAYED.keys()


def test_every_verb_that_needs_no_board_is_played_on_some_page() -> None:
    pages = [ROOT / name for name in (*PLAYED, FIRST_HOUR)]
    seen = {
        " ".join(word for word in words[:3] if not word.startswith(("-", ".")))
        for page in pages
        for text in test_documents._fenced(page)
        for words in test_documents._commands(text)
    }
    wanted = {"serve", "start", "status", "devices", "budgets", "export", "check-plan"}
    assert wanted <= {text.split()[1] for text in seen if text.startswith("coordinator ")}
    assert isinstance(test_documents._parsers()["coordinator"], argparse.ArgumentParser)
