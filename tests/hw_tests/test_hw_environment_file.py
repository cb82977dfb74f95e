"""Environment files: ours are good, and every mistake in one is a line that says what, where, and the nearest name."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from hw_tests.bench import bench_factory
from hw_tests.bench.bench_factory import chosen_environment
from hw_tests.environment.environment import SIMULATED, read_environment
from protos.errors import ConfigError, UsageError

EXAMPLE = SIMULATED.with_name("bench.example.yaml")


def test_the_simulated_bench_and_the_example_are_read():
    simulated, example = read_environment(SIMULATED), read_environment(EXAMPLE)
    assert simulated.simulated
    assert simulated.port is None
    assert not example.simulated
    assert example.port.startswith("/dev/serial/by-id/")
    assert example.host == "root@pi-1.local"
    assert example.tolerance("constant_relative") == 0.01
    assert example.section("power")["on"] == "uhubctl -l 1-1 -p 2 -a on", "on is a name here, not True"
    assert example.section("durations")["soak_s"] == 3600.0, "a default"


@pytest.mark.parametrize(
    ("old", "new", "said", "fix"),
    [
        ("bench: bench-1", "bensh: bench-1", "no key is called 'bensh'", "'bench'"),
        ("  version: 1\n", "", "lacks 'version'", "of these keys"),
        ("version: 1", "version: 2", "2 is not a whole number from 1 to 1", "correct"),
        ("bench: bench-1", "bench: a/b", "'a/b' is no name", "letters"),
        ("x-edgejoule:", "x-edgejuole:", "no key is called 'x-edgejuole'", "'x-edgejoule'"),
        ("known-load,", "known-lode,", "no feature is called 'known-lode'", "'known-load'"),
        ("known-load,", "known-load, flash, overload,", "lacks overload_w", "take overload off"),
        ("known-load,", "known-load, programmable-load,", "cannot alternate", "programmable-load"),
        ("speed: 500000", "speed: 115200", "115200 is not the bridge's speed", "500000"),
        ("/dev/ttyBENCH", "ttyBENCH", "'ttyBENCH' is no path of a port", "by-id"),
        ("RawSerialPort", "RawSerialPart", "has no RawSerialPort", "add RawSerialPort"),
        ("{kind: fixed}", "{kind: fix}", "'fix' is not one of them", "'fixed'"),
        ("{kind: fixed}", "{kind: simulated}", "does not go with this bench", "simulated"),
        ("{kind: fixed}", "{kind: command}", "lacks constant or steps_w", "give both"),
        ("{kind: fixed}", "{kind: manual}", "lacks steps_w", "powers"),
        ("power_w: 2.5", "power_w: lots", "'lots' is not a number from 0 to 1000", "correct"),
        ("power_w: 2.5", "power_w: 2e-1", "'2e-1' is not a number", "write 1.0e-3"),
        ("    off: true off\n", "", "lacks 'off'", "switches it off"),
        ("off_s: 0.1", "on: again", "'on' stands twice, first in line", "remove one"),
        ("    lost_batches: 0\n", "", "lacks tolerances.lost_batches", "batches that never came"),
        ("lost_batches: 0", "lost_batches: -1", "-1 is not a number of 0 or more", "correct"),
        ("recovery_s: 30", "recovery_z: 30", "no key is called 'recovery_z'", "'recovery_s'"),
        ("{phase_s: 0.5}", "[0.5]", "is no mapping", "keys and values"),
        ("bridge: {shunt_ohm: 0.02}", "bridge: {sensor: true}", "True is not a whole number from 0 to 3", "correct"),
        ("targets:", "targets: [", "is no YAML", "correct"),
    ],
)
def test_every_mistake_is_one_line(environment_file, old, new, said, fix):
    path = environment_file((old, new))
    with pytest.raises(ConfigError) as error:
        read_environment(path)
    assert said in error.value.what
    assert str(path) in error.value.where
    assert fix in error.value.fix
    assert "\n" not in str(error.value)


def test_a_listed_feature_must_be_described(environment_file):
    text = environment_file().read_text()
    path = environment_file()
    path.write_text(text.replace("  power:\n    on: true on\n    off: true off\n    off_s: 0.1\n    ready_s: 5\n", ""))
    with pytest.raises(ConfigError, match="lacks 'power', which the feature power-switch needs"):
        read_environment(path)


def test_a_file_of_labgrid_alone_is_told_what_it_lacks(tmp_path):
    path = tmp_path / "lab.yaml"
    path.write_text("targets: {main: {resources: {}}}\n")
    with pytest.raises(ConfigError, match="has no x-edgejoule"):
        read_environment(path)


def test_what_labgrid_allows_is_allowed(environment_file, monkeypatch):
    """Lists of resources, its template tag, its other keys, features of others, merged anchors."""
    text = environment_file(features="ina219-bridge, video, 'another-lab-thing'").read_text()
    listed = '    resources:\n      - RawSerialPort:\n          port: !template "$LG_PORT"\n          name: bridge\n'
    path = environment_file()
    text = text.replace(
        '    resources:\n      RawSerialPort: {port: "/dev/ttyBENCH", speed: 500000}\n',
        listed + "      - NetworkService: {address: 10.0.0.7, username: pi}\n",
    )
    text = text.replace("targets:", 'options: {coordinator_address: "lab:20408"}\ntargets:', 1)
    text = text.replace("durations: {phase_s: 0.5}", "durations: {<<: {phase_s: 0.5}, stream_s: 3}")
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"\$LG_PORT, which is not set"):
        read_environment(path)
    monkeypatch.setenv("LG_PORT", "/dev/ttyLAB")
    environment = read_environment(path)
    assert environment.port == "/dev/ttyLAB"
    assert environment.host == "pi@10.0.0.7"
    assert "video" in environment.features
    assert (environment.section("durations")["phase_s"], environment.section("durations")["stream_s"]) == (0.5, 3.0)


def test_the_option_wins_over_variables_and_two_benches_are_refused(environment_file, tmp_path):
    named = str(environment_file())
    other = tmp_path / "other.yaml"
    other.write_text(Path(named).read_text().replace("bench-1", "bench-2"))
    variables = {"HW_ENV": str(other), "LG_ENV": "nowhere.yaml"}
    assert chosen_environment(None, simulated=False, variables={}) is None
    assert chosen_environment(named, simulated=False, variables=variables).name == "bench-1"
    assert chosen_environment(None, simulated=False, variables=variables).name == "bench-2"
    assert chosen_environment(None, simulated=False, variables={"LG_ENV": named}).name == "bench-1"
    assert chosen_environment(None, simulated=True, variables=variables).name == "sim"
    with pytest.raises(UsageError, match="two benches"):
        chosen_environment(named, simulated=True, variables={})
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        chosen_environment(None, simulated=False, variables={"LG_ENV": "nowhere.yaml"})


def test_a_computer_that_cannot_simulate_says_what_to_install(monkeypatch, environment_file):
    monkeypatch.setattr(bench_factory, "missing", lambda: "libsimavr is not installed")
    said = bench_factory.unavailable(read_environment(SIMULATED))
    assert said.startswith("the simulated bench needs more here: libsimavr is not installed: apt-get install")
    assert bench_factory.unavailable(read_environment(environment_file())) is None, "a real bench needs none of that"


def test_what_a_simulated_bench_has_by_itself_is_not_described(tmp_path):
    path = tmp_path / "sim.yaml"
    path.write_text(SIMULATED.read_text() + textwrap.indent("power: {on: a, off: b}\n", "  "))
    with pytest.raises(ConfigError, match="has its own power"):
        read_environment(path)
