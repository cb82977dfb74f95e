"""Boards over real SSH servers: sixteen at once, and those that are down, changed, unknown, or hang."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_ports
from ssh_hosts import Silent, SshHost, inventory_text, ssh_hosts, why_not

pytestmark = [pytest.mark.processes, pytest.mark.skipif(why_not() is not None, reason=why_not() or "")]


def test_sixteen_hosts_are_checked_at_once(lab: Any, testbed: Any) -> None:
    path = lab(16, kinds=("pi4", "coral-dev"))
    code, out, _ = testbed("check", path, "--json")
    shown = json.loads(out)
    assert shown["schema"] == "edgejoule.testbed/1"
    assert len(shown["boards"]) == 16
    for board in shown["boards"].values():
        assert board["ok"], board["error"]
        facts = board["facts"]
        # One machine: clocks agree, as far as the way there lets one say.
        assert abs(facts["clock_ahead_s"]) <= facts["clock_within_s"] + 0.05
        assert int(facts["disk_kb"]) > 0
        assert int(facts["memory_kb"]) > 0
        assert facts["host_key"].startswith("ssh-ed25519 SHA256:")
        assert {finding["name"] for finding in board["findings"]} >= {
            "clock",
            "disk",
            "memory",
            "temperature",
            "version",
        }
    assert code in (0, 3)
    assert code == (3 if shown["unfit"] else 0)


def test_boards_are_chosen_by_kind_and_count(lab: Any, testbed: Any) -> None:
    path = lab(8, kinds=("pi4", "coral-dev"))
    code, out, _ = testbed("run", path, "--on", "pi4*3,board-2", "--json", "--", "echo", "it's me")
    shown = json.loads(out)["boards"]
    assert code == 0
    assert list(shown) == ["board-1", "board-2", "board-3", "board-5"]
    assert {row["stdout"] for row in shown.values()} == {"it's me\n"}


def test_an_unknown_host_key_is_refused_until_a_person_keeps_it(lab: Any, testbed: Any, tmp_path: Path) -> None:
    path = lab(2, trusted=False)
    code, _, err = testbed("run", path, "--", "true")
    assert code == 16
    assert "its host key is not in known_hosts" in err
    # Its name stands in front already.
    assert not re.search(r"(\S+): \1: ", err)
    assert not (tmp_path / "known_hosts").exists()
    # Nobody answers the question here: nothing is kept.
    code, _, err = testbed("trust", path)
    assert (code, "nothing was kept" in err) == (16, True)
    assert not (tmp_path / "known_hosts").exists()
    code, out, _ = testbed("trust", path, "--yes")
    assert (code, out.count("SHA256:")) == (0, 2)
    assert testbed("run", path, "--", "true")[0] == 0


def test_host_keys_are_learnt_where_asked_for_and_said(lab: Any, testbed: Any) -> None:
    path = lab(2, trusted=False)
    code, _, err = testbed("run", path, "--learn-host-keys", "--", "true")
    assert code == 0
    assert err.count("from now on known by ssh-ed25519 SHA256:") == 2


def test_down_changed_hanging_and_good_hosts_each_have_their_cause(
    testbed: Any, tmp_path: Path, many: tuple[list[SshHost], Path]
) -> None:
    hosts, key = many
    (port,) = free_ports(1)
    with Silent() as silent, ssh_hosts(tmp_path, 1) as ((anew,), _):
        down = SshHost("down", tmp_path / "d", "127.0.0.1", port)
        hangs = SshHost("hangs", tmp_path / "h", "127.0.0.1", silent.port)
        changed = SshHost("changed", anew.folder, "127.0.0.1", anew.port)
        path = tmp_path / "lab.toml"
        path.write_text(inventory_text([down, hangs, changed, hosts[0]], key))
        other = (hosts[1].folder / "host_key").read_text()
        import asyncssh

        public = asyncssh.import_private_key(other).export_public_key().decode().strip()
        own = asyncssh.read_private_key(hosts[0].folder / "host_key").export_public_key().decode().strip()
        lines = [f"[127.0.0.1]:{one.port} {public}" for one in (down, hangs, changed)]
        (tmp_path / "known_hosts").write_text("\n".join([*lines, f"[127.0.0.1]:{hosts[0].port} {own}"]) + "\n")
        code, out, err = testbed("run", path, "--json", "--timeout", "1s", "--", "true")
        boards = json.loads(out)["boards"]
        assert {name: board["exit_code"] for name, board in boards.items()} == {
            "down": 5, "hangs": 17, "changed": 7, hosts[0].name: 0,
        }  # fmt: skip
        # Several causes have no code of one of them.
        assert code == 3
        assert "shows another host key" in boards["changed"]["error"]
        assert testbed("run", path, "--on", "down", "--", "true")[0] == 5
        code, _, err = testbed("trust", path, "--on", "changed", "--yes")
        assert (code, "find out why" in err) == (7, True)
        code, _, _ = testbed("trust", path, "--on", "changed", "--replace")
        assert code == 0


def test_a_user_whose_key_is_not_there_is_refused(lab: Any, testbed: Any, tmp_path: Path) -> None:
    import asyncssh

    path = lab(1)
    stranger = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(stranger)
    text = "\n".join(
        f'key = "{stranger}"' if line.startswith("key =") else line for line in path.read_text().split("\n")
    )
    path.write_text(text)
    code, _, err = testbed("run", path, "--", "true")
    assert (code, "does not let" in err, "ssh-copy-id" in err) == (16, True, True)


def test_a_command_that_fails_says_on_which_board(lab: Any, testbed: Any, many: tuple[list[SshHost], Path]) -> None:
    port = many[0][1].port
    code, out, err = testbed(
        "run", lab(3), "--", f'case "$SSH_CONNECTION" in *" {port}") echo gone >&2; exit 7;; esac; echo fine'
    )
    assert code == 3
    assert sorted(out.splitlines()) == ["board-1: fine", "board-2: gone", "board-3: fine"]
    assert "board-2: left with 7: gone" in err


def test_two_people_do_not_collide(lab: Any, testbed: Any) -> None:
    path = lab(6)
    assert testbed("reserve", path, "--on", "board-4", "--as", "ben@desk", "--for", "1h")[0] == 0
    # All or none: what Ada could have had is given back.
    code, out, err = testbed("reserve", path, "--as", "ada@lab", "--for", "1h", "--json")
    shown = json.loads(out)["boards"]
    assert code == 16
    assert "is reserved by ben@desk until" in shown["board-4"]["error"]
    assert all(row["given_back"] for name, row in shown.items() if name != "board-4")
    code, out, _ = testbed("status", path, "--json")
    held = {name: board["reserved"] for name, board in json.loads(out)["boards"].items() if board["reserved"]}
    assert list(held) == ["board-4"]
    assert held["board-4"]["who"] == "ben@desk"
    for words in (("run", path, "--as", "ada@lab", "--", "true"), ("down", path, "--as", "ada@lab")):
        code, _, err = testbed(*words)
        assert (code, "is reserved by ben@desk" in err) == (16, True)
    assert testbed("run", path, "--as", "ben@desk", "--", "true")[0] == 0
    assert testbed("release", path, "--as", "ada@lab", "--on", "board-4")[0] == 16
    assert testbed("release", path, "--as", "ada@lab", "--on", "board-4", "--force")[0] == 0
    assert testbed("reserve", path, "--as", "ada@lab", "--for", "1h")[0] == 0
    assert testbed("release", path, "--as", "ada@lab")[0] == 0


def test_of_many_who_ask_for_a_board_at_once_one_has_it(lab: Any, many: tuple[list[SshHost], Path]) -> None:
    from coordinator.testbed import inventory, reservation
    from coordinator.testbed.host_keys import HostKeys
    from coordinator.testbed.ssh import connect
    from protos.errors import RefusedError

    found = inventory.read(lab(1))
    keys = HostKeys(found.beside(found.known_hosts))
    board = found.boards[0]

    async def ask(session: Any, who: str, until: float) -> str | None:
        try:
            await reservation.reserve(session, who, until)
        except RefusedError:
            return None
        return who

    async def all_of_them() -> list[str | None]:
        async with connect(board, keys, key_file=board.key, timeout_s=20) as session:
            # One that ended long ago lies there: taking it over is the race.
            await ask(session, "old", 1000.0)
            return await asyncio.gather(*(ask(session, f"person-{n}", 4e9) for n in range(8)))

    won = [text for text in asyncio.run(all_of_them()) if text]
    assert len(won) == 1

    async def give_back() -> bool:
        async with connect(board, keys, key_file=board.key, timeout_s=20) as session:
            return await reservation.release(session, won[0])

    assert asyncio.run(give_back())
