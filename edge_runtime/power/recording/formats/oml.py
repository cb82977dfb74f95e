"""OML text as FIT IoT-LAB's nodes write it (``consumption``): read by oml-plot-tools and whatever reads theirs.

A line for each sample: seconds since the beginning, schema, number, Unix seconds and microseconds of its start, power
W, voltage V, current A. A recording knows power alone: voltage and current are NaN, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import IO

from edge_runtime.power.recording.export import Row

__all__ = ["write"]


def write(file: IO[bytes], rows: Iterable[Row], *, begun_utc: str, name: str) -> None:
    """Write the samples.

    Args:
        begun_utc: wall clock of second 0, ISO 8601.
        name: of the sensor.
    """
    begun_s = datetime.fromisoformat(begun_utc).timestamp()
    sender = "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
    # Nine lines, the last one empty: readers count them.
    head = [
        "protocol: 4",
        "domain: edgejoule",
        f"start-time: {int(begun_s)}",
        f"sender-id: {sender}",
        "app-name: control_node_measures",
        "schema: 0 _experiment_metadata subject:string key:string value:string",
        "schema: 1 control_node_measures_consumption timestamp_s:uint32 timestamp_us:uint32 power:double "
        "voltage:double current:double",
        "content: text",
        "",
    ]
    file.write("".join(f"{line}\n" for line in head).encode())
    for number, row in enumerate(rows, 1):
        at_us = round((begun_s + row.start_s) * 1e6)
        whole_s, part_us = divmod(at_us, 1_000_000)
        file.write(f"{row.start_s:.6f}\t1\t{number}\t{whole_s}\t{part_us}\t{row.power_w:.9g}\tnan\tnan\n".encode())
