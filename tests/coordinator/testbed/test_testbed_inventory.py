"""The inventory: strict, by file, board and key; those of others read; boards chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

import coordinator.cli
from coordinator.testbed.importing import import_inventory
from coordinator.testbed.inventory import Board, as_text, parse, read
from coordinator.testbed.selection import chosen
from protos.errors import ConfigError, UsageError

WHOLE = """
[lab]
name = "kitchen"
coordinator = "192.0.2.7:50461"
known_hosts = "keys"
parallel = 4

[defaults]
user = "pi"
groups = ["shelf"]
settings = { threads = 2 }

[board.pi-1]
host = "192.0.2.11"
kind = "pi4"
bridge = "/dev/serial/by-id/usb-1"
channel = 1
shard = "shards/device-1.npz"
budget_j = 2
settings = { cpu_quota_percent = 150 }

[board."pi-2.lab"]
host = "192.0.2.12"
port = 2222
power = "uhubctl -p {outlet} -a {action}"
outlet = 2
"""


def test_an_inventory_is_read_and_written_alike(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(WHOLE)
    lab = read(path)
    first, second = lab.boards
    assert (first.name, first.user, first.budget_j, first.channel) == ("pi-1", "pi", 2.0, 1)
    assert first.settings == {"threads": 2, "cpu_quota_percent": 150}
    assert (second.name, second.port, second.outlet, second.groups) == ("pi-2.lab", 2222, "2", ("shelf",))
    assert lab.beside("keys") == tmp_path / "keys"
    assert parse(as_text(lab), path) == lab


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[board.a]\nhots = 'x'", "lab.toml: board a: no key 'hots' is known; did you mean 'host'?"),
        ("[bord.a]\nhost = 'x'", "lab.toml: no section [bord] is known; did you mean 'board'?"),
        ("[board.a]\nport = 3", "lab.toml: board a: has no host"),
        ("[board.a]\nhost = 'x'\nport = 99999", "lab.toml: board a: port: 99999 is no whole number from 1 to 65535"),
        ("[board.a]\nhost = '-oProxyCommand=x'", "lab.toml: board a: host: '-oProxyCommand=x' is no host"),
        ("[board.a]\nhost = 'x'\nsudo = 'yes'", "lab.toml: board a: sudo: 'yes' is neither true nor false"),
        ("[board.a]\nhost = 'x'\nbudget_j = 0", "lab.toml: board a: budget_j: 0 is no number of joules above 0"),
        (
            "[board.a]\nhost = 'x'\nsettings = { data = 'y' }",
            "lab.toml: board a: settings.data: is made from other keys",
        ),
        ("[board.a]\nhost = 'x'\npower = 'off'", "lab.toml: board a: power: 'off' does not say {action}"),
        ("[board.a]\nhost = 'x'\nservice = 'docker'", "lab.toml: board a: service: 'docker' is no way to run"),
        ("[board.a]\nhost = 'x'\nchannel = 2", "lab.toml: board a: channel: there is no bridge that has channels"),
        ("[board.a]\nhost = 'x'\n[board.b]\nhost = 'x'", "lab.toml: board b: host: is the same place as board a"),
        ("[board.a]\nhost = 'x'\n[board.A]\nhost = 'y'", "lab.toml: board A: stands in it twice"),
        ("[defaults]\nhost = 'x'", "lab.toml: defaults.host: differs from board to board"),
        ("[lab]\nparallel = 0\n[board.a]\nhost = 'x'", "lab.toml: lab: parallel: 0 is no whole number from 1 to 256"),
        ("[board.a]\nhost = 'x'\nbridge = '/d'\nsensor = 'rapl'", "lab.toml: board a: has a bridge and a sensor"),
        ("[board.'a b']\nhost = 'x'", "lab.toml: board a b: is no name"),
        ("", "lab.toml: names no board"),
        ("x = [", "lab.toml: not TOML"),
    ],
)
def test_a_mistake_is_told_by_file_board_and_key(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, Path("lab.toml"))
    assert said in str(error.value)


def test_boards_are_chosen_in_the_order_of_the_inventory() -> None:
    boards = [
        Board(f"b{n}", host=f"h{n}", kind="pi4" if n < 4 else "coral", groups=("odd",) if n % 2 else ())
        for n in range(6)
    ]

    def names(wanted: str | None) -> list[str]:
        return [board.name for board in chosen(boards, wanted)]

    assert names(None) == names("all") == [f"b{n}" for n in range(6)]
    assert names("pi4*2,coral") == ["b0", "b1", "b4", "b5"]
    # A count takes boards that no term before it has taken.
    assert names("b0,pi4*2") == ["b0", "b1", "b2"]
    assert names("odd, b0") == ["b0", "b1", "b3", "b5"]
    for wanted, said in {
        "pi4*5": "wants 5, and 4 of 'pi4' are left",
        "pi4*3,pi4*2": "wants 2, and 1 of 'pi4' are left",
        "pi5": "did you mean 'pi4'",
        "pi4**2": "no choice of boards",
        "": "no choice of boards",
        "pi4*0": "wants 0",
    }.items():
        with pytest.raises(UsageError, match=said.replace("*", r"\*")):
            names(wanted)


ANSIBLE_YAML = """
all:
  vars: {ansible_user: pi}
  children:
    rpi4:
      hosts:
        pi-[01:03].lab: {}
        pi-9: {ansible_host: 192.0.2.9, ansible_port: 2022, edgejoule_bridge: /dev/ttyUSB0, http_port: 80}
    edge:
      children:
        coral:
          hosts: {tpu: {ansible_host: 192.0.2.20}}
