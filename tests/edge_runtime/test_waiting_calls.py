"""What a call costs that is held: how often its thread wakes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from edge_runtime.daemon.arriving_call import ArrivingMethod

HELD_S = 4.0


def wakings(name: str) -> int:
    """How often a thread of this process gave up its core to wait."""
    (thread,) = [one for one in threading.enumerate() if one.name == name]
    text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def test_a_call_that_is_held_wakes_its_thread_twice_a_second_and_no_more() -> None:
    over = threading.Event()

    def hold(request: bytes, context: Any) -> Any:
        over.wait(60)
        yield b"at last"

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        handler = grpc.unary_stream_rpc_method_handler(hold)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("held", {"Call": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                method = ArrivingMethod(channel, "/held/Call", bytes, lambda begins: None)
                call = method.future(Request(), timeout=60)
                before = wakings("order")
                time.sleep(HELD_S)
                # At most: a busy machine wakes it later, never more often. A few are of the beginning of the call.
                assert wakings("order") - before <= 2 * HELD_S + 6
                over.set()
                assert call.result() == b"at last"
        finally:
            over.set()
            server.stop(None).wait()


class Request:
    """Of no bytes."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        """As protobuf calls it."""
        return b""
