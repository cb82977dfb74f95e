"""A board behind ssh, with a stand-in for ssh that runs the command on this machine instead."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw_tests.boards.board import BoardError, NoBoard
from hw_tests.boards.ssh import SshBoard

# Options first, then the host, then one word that the other side's shell takes apart.
STAND_IN = """#!/bin/sh
while :; do
    case $1 in
        -N) exit 255 ;;
        -o*) shift ;;
        *) break ;;
    esac
done
[ "$1" = nowhere ] && { echo "ssh: cannot resolve nowhere" >&2; exit 255; }
shift
exec sh -c "$1"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of programs: ssh, and sudo that only runs what it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ssh", STAND_IN), ("sudo", '#!/bin/sh\nshift\nexec "$@"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


@pytest.fixture
def board(ssh: Path) -> Iterator[SshBoard]:
    made = SshBoard("pi@pi-1")
    yield made
    made.close()


def test_words_arrive_as_they_are_and_an_exit_code_comes_back(board: SshBoard) -> None:
    strange = "a b'c\"d$e;f"
    assert board.run("printf", "%s", strange).stdout == strange
    assert board.run("sh", "-c", "exit 3", check=False).returncode == 3
    assert board.run("sh", "-c", 'echo "$NAME"', env={"NAME": strange}).stdout == f"{strange}\n"
    with pytest.raises(BoardError, match="left with 3"):
        board.run("sh", "-c", "exit 3")
    with pytest.raises(BoardError, match="did not end within"):
        board.run("sleep", "60", timeout_s=0.1)


def test_files_and_folders_go_there_under_another_name_and_come_back(board: SshBoard, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/file").write_text("1")
    target = tmp_path / "there/two"
    for _ in range(2):  # what was there is replaced
        board.put(tmp_path / "one", str(target))
        (target / "left").touch()
    board.put(tmp_path / "one", str(target))
    assert [path.name for path in target.iterdir()] == ["file"]
    board.put(tmp_path / "one/file", str(tmp_path / "there/three"))
    board.get(str(tmp_path / "there/three"), tmp_path / "back")
    assert (tmp_path / "back").read_text() == "1"
    with pytest.raises(BoardError, match="copying failed"):
        board.get(str(tmp_path / "nothing"), tmp_path / "back")


def test_a_board_that_cannot_be_reached_is_no_board(ssh: Path) -> None:
    with pytest.raises(NoBoard, match="cannot resolve nowhere"):
        SshBoard("nowhere")


def test_a_tunnel_that_does_not_stand_is_an_error(board: SshBoard) -> None:
    with pytest.raises(BoardError, match=r"no tunnel for port 50461 \(ssh left with 255\)"):
        board.expose(50461)


def test_without_root_it_goes_through_sudo(ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ssh / "id").write_text("#!/bin/sh\necho 1000\n")
    (ssh / "id").chmod(0o755)
    board = SshBoard("pi@pi-1")
    assert shlex.split(board._remote("true")[-1]) == ["sudo", "-n", "true"]
    assert board.run("echo", "yes").stdout == "yes\n"