"""
ANSIBLE_INI = """
# a lab
lone ansible_host=192.0.2.1
[rpi4]
pi-[1:2] ansible_user=pi
pi-7 ansible_host=192.0.2.7 ansible_ssh_private_key_file='~/.ssh/my lab'
[rpi4:vars]
ansible_port=2022
[shelf:children]
rpi4
"""
LABGRID = """
targets:
  main:
    resources:
      - NetworkService: {address: 192.0.2.5, username: root}
      - RawSerialPort: {port: /dev/ttyUSB3, speed: 115200}
      - NetworkPowerPort: {model: netio, host: 192.0.2.99, index: 3}
      - USBSDMuxDevice: {match: {x: !template "$X"}}
"""
PLACES = """
pi-a: {tags: {board: rpi4, host: 192.0.2.31, rack: r1}, matches: []}
pi-b: {tags: {}, acquired: null}
"""
COLEXT = """
colext: {flower: 1}
clients:
  - {dev_type: JetsonOrinNano, count: 1}
  - {dev_type: RaspberryPi4, count: 2, add_args: "--x 1"}
"""


def test_ansible_inventories_become_ours(tmp_path: Path) -> None:
    source, target = tmp_path / "hosts.yaml", tmp_path / "lab.toml"
    source.write_text(ANSIBLE_YAML)
    found = import_inventory(source, target)
    by_name = {board.name: board for board in found.inventory.boards}
    assert list(by_name) == ["pi-01.lab", "pi-02.lab", "pi-03.lab", "pi-9", "tpu"]
    assert (by_name["pi-9"].host, by_name["pi-9"].port, by_name["pi-9"].bridge) == ("192.0.2.9", 2022, "/dev/ttyUSB0")
    assert {board.user for board in by_name.values()} == {"pi"}
    assert (by_name["tpu"].groups, by_name["tpu"].kind, by_name["pi-9"].kind) == (("edge", "coral"), "coral-dev", "pi4")
    assert found.remarks == ["http_port has no place in it: pi-9"]
    source = tmp_path / "hosts.ini"
    source.write_text(ANSIBLE_INI)
    by_name = {board.name: board for board in import_inventory(source, target).inventory.boards}
    assert list(by_name) == ["lone", "pi-1", "pi-2", "pi-7"]
    assert (by_name["pi-7"].key, by_name["pi-7"].port, by_name["lone"].port) == ("~/.ssh/my lab", 2022, 22)
    assert by_name["pi-1"].groups == ("shelf", "rpi4")


def test_labgrid_and_colext_become_ours(tmp_path: Path) -> None:
    source, target = tmp_path / "env.yaml", tmp_path / "lab.toml"
    source.write_text(LABGRID)
    found = import_inventory(source, target)
    (board,) = found.inventory.boards
    assert (board.name, board.host, board.user, board.bridge) == ("main", "192.0.2.5", "root", "/dev/ttyUSB3")
    assert board.place == "main"
    assert found.remarks == ["USBSDMuxDevice has no place in it: main"]
    source.write_text(PLACES)
    first, second = import_inventory(source, target).inventory.boards
    assert (first.host, first.kind, first.place, first.groups) == ("192.0.2.31", "pi4", "pi-a", ("rack-r1",))
    assert second.host == "pi-b"
    source.write_text(COLEXT)
    with pytest.raises(ConfigError, match="give --hosts FILE"):
        import_inventory(source, target)
    hosts = tmp_path / "hosts"
    hosts.write_text("jon.lab JetsonOrinNano\nrpi-1.lab RaspberryPi4\nrpi-2.lab RaspberryPi4 # second\n")
    boards = import_inventory(source, target, hosts=hosts).inventory.boards
    assert [(each_board.name, each_board.kind) for each_board in boards] == [
        ("jon", "JetsonOrinNano"),
        ("rpi-1", "pi4"),
        ("rpi-2", "pi4"),
    ]
    source.write_text(COLEXT.replace("count: 2", "count: 3"))
    with pytest.raises(ConfigError, match="wants 3 of RaspberryPi4"):
        import_inventory(source, target, hosts=hosts)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "all: [1, 2]"), ("a.yaml", "all: {hosts: {'pi-[1:99999]': {}}}"), ("a.yaml", "a: b: c: ["),
        ("a.yaml", "all: {hosts: {x: {ansible_port: much}}}"), ("a.ini", "[a:children]\nb\n[b:children]\na\n[a]\nx"),
        ("a.yaml", "all: {hosts: {'-oProxyCommand=x': {}}}"), ("a.yaml", ""), ("a.ini", "[x\n"),
        ("a.yaml", "targets: {a: {resources: {NetworkService: {address: '$(x)'}}}}"),
        ("a.yaml", "a: &a {hosts: {b: *a}}"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_one_error(name: str, text: str, tmp_path: Path) -> None:
    source = tmp_path / name
    source.write_text(text)
    with pytest.raises(ConfigError):
        import_inventory(source, tmp_path / "lab.toml")


def test_the_command_makes_an_inventory_and_overwrites_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "lab.toml"
    words = ["testbed", "init", str(target), "--host", "pi@pi-1.lab", "--host", "192.0.2.9"]
    assert coordinator.cli.main(words) == 0
    assert [(board.name, board.user) for board in read(target).boards] == [("pi-1", "pi"), ("board-2", "pi")]
    assert (read(target).coordinator, read(target).coordinator_state) == ("", "")
    assert coordinator.cli.main(words) == 2
    words[2] = str(tmp_path / "told.toml")
    assert coordinator.cli.main([*words, "--coordinator", "192.0.2.7:50461", "--coordinator-state", "state"]) == 0
    told = read(tmp_path / "told.toml")
    assert (told.coordinator, told.coordinator_state) == ("192.0.2.7:50461", "state")
    source = tmp_path / "hosts.yaml"
    source.write_text(ANSIBLE_YAML)
    assert coordinator.cli.main(["testbed", "import", str(source), "-o", str(target)]) == 2
    assert coordinator.cli.main(["testbed", "import", str(source), "-o", str(tmp_path / "new.toml")]) == 0
    assert len(read(tmp_path / "new.toml").boards) == 5
    assert "left out: http_port" in capsys.readouterr().err


def test_power_goes_through_a_command_without_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, log = tmp_path / "lab.toml", tmp_path / "log"
    switch = tmp_path / "switch"
    switch.write_text(f'#!/bin/sh\necho "$@" >> {log}\n[ "$1" != pi-2 ] || {{ echo no such outlet; exit 4; }}\n')
    switch.chmod(0o755)
    path.write_text(
        "[board.pi-1]\nhost = '127.0.0.1'\nport = 1\noutlet = 7\n"
        f"power = '{switch} {{board}} {{outlet}} {{action}} ;x'\n"
        f"[board.pi-2]\nhost = '127.0.0.1'\nport = 2\npower = '{switch} {{board}} {{action}}'\n"
        "[board.pi-3]\nhost = '127.0.0.1'\nport = 3\nplace = 'bench'\n"
    )
    words = ["testbed", "power", "cycle", str(path), "--on"]
    assert coordinator.cli.main([*words, "pi-1", "--rest", "1ms"]) == 0
    assert log.read_text().splitlines() == ["pi-1 7 off ;x", "pi-1 7 on ;x"]
    assert coordinator.cli.main([*words, "pi-2"]) == 3
    assert "no such outlet" in capsys.readouterr().err
    assert coordinator.cli.main([*words, "pi-3", "--dry-run"]) == 0
    assert capsys.readouterr().out == "pi-3: labgrid-client -p bench power cycle\n"
