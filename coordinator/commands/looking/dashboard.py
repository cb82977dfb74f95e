"""`coordinator dashboard`: runs and devices on a page of this machine, live."""

from __future__ import annotations

import argparse
import asyncio
import logging
from pathlib import Path

from coordinator.commands.parts import add_address, example, operator
from protos.atomic import write_whole
from protos.errors import StoreError
from protos.extras import require


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "dashboard",
        help="show runs and devices on a page, live and read-only",
        description="A page on this machine, until Ctrl-C. It asks the coordinator as the other commands do, with the "
        "same credentials, and once for all who look on; it changes nothing. From another machine: "
        "ssh -L 8050:127.0.0.1:8050 HOST.",
        **example("coordinator dashboard --listen 127.0.0.1:8050"),
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8050",
        metavar="HOST:PORT",
        help="on loopback; port 0 picks a free one (default 127.0.0.1:8050)",
    )
    parser.add_argument("--ready-file", type=Path, metavar="PATH", help="gets the page's address when it is served")
    add_address(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page; 0 after SIGTERM or SIGINT."""
    require(["starlette", "uvicorn"], "dashboard")
    from coordinator.live.page_server import bound, serve_page

    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    # What cannot be used of address and credentials is told at once, not on the page.
    operator(arguments).close()
    listen = bound(arguments.listen)

    def ready(address: str) -> None:
        print(f"dashboard: {address}  (Ctrl-C ends it)", flush=True)
        if arguments.ready_file is not None:
            try:
                with write_whole(arguments.ready_file) as file:
                    file.write(f"{address}\n".encode())
            except OSError as error:
                raise StoreError(f"cannot be written ({error.strerror})", where=str(arguments.ready_file)) from error

    asyncio.run(serve_page(lambda: operator(arguments), listen, on_ready=ready))
    return 0
