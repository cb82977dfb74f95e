"""What the three commands do when their output is full, or knows ASCII alone, or a part is not installed: one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
PROGRAMS = {
    "coordinator": "coordinator.cli",
    "edge-runtime": "edge_runtime.cli",
    "firmware-tools": "firmware_tools.cli",
}
# Of each program, a command that prints and needs nothing.
PRINTS = {
    "coordinator": ["check-plan", "plan.toml"],
    "edge-runtime": ["run", "--show-config", "--data", "±.npz"],
    "firmware-tools": ["inspect", "±"],
}

programs = pytest.mark.parametrize("program", PROGRAMS)


def run(program: str, *words: str, to: Path | None = None, errors_to: Path | None = None, blocked: str = "",
        cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
    """Run a program with its outputs sent to files; ``blocked`` are modules that cannot be imported in it."""
    block = (
        "import sys\n"
        f"blocked = set({blocked.split()!r})\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in blocked:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"from {PROGRAMS[program]} import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, **variables}
    with (to or Path(os.devnull)).open("wb") as out, (errors_to or Path(os.devnull)).open("wb") as err:
        return subprocess.run(
            [sys.executable, "-c", block, *words],
            stdout=out if to else subprocess.PIPE,
            stderr=err if errors_to else subprocess.PIPE,
            env=environment, cwd=cwd, check=False,
        )  # fmt: skip


@programs
def test_a_full_output_is_one_line_and_the_code_of_storage(program: str) -> None:
    done = run(program, "--help", to=FULL)
    assert done.returncode == 15, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert line == f"{program}: stdout: cannot be written (No space left on device); free space, or send it elsewhere"


def test_a_full_output_in_the_middle_of_a_command_is_the_same() -> None:
    done = run("edge-runtime", *PRINTS["edge-runtime"], to=FULL)
    assert (done.returncode, len(done.stderr.splitlines())) == (15, 1), done.stderr


@programs
def test_errors_that_nobody_can_read_leave_the_exit_code(program: str) -> None:
    words = {"coordinator": ["check-plan", "nowhere.toml"], "edge-runtime": ["run", "--no-such"],
             "firmware-tools": ["inspect", "nowhere"]}[program]  # fmt: skip
    assert run(program, *words, errors_to=FULL).returncode in (2, 6, 12)


ASCII = ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"LC_ALL": "C"})


@pytest.mark.parametrize("variables", ASCII, ids=["ioencoding", "ascii", "c"])
@programs
def test_a_terminal_that_knows_ascii_alone_is_given_plain_words(
    program: str, variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "plan.toml").write_text('[run]\nbundle = "±"\n', encoding="utf-8")
    done = run(program, *PRINTS[program], cwd=tmp_path, **variables)
    told = done.stdout + done.stderr
    assert b"Traceback" not in told
    if variables != {"LC_ALL": "C"}:  # there Python itself takes UTF-8
        assert told.isascii()
        assert b"+-" in told or b"\\xb1" in told or b"\\udc" in told, told


def test_a_name_in_no_encoding_is_printed_escaped(tmp_path: Path) -> None:
    done = run("firmware-tools", "inspect", os.fsdecode(b"\xff.tflite"), cwd=tmp_path, PYTHONUTF8="1")
    assert done.returncode == 6
    assert b"\\udcff.tflite" in done.stderr


@pytest.mark.parametrize(
    ("program", "words", "blocked", "extra"),
    [
        ("coordinator", ["serve", "--state", "s"], "sqlalchemy", "coordinator"),
        ("coordinator", ["restore", "b", "--state", "s"], "sqlalchemy", "coordinator"),
        ("coordinator", ["demo", "--output", "o"], "sqlalchemy rich", "demo"),
        ("firmware-tools", ["pretrain", "digits", "-o", "o"], "tensorflow", "workshop"),
    ],
)
def test_a_part_that_is_not_installed_is_named_with_the_line_that_installs_it(
    program: str, words: list[str], blocked: str, extra: str, tmp_path: Path
) -> None:
    done = run(program, *words, blocked=blocked, cwd=tmp_path)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2, line
    assert line.startswith(program)
    assert f"is not installed; install it with: {sys.executable} -m pip install 'edgejoule[{extra}]'" in line
    assert list(tmp_path.iterdir()) == []


def test_the_operators_commands_need_no_extra(tmp_path: Path) -> None:
    done = run("coordinator", "status", "--coordinator", "127.0.0.1:1", blocked="sqlalchemy rich PIL", cwd=tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (5, 1), done.stderr


def test_the_runtime_says_nothing_before_the_error_of_a_command(tmp_path: Path) -> None:
    """LiteRT's INFO lines are no business of who made a mistake; what it says of a fault stays."""
    code = (
        "import os\nfrom protos.model import engine\n"
        "engine.engine_identity()\n"
        "with engine._info_dropped():\n    os.write(2, b'INFO: chatter\\nERROR: kept\\n')\n"
    )
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True, check=True
    )
    assert done.stderr == b"ERROR: kept\n"
