"""`coordinator mqtt`: devices and runs as messages of a broker, and in Home Assistant."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from pathlib import Path

from coordinator.commands.parts import add_address, example, operator
from protos.addresses import host_and_port, is_loopback
from protos.commands.program import version
from protos.durations import duration_s
from protos.errors import UsageError
from protos.extras import require


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "mqtt",
        help="publish devices and runs to a broker of MQTT, also for Home Assistant",
        description="A process of its own until Ctrl-C: it asks the coordinator as the other commands do, and "
        "publishes what has changed, retained. It takes no orders. A password is read from a file, or from "
        "EDGEJOULE_MQTT_PASSWORD.",
        **example("coordinator mqtt 127.0.0.1:1883 --home-assistant"),
    )
    parser.add_argument("broker", metavar="HOST:PORT", help="where the broker listens")
    parser.add_argument("--home-assistant", action="store_true", help="let Home Assistant find the devices by itself")
    parser.add_argument(
        "--discovery", default="homeassistant", metavar="TOPIC", help="its discovery prefix (default homeassistant)"
    )
    parser.add_argument("--topic", default="edgejoule", metavar="TOPIC", help="before our topics (default edgejoule)")
    parser.add_argument("--every", default="10s", metavar="TIME", help="how often to ask (default 10s)")
    parser.add_argument("--username", metavar="NAME", help="at the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line")
    parser.add_argument("--tls", action="store_true", help="speak TLS with the broker")
    parser.add_argument("--ca-file", type=Path, metavar="PEM", help="who signed the broker's certificate")
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Publish; 0 after SIGTERM or SIGINT."""
    require(["paho"], "mqtt")
    from coordinator.live.broker import Account, publish
    from coordinator.live.telemetry import Telemetry

    broker = host_and_port(arguments.broker)
    if broker is None:
        raise UsageError(f"{arguments.broker!r} is not HOST:PORT", where="broker", fix="such as 127.0.0.1:1883")
    for name, topic in (("--topic", arguments.topic), ("--discovery", arguments.discovery)):
        if not topic or set(topic) & set("+#$ \0") or topic.startswith("/") or topic.endswith("/"):
            raise UsageError(
                f"{topic!r} is no beginning of topics", where=name, fix="such as edgejoule or lab/edgejoule"
            )
    every_s = duration_s(arguments.every, "--every", most_s=3600)
    password = _password(arguments.password_file)
    if password is not None and arguments.username is None:
        raise UsageError("a password without a name", where="--password-file", fix="give --username")
    tls = arguments.tls or arguments.ca_file is not None
    if password is not None and not tls and not is_loopback(broker[0]):
        what = "the password would be readable on the way"
        raise UsageError(what, where=arguments.broker, fix="add --tls, or reach the broker through a tunnel")
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    # What cannot be used of address and credentials is told at once.
    operator(arguments).close()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    publish(
        lambda: operator(arguments),
        Telemetry(arguments.topic, arguments.discovery if arguments.home_assistant else None, version()),
        broker,
        Account(arguments.username, password, tls, arguments.ca_file),
        every_s=every_s,
        stopping=stopping,
        on_ready=lambda: print(f"mqtt: publishing to {arguments.broker}  (Ctrl-C ends it)", flush=True),
    )
    return 0


def _password(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("EDGEJOULE_MQTT_PASSWORD")
    try:
        return path.read_text(encoding="utf-8").splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        reason = getattr(error, "strerror", None) or "no text in it"
        raise UsageError(f"cannot be read ({reason})", where=str(path), fix="write the password into it") from error
