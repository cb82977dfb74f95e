"""A fleet as messages of MQTT, retained, and as Home Assistant finds it by itself.

| Topic | What is said |
|---|---|
| ``PREFIX/status`` | "online" while the coordinator is heard, else "offline"; the broker says so when we go |
| ``PREFIX/device/NAME/state`` | JSON of a device |
| ``PREFIX/run/state`` | JSON of the newest run, or the one that is on |
| ``homeassistant/.../config`` | discovery: one sensor each, by names and units of Home Assistant's MQTT integration |

Energy only grows, as ``total_increasing`` asks: what a coordinator forgets with the runs that it prunes makes its own
sum smaller, and that is no joule given back. 1 Wh = 3600 J.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from coordinator.operator.status import DeviceStatus, RunStatus

__all__ = ["Telemetry", "topic_name"]

J_PER_WH = 3600.0
ONLINE, OFFLINE = "online", "offline"
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
# Figures of a device and of a run, as Home Assistant is told of them: kind of entity, key, and what stands in its
# configuration.
_OF_DEVICE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "sensor",
        "energy",
        {
            "name": "Energy",
            "device_class": "energy",
            "state_class": "total_increasing",
            "unit_of_measurement": "Wh",
            "suggested_display_precision": 3,
            "value_template": "{{ value_json.energy_wh }}",
        },
    ),
    (
        "binary_sensor",
        "present",
        {
            "name": "Present",
            "device_class": "connectivity",
            "payload_on": "present",
            "payload_off": "away",
            "value_template": "{{ 'present' if value_json.state == 'present' else 'away' }}",
        },
    ),
    (
        "sensor",
        "last_seen",
        {"name": "Last seen", "device_class": "timestamp", "value_template": "{{ value_json.last_seen }}"},
    ),
)
_OF_RUN: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("sensor", "run", {"name": "Run", "value_template": "{{ value_json.name }} {{ value_json.state }}"}),
    ("sensor", "round", {"name": "Round", "state_class": "measurement", "value_template": "{{ value_json.round }}"}),
    (
        "sensor",
        "score",
        {"name": "Score", "state_class": "measurement", "value_template": "{{ value_json.score }}"},
    ),
)


def topic_name(device_id: str) -> str:
    """A device's name as a level of a topic and an id of Home Assistant: letters, digits, "_" and "-", never that of
    another device.

    >>> topic_name("pi-4"), topic_name("pi/+#")
    ('pi-4', 'pi____85aff8')
    """
    if _PLAIN.match(device_id):
        return device_id
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", device_id)[:50]
    return f"{plain}_{hashlib.sha256(device_id.encode()).hexdigest()[:6]}"


class Telemetry:
    """What is to be published, and what of it the broker holds already.

    Args:
        prefix: first level, or levels, of our topics.
        home_assistant: first level of discovery, or None for none.
        version: of this software.
    """

    def __init__(self, prefix: str, home_assistant: str | None, version: str) -> None:
        self._prefix, self._discovery, self._version = prefix, home_assistant, version
        self._held: dict[str, str] = {}
        # By device: joules that were told so far, and what the coordinator said then.
        self._told_j: dict[str, float] = {}
        self._said_j: dict[str, float] = {}

    @property
    def status_topic(self) -> str:
        """Where it is said whether the rest is of now."""
        return f"{self._prefix}/status"

    @property
    def states(self) -> str:
        """The topics of devices, with a wildcard."""
        return f"{self._prefix}/device/+/state"

    def take_up(self, topic: str, payload: bytes) -> None:
        """A state that the broker kept of an earlier process: its energy goes on from there."""
        name = topic.split("/")[-2]
        try:
            kept = json.loads(payload)
            # A coordinator that had pruned all that it knew said nothing, and what was told before stands.
            told_j, said_j = float(kept["energy_wh"]) * J_PER_WH, float(kept["energy_j"] or 0.0)
        except (ValueError, TypeError, KeyError):
            return
        self._told_j.setdefault(name, told_j)
        self._said_j.setdefault(name, said_j)
        self._held.setdefault(topic, payload.decode())

    def forget_held(self) -> None:
        """The broker may have lost everything: all is published again."""
        self._held = dict.fromkeys(self._held, "")

    def changes(self, runs: Iterable[RunStatus], devices: Iterable[DeviceStatus]) -> dict[str, str]:
        """Topics and payloads that differ from what the broker holds; an empty payload takes a topic away."""
        made: dict[str, str] = {}
        for device in devices:
            made |= self._device(device)
        made |= self._run(list(runs))
        gone = {topic: "" for topic in self._held if topic not in made}
        changed = {topic: payload for topic, payload in made.items() if self._held.get(topic) != payload} | gone
        self._held = made
        return changed

    def _device(self, device: DeviceStatus) -> dict[str, str]:
        name = topic_name(device.device_id)
        topic = f"{self._prefix}/device/{name}/state"
        energy_j = self._energy_j(name, device.energy_j)
        state = {
            "device": device.device_id,
            "state": device.state,
            "energy_wh": None if energy_j is None else round(energy_j / J_PER_WH, 9),
            "energy_j": device.energy_j,
            "unknown_phases": device.unknown_phases,
            "examples": device.train_examples,
            "last_seen": datetime.fromtimestamp(device.last_seen_unix_s, UTC).isoformat(timespec="seconds"),
            "reason": device.reason,
        }
        made = {topic: json.dumps(state)}
        if self._discovery is None:
            return made
        about = {
            "identifiers": [f"edgejoule_{name}"],
            "name": device.device_id,
            "manufacturer": "edgejoule",
            "model": device.board or "board unknown",
            "sw_version": device.software_version,
        }
        return made | self._found(_OF_DEVICE, name, topic, about)

    def _energy_j(self, name: str, said_j: float | None) -> float | None:
        """Joules that never become fewer: the sum of what was added since each look before."""
        before = self._said_j.get(name)
        if said_j is None:
            # It knows of no joule any more: all that it says next was added since.
            if before is not None:
                self._said_j[name] = 0.0
            return self._told_j.get(name)
        told = self._told_j.get(name, 0.0)
        self._told_j[name] = said_j if before is None else told + max(0.0, said_j - before)
        self._said_j[name] = said_j
        return self._told_j[name]

    def _run(self, runs: list[RunStatus]) -> dict[str, str]:
        on = [each_run for each_run in runs if each_run.state == "running"] or [
            each_run for each_run in runs if each_run.state != "scheduled"
        ]
        if not on:
            return {}
        run, topic = on[-1], f"{self._prefix}/run/state"
        newest = run.rounds[-1] if run.rounds else None
        state = {
            "run": run.run_id,
            "name": run.name,
            "state": run.state,
            "round": 0 if newest is None else newest.round,
            "rounds": run.rounds_planned,
            "measure": None if newest is None else newest.measure,
            "score": None if newest is None else newest.score,
            "loss": None if newest is None else newest.loss,
        }
        made = {topic: json.dumps(state)}
        if self._discovery is None:
            return made
        about = {"identifiers": ["edgejoule_coordinator"], "name": "edgejoule coordinator", "manufacturer": "edgejoule"}
        return made | self._found(_OF_RUN, "coordinator", topic, {**about, "sw_version": self._version})

    def _found(
        self, entities: Iterable[tuple[str, str, dict[str, Any]]], name: str, topic: str, device: Mapping[str, Any]
    ) -> dict[str, str]:
        made = {}
        for kind, key, values in entities:
            config = {
                **values,
                "unique_id": f"edgejoule_{name}_{key}",
                "state_topic": topic,
                "availability_topic": self.status_topic,
                "payload_available": ONLINE,
                "payload_not_available": OFFLINE,
                "device": dict(device),
                "origin": {"name": "edgejoule", "sw_version": self._version},
            }
            made[f"{self._discovery}/{kind}/edgejoule_{name}/{key}/config"] = json.dumps(config)
        return made
