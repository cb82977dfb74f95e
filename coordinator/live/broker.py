"""Messages to a broker of MQTT: connected again and again, retained, and withdrawn by the broker when we are gone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.live.telemetry import OFFLINE, ONLINE, Telemetry
from coordinator.operator.client import Operator
from protos.errors import EdgejouleError, UnreachableError, UsageError

__all__ = ["Account", "publish"]

log = logging.getLogger("edgejoule.mqtt")

# At least once: a broker that was away gets it when it is back.
_QOS = 1
_CONNECT_S = 10.0
# What a broker kept comes at once after the subscription.
_KEPT_S = 0.5
_LAST_S = 5.0


@dataclass(frozen=True)
class Account:
    """Who we are at the broker; ``ca_file`` None with ``tls``: the authorities of this machine."""

    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca_file: Path | None = None


def publish(
    connect: Callable[[], Operator],
    telemetry: Telemetry,
    broker: tuple[str, int],
    account: Account,
    *,
    every_s: float,
    stopping: threading.Event,
    on_ready: Callable[[], None],
) -> None:
    """Publish what the coordinator says every so often, until ``stopping`` is set.

    Args:
        on_ready: called once, when the first states are with the broker.

    Raises:
        UnreachableError: no broker answers at the beginning. Later, and for the coordinator, it is waited.
        UsageError: the broker refuses who we are.
    """
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client: Any = Client(CallbackAPIVersion.VERSION2)
    anew, answered = threading.Event(), threading.Event()
    refused: list[str] = []

    def connected(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            refused.append(str(reason))
        else:
            refused.clear()
            if not answered.is_set():  # Later what is kept there is our own.
                client.subscribe(telemetry.states, _QOS)
            anew.set()
        answered.set()

    client.on_connect = connected
    client.on_message = lambda _client, _data, message: telemetry.take_up(message.topic, message.payload)
    client.will_set(telemetry.status_topic, OFFLINE, _QOS, retain=True)
    client.reconnect_delay_set(1, 30)
    if account.username is not None:
        client.username_pw_set(account.username, account.password)
    if account.tls:
        client.tls_set(None if account.ca_file is None else str(account.ca_file))
    where = f"{broker[0]}:{broker[1]}"
    try:
        client.connect(*broker, keepalive=30)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"no broker answers ({error})", where=where, fix="is it running there?") from error
    client.loop_start()
    try:
        if not answered.wait(_CONNECT_S):
            raise UnreachableError(
                "the broker does not answer", where=where, fix="is it MQTT, and with TLS or without?"
            )
        if refused:
            raise UsageError(f"the broker refuses: {refused[0]}", where=where, fix="see --username and --password-file")
        stopping.wait(_KEPT_S)
        # From here on nothing that we publish ourselves is to come back.
        client.unsubscribe(telemetry.states)
        client.on_message = None
        _go_on(connect, telemetry, client, anew, every_s=every_s, stopping=stopping, on_ready=on_ready)
        client.publish(telemetry.status_topic, OFFLINE, _QOS, retain=True).wait_for_publish(_LAST_S)
    finally:
        client.disconnect()
        client.loop_stop()


def _go_on(
    connect: Callable[[], Operator],
    telemetry: Telemetry,
    client: Any,
    anew: threading.Event,
    *,
    every_s: float,
    stopping: threading.Event,
    on_ready: Callable[[], None],
) -> None:
    told = ready = False
    said = ""
    with connect() as coordinator:
        while not stopping.is_set():
            try:
                runs, devices = coordinator.runs(), coordinator.devices()
            except EdgejouleError as error:
                if str(error) != said:
                    log.warning("%s; states stay as they were, and are told as offline", error)
                said = str(error)
                if told or anew.is_set():
                    client.publish(telemetry.status_topic, OFFLINE, _QOS, retain=True)
                    told = False
                anew.clear()
            else:
                said = ""
                if anew.is_set():
                    anew.clear()
                    told = False
                    telemetry.forget_held()
                sent = [
                    client.publish(topic, payload, _QOS, retain=True)
                    for topic, payload in telemetry.changes(runs, devices).items()
                ]
                if not told:
                    sent.append(client.publish(telemetry.status_topic, ONLINE, _QOS, retain=True))
                    told = True
                if not ready:
                    for one in sent:
                        one.wait_for_publish(_LAST_S)
                    ready = True
                    on_ready()
            anew_or_later(anew, stopping, every_s)


def anew_or_later(anew: threading.Event, stopping: threading.Event, every_s: float) -> None:
    """Wait for the next look: sooner when the broker has come back."""
    left_s = every_s
    while left_s > 0 and not stopping.is_set() and not anew.is_set():
        stopping.wait(min(0.2, left_s))
        left_s -= 0.2
