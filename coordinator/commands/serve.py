"""`coordinator serve`."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

from coordinator.commands.parts import example
from protos.errors import UsageError

_M_ARENA_MAX = -8  # of malloc.h


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="serve devices and operators until told to stop",
        **example("coordinator serve --state /var/lib/edgejoule-coordinator"),
    )
    parser.add_argument("--state", required=True, type=Path, metavar="DIR", help="folder of all that must last")
    parser.add_argument(
        "--listen",
        default=os.environ.get("EDGEJOULE_LISTEN", "127.0.0.1:50461"),
        metavar="HOST:PORT",
        help="loopback, or any address after `coordinator init`; port 0 picks a free one (default 127.0.0.1:50461)",
    )
    parser.add_argument("--tls", action="store_true", help="ask certificates of every peer, on loopback as well")
    parser.add_argument(
        "--enroll-listen", metavar="HOST:PORT", help="where new boards enrol (default: the same host, the next port)"
    )
    parser.add_argument("--database", metavar="URL", help="SQLAlchemy URL; default: a SQLite file in the state folder")
    parser.add_argument(
        "--standby",
        action="store_true",
        help="wait while another coordinator uses the database, and go on with its runs when it is gone",
    )
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="figures for Prometheus at /metrics, on loopback (default: none)"
    )
    parser.add_argument(
        "--otlp",
        metavar="URL",
        help="send a trace of each run as it goes, by OTLP over HTTP, such as http://127.0.0.1:4318 (default: none)",
    )
    parser.add_argument(
        "--announce", action="store_true", help="say by mDNS where boards enrol: a hint for them, never identity"
    )
    parser.add_argument(
        "--upstream",
        metavar="HOST:PORT",
        help="be one device of the coordinator there: sum exactly over the devices here, and report the sum (default: "
        "stand alone)",
    )
    parser.add_argument("--site", metavar="NAME", help="the device id there (default: this machine's name)")
    parser.add_argument(
        "--site-devices", type=int, default=1, metavar="N", help="join there once so many devices are here (default 1)"
    )
    parser.add_argument(
        "--upstream-identity",
        type=Path,
        metavar="DIR",
        help="what this site shows there: the folder that `edge-runtime enroll TOKEN --state DIR --no-start` made "
        "(default: nothing, and --upstream is on loopback)",
    )
    parser.add_argument("--ready-file", type=Path, metavar="PATH", help="gets the bound address when serving")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve; 0 after SIGTERM or SIGINT."""
    _one_heap()
    # Imported here, so that the other commands need neither a database nor a TFLite runtime.
    from coordinator.server.serving import Settings, serve

    logging.basicConfig(
        level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    database = arguments.database or os.environ.get("EDGEJOULE_DATABASE")
    for option in ("site", "site_devices", "upstream_identity"):
        if arguments.upstream is None and getattr(arguments, option) not in (None, 1):
            name = option.replace("_", "-")
            raise UsageError(f"--{name} is of a site", where=f"--{name}", fix="give --upstream HOST:PORT, too")
    if not 1 <= arguments.site_devices <= 1_000_000:
        raise UsageError(f"{arguments.site_devices} is not a number from 1 to 1000000", where="--site-devices")
    settings = Settings(
        arguments.state,
        arguments.listen,
        database,
        arguments.ready_file,
        tls=arguments.tls,
        enroll_listen=arguments.enroll_listen,
        standby=arguments.standby,
        metrics=arguments.metrics,
        announce=arguments.announce,
        upstream=arguments.upstream,
        site=arguments.site or socket.gethostname(),
        site_devices=arguments.site_devices,
        upstream_identity=arguments.upstream_identity,
        otlp=arguments.otlp,
    )
    _seldom_collected()
    asyncio.run(serve(settings))
    return 0


def _one_heap() -> None:
    """Let all threads share one heap of glibc: a heap for each keeps what a burst of orders or reports took. Other
    libraries of C stay as they are."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _seldom_collected() -> None:
    """Look for cycles of garbage less often than Python does by itself, and never among what was imported: calls leave
    few, and a coordinator holds many objects, each of which the collector would walk over again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
