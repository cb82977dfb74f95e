"""Devices and runs at a real broker: retained, withdrawn when we are gone, found by Home Assistant, joules that only
grow."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from played_run import SENSORS, played, soon

from coordinator import cli
from coordinator.live.telemetry import Telemetry, topic_name
from coordinator.operator.client import Operator
from coordinator.operator.status import DeviceStatus

mqtt = pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt: the extra mqtt")
MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
real = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: apt install mosquitto")
Fleet = Callable[..., Any]


class Broker:
    """A real broker on a free port of loopback, whose state is lost when it is started again."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        allowed = [] if any(line.startswith("password_file") for line in lines) else ["allow_anonymous true"]
        self.config.write_text("\n".join([f"listener {self.port} 127.0.0.1", "persistence false", *allowed, *lines]))
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        # As root it would become another user, who cannot read what a test wrote.
        command = [MOSQUITTO, "-c", str(self.config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        soon(self._listens, "the broker")

    def _listens(self) -> bool:
        assert self.process.poll() is None
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.stop()


@contextmanager
def listening(broker: Broker, **account: str) -> Iterator[dict[str, str]]:
    """All that the broker has, by topic, as it comes."""
    found: dict[str, str] = {}
    there: queue.Queue[bool] = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)

    def came(_client: Any, _data: Any, message: Any) -> None:
        found[message.topic] = message.payload.decode()

    def connected(*_: Any) -> None:
        client.subscribe("#", 1)
        there.put(True)

    client.on_connect, client.on_message = connected, came
    if account:
        client.username_pw_set(account["username"], account["password"])
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    there.get(timeout=30)
    try:
        yield found
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def publishing(address: str, broker: Broker, *options: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """The real command."""
    command = [sys.executable, "-m", "coordinator.cli", "mqtt", f"127.0.0.1:{broker.port}", "--coordinator", address]
    place = {**os.environ, **environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        [*command, "--every", "200ms", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=place
    )
    try:
        assert process.stdout is not None
        assert "publishing to" in process.stdout.readline(), process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.communicate()


def came(found: dict[str, str], topic: str) -> str:
    """What a topic holds, as soon as it does."""
    return str(soon(lambda: found.get(topic), topic))


@real
@pytest.mark.processes
def test_home_assistant_finds_devices_and_sees_joules_as_watt_hours_and_who_is_gone(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, broker: Broker
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path)
    with Operator(address) as operator:
        told = {device.device_id: device for device in operator.devices()}
    with listening(broker) as found:
        with publishing(address, broker, "--home-assistant") as process:
            soon(lambda: found.get("edgejoule/status") == "online", "the status")
            for device_id in SENSORS:
                topic = f"homeassistant/sensor/edgejoule_{topic_name(device_id)}/energy/config"
                config = json.loads(came(found, topic))
                assert (config["device_class"], config["state_class"]) == ("energy", "total_increasing")
                assert config["unit_of_measurement"] == "Wh"
                assert config["availability_topic"] == "edgejoule/status"
                assert config["device"]["name"] == device_id
                state = json.loads(came(found, config["state_topic"]))
                assert config["value_template"] == "{{ value_json.energy_wh }}"
                assert state["energy_wh"] == pytest.approx((told[device_id].energy_j or 0) / 3600, rel=1e-6)
            assert json.loads(found["edgejoule/device/pi-c/state"])["energy_wh"] is None, "unknown is no zero"
            assert json.loads(found["edgejoule/run/state"])["run"] == run_id
            ids = [json.loads(text)["unique_id"] for topic, text in found.items() if topic.endswith("/config")]
            assert len(ids) == len(set(ids)) == 3 * 3 + 3
            # The broker itself says that we are gone.
            process.send_signal(signal.SIGKILL)
            soon(lambda: found["edgejoule/status"] == "offline", "the last will")
        with publishing(address, broker) as process:
            soon(lambda: found["edgejoule/status"] == "online", "the status")
            process.send_signal(signal.SIGTERM)
            soon(lambda: found["edgejoule/status"] == "offline", "a goodbye")
            assert process.wait(30) == 0


@real
@pytest.mark.processes
def test_a_broker_that_lost_everything_gets_all_of_it_again(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, broker: Broker
) -> None:
    fleet(address, "a").join()
    with publishing(address, broker):
        broker.stop()
        broker.start()
        with listening(broker) as found:
            soon(lambda: "edgejoule/device/a/state" in found and found.get("edgejoule/status") == "online", "it again")
            with Operator(address) as operator:
                device = fleet(address, "b")
                device.join()
                soon(lambda: "edgejoule/device/b/state" in found, "a new device")
                assert json.loads(found["edgejoule/device/b/state"])["state"] == "present"
                device.leave()
                soon(lambda: json.loads(found["edgejoule/device/b/state"])["state"] == "left", "that it left")
                operator.forget_device("b")
                soon(lambda: found["edgejoule/device/b/state"] == "", "that it is forgotten")


@real
@pytest.mark.processes
def test_what_is_published_does_not_come_back_after_the_broker_was_away(address: str, tmp_path: Path) -> None:
    log = tmp_path / "subscriptions"
    lines = [f"log_dest file {log}", "log_type subscribe", "log_type unsubscribe"]
    broker = Broker(tmp_path, *lines, *(["user root"] if os.getuid() == 0 else []))
    try:
        with publishing(address, broker):
            assert "edgejoule/device/+/state" in log.read_text(), "of an earlier process"
            broker.stop()
            log.unlink()
            broker.start()
            with listening(broker) as found:
                soon(lambda: found.get("edgejoule/status") == "online", "it again")
            assert "edgejoule/device" not in log.read_text()
    finally:
        broker.stop()


@real
@pytest.mark.processes
def test_a_coordinator_that_is_away_is_told_as_offline(
    tools: Any, fleet: Fleet, tmp_path: Path, broker: Broker
) -> None:
    with listening(broker) as found:
        with tools.served(tmp_path / "one") as address:
            publisher = publishing(address, broker)
            process = publisher.__enter__()
            soon(lambda: found.get("edgejoule/status") == "online", "the status")
        try:
            soon(lambda: found.get("edgejoule/status") == "offline", "that it ended")
            assert process.poll() is None, "it waits for the coordinator"
        finally:
            publisher.__exit__(None, None, None)


@real
def test_who_may_not_publish_is_told_and_a_password_is_kept_off_plain_networks(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("lab:secret\n")
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("needs mosquitto_passwd: apt install mosquitto")
    subprocess.run([tool, "-U", str(passwords)], check=True, capture_output=True)
    passwords.chmod(0o644)
    broker = Broker(tmp_path, f"password_file {passwords}", *(["user root"] if os.getuid() == 0 else []))
    try:
        where = f"127.0.0.1:{broker.port}"
        assert cli.main(["mqtt", where, "--coordinator", address]) == 2
        assert "the broker refuses: " in (said := capsys.readouterr().err)
        assert "--username and --password-file" in said
        with (
            listening(broker, username="lab", password="secret") as found,
            publishing(address, broker, "--username", "lab", EDGEJOULE_MQTT_PASSWORD="secret"),
        ):
            soon(lambda: found.get("edgejoule/status") == "online", "the status")
    finally:
        broker.stop()
    monkeypatch.setenv("EDGEJOULE_MQTT_PASSWORD", "secret")
    assert cli.main(["mqtt", "192.0.2.1:1883", "--username", "lab", "--coordinator", address]) == 2
    assert "readable on the way; add --tls" in capsys.readouterr().err
    monkeypatch.delenv("EDGEJOULE_MQTT_PASSWORD")
    assert cli.main(["mqtt", where, "--coordinator", address]) == 5
    assert "no broker answers" in capsys.readouterr().err
    assert cli.main(["mqtt", where, "--topic", "a/+", "--coordinator", address]) == 2


DEVICE = DeviceStatus(
    device_id="pi/1",
    state="present",
    board="pi4",
    engine=None,  # type: ignore[arg-type]
    meter=None,  # type: ignore[arg-type]
    software_version="1",
    train_examples=3,
    test_examples=0,
    last_seen_unix_s=0.0,
    energy_j=3600.0,
    unknown_phases=0,
    budget_j=None,
    reason="",
)


def test_energy_never_becomes_less_when_runs_are_pruned_also_over_a_restart() -> None:
    one = Telemetry("edgejoule", None, "1")
    (topic,) = one.changes([], [DEVICE])
    assert topic == f"edgejoule/device/{topic_name('pi/1')}/state"

    def told(telemetry: Telemetry, energy_j: float | None) -> float:
        telemetry.changes([], [replace(DEVICE, energy_j=energy_j)])
        return float(json.loads(telemetry._held[topic])["energy_wh"])

    assert told(one, 7200.0) == 2.0
    assert told(one, 1800.0) == 2.0, "pruned"
    assert told(one, 5400.0) == 3.0, "spent since"
    assert told(one, None) == 3.0, "all is pruned"
    silent = Telemetry("edgejoule", None, "1")
    silent.take_up(topic, one._held[topic].encode())
    assert told(one, 3600.0) == 4.0, "all of it was spent since"
    assert told(silent, None) == 3.0, "a restart in between takes nothing back"
    assert told(silent, 3600.0) == 4.0
    kept = one._held[topic]
    assert one.changes([], [replace(DEVICE, energy_j=3600.0)]) == {}, "nothing new is nothing to say"
    after = Telemetry("edgejoule", None, "1")
    after.take_up(topic, kept.encode())
    after.take_up("edgejoule/device/other/state", b"not JSON")
    assert told(after, 7200.0) == 5.0


def test_names_of_devices_cannot_reach_other_topics_and_differ_where_devices_do() -> None:
    names = [topic_name(device_id) for device_id in ("a/b", "a_b", "a+b", "#", "$SYS", "é", "x" * 200)]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") for name in names)
