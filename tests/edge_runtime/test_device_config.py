"""Settings: precedence, words for mistakes, and where each value came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.cli import main
from edge_runtime.config import OPTIONS, misspelt, resolve
from protos.errors import ConfigError

GOOD: dict[str, tuple[str, str, str]] = {
    "coordinator": ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"),
    "device_id": ("a", "b", "c"),
    "data": ("/a.npz", "/b.npz", "/c.npz"),
    "shard": ("1/3", "2/3", "3/3"),
    "rename": ("a=b", "a=b,c=d", "katze=cat"),
    "bad_examples_percent": ("0", "5.5", "100"),
    "sensor": ("estimate:pi4", "estimate:pi5", "serial:/dev/x"),
    "state": ("/a", "/b", "/c"),
    "bundle": ("/a", "/b", "/c"),
    "board": ("a", "b", "c"),
    "threads": ("1", "2", "3"),
    "pid_file": ("/a", "/b", "/c"),
    "log_level": ("debug", "warning", "error"),
    "wait_for_coordinator_s": ("1", "2.5", "3"),
    "max_rounds": ("1", "2", "3"),
    "exit_when_idle_s": ("1", "2", "3"),
    "budget_j": ("1.5", "2", "3"),
    "cpu_quota_percent": ("50", "100", "400"),
    "memory_max_mb": ("64", "256", "512"),
    "watchdog_s": ("30", "60.5", "300"),
    "require_delegate": ("xnnpack", "builtin", "edgetpu"),
    "edgetpu": ("auto", "off", "require"),
    "edgetpu_library": ("libedgetpu.so.2", "/a/libedgetpu.so", "b.so"),
    "edgetpu_device": ("usb", "pci:1", ":2"),
    "pause_above_c": ("70", "75.5", "85"),
    "resume_below_c": ("60", "61", "62.5"),
    "pause_when_busy": ("30", "50", "75.5"),
    "max_pause_s": ("1", "60", "600"),
    "throttled_from": ("kernel", "vcgencmd", "none"),
    "machine_root": ("/a", "/b", "/c"),
    "adopt": ("better", "always", "never"),
    "personal_head": ("off", "on", "off"),
    "head_bits": ("2", "16", "32"),
    "class_weights": ("none", "balanced", "none"),
    "model_socket": ("/a", "off", "/c"),
    "metrics_file": ("/a", "/b", "/c"),
    "model_http": ("8080", "1", "65535"),
}


def test_every_setting_has_an_example_here() -> None:
    assert set(GOOD) == {option.key for option in OPTIONS}


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.tuples(st.booleans(), st.booleans(), st.booleans())))
def test_flags_win_over_variables_and_variables_over_the_file(
    tmp_path_factory: pytest.TempPathFactory, given: dict[str, tuple[bool, bool, bool]]
) -> None:
    if "budget_j" in given:
        given = {**given, "sensor": (True, True, True)}
    by_key = {option.key: option for option in OPTIONS}
    flags = {key: GOOD[key][0] for key, (flag, _, _) in given.items() if flag}
    environ = {by_key[key].variable: GOOD[key][1] for key, (_, variable, _) in given.items() if variable}
    in_file = {key: GOOD[key][2] for key, (_, _, file) in given.items() if file}
    path = tmp_path_factory.mktemp("config") / "device.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in in_file.items()))
    resolved = resolve(flags, environ, path)
    for key, option in by_key.items():
        value = getattr(resolved.settings, key)
        if key in flags:
            expected, origin = flags[key], option.flag
        elif option.variable in environ:
            expected, origin = environ[option.variable], option.variable
        elif key in in_file:
            expected, origin = in_file[key], str(path)
        else:
            assert resolved.origins[key] == "default"
            continue
        assert resolved.origins[key] == origin
        assert str(value) == str(option.read(expected))


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("devise_id = 'x'", ("devise_id", "device_id")),
        ("budget = 3", ("budget_j",)),
        ("threads = 0", ("threads", "from 1")),
        ("threads = 1.5", ("whole",)),
        ("threads = true", ("not a whole number from 1 to 64",)),
        ("device_id = 'a b'", ("device_id",)),
        ("log_level = 'loud'", ("debug, info",)),
        ("edgetpu = 'on'", ("edgetpu", "auto, off, require")),
        ("edgetpu_device = 'usb:x'", ("edgetpu_device", "usb, pci")),
        ("budget_j = -1", ("budget_j",)),
        ("budget_j = nan", ("budget_j",)),
        ("budget_j = 3", ("without a sensor", "--sensor")),
        ("not toml", ("is not TOML",)),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_the_file(
    tmp_path: Path, text: str, needles: tuple[str, ...]
) -> None:
    path = tmp_path / "device.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve({}, {}, path)
    assert "\n" not in str(caught.value)
    for needle in (*needles, str(path)):
        assert needle in str(caught.value)


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match="--config"):
        resolve({}, {}, Path("/nowhere/device.toml"))


def test_a_path_in_the_file_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text("data = 'own.npz'\nstate = '/var/lib/x'\n")
    found = resolve({}, {}, path).settings
    assert found.data == str(tmp_path / "own.npz")
    assert found.state == Path("/var/lib/x")
    assert resolve({"data": "own.npz"}, {}, path).settings.data == "own.npz"


def test_systemd_names_the_state_folder() -> None:
    assert resolve({}, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, None).settings.state == Path("/var/lib/a")


def test_a_variable_that_is_nearly_a_setting_is_pointed_out() -> None:
    assert misspelt({"EDGEJOULE_DEVICEID": "x", "EDGEJOULE_SOMETHING_ELSE": "1", "EDGEJOULE_SHARD": "1"}) == [
        "EDGEJOULE_DEVICEID is no setting; did you mean EDGEJOULE_DEVICE_ID?"
    ]


def test_show_config_prints_each_value_with_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEJOULE_SHARD", "2/4")
    assert main(["run", "--show-config", "--device-id", "pi-9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'device_id = "pi-9"  # --device-id' in lines
    assert 'shard = "2/4"  # EDGEJOULE_SHARD' in lines
    assert "threads = 1  # default" in lines
    assert main(["run", "--show-config", "--json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["shard"] == {"value": "2/4", "origin": "EDGEJOULE_SHARD"}


def test_what_show_config_prints_is_a_good_file(tmp_path: Path) -> None:
    first = resolve({"data": "/d.npz", "budget_j": "2", "sensor": "estimate:pi4"}, {}, None)
    path = tmp_path / "again.toml"
    path.write_text("\n".join(first.lines()))
    assert resolve({}, {}, path).settings == first.settings


def test_help_has_an_example_for_every_command() -> None:
    for command in ([], ["run"], ["doctor"]):
        shown = subprocess.run(
            [sys.executable, "-m", "edge_runtime.cli", *command, "--help"], capture_output=True, text=True, check=True
        )
        assert "example:" in shown.stdout
