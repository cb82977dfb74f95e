"""The certificate of a calibration: what was compared with what, what came out, and how sure it is.

A JSON object. Its ``id`` is the first four bytes of the SHA-256 over the rest (keys sorted, no spaces, without the
``schema`` of what a command prints); the bridge
keeps that number beside the offset and gain, and every record made with it names it. So a record leads to the
certificate, and a changed certificate is found out by :func:`certificate_id`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from firmware_tools.bridge.calibrate.calibration import Line, MeterError, Point, Reading
from protos.bridge.hello import Hello
from protos.energy.ina219 import Calibration, Config

__all__ = ["certificate_id", "make_certificate", "point_entry"]

FORMAT = "edgejoule-calibration-1"
COVERAGE = 2.0


def certificate_id(certificate: dict[str, Any]) -> int:
    """The number that belongs to the content; never 0, which means "not calibrated"."""
    content = {name: value for name, value in certificate.items() if name not in ("id", "schema")}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") or 1


def point_entry(kind: str, point: Point, reading: Reading, reference: float, unit: str) -> dict[str, Any]:
    """One comparison, as the certificate has it; ``reference`` is what the meter said, in ``unit``."""
    return {
        "kind": kind, "reference": reference, "unit": unit, "current_a": point.current_a,
        "current_standard_a": point.current_standard_a, "shunt_v": point.shunt_v,
        "shunt_standard_v": point.shunt_standard_v, "bus_v": reading.bus_v, "seconds": reading.seconds,
        "samples": reading.samples,
    }  # fmt: skip


def make_certificate(
    hello: Hello,
    sensor: int,
    config: Config,
    before: Calibration,
    line: Line,
    points: list[dict[str, Any]],
    meter: dict[str, Any],
    error: MeterError,
    *,
    shunt_uohm: int,
    date: str,
    day: int,
    complete: bool,
) -> tuple[dict[str, Any], Calibration]:
    """The certificate, and the record for the bridge that goes with it.

    Args:
        hello: of the bridge.
        sensor: its number.
        config: setting that was measured with.
        before: record in use until now.
        line: what was found.
        points: entries of :func:`point_entry`.
        meter: what is known of the reference, for the reader.
        error: its limit.
        shunt_uohm: nominal shunt.
        date: ISO 8601, UTC.
        day: the same, days since 1970-01-01.
        complete: zero and gain are both known; else the record keeps number 0, "not calibrated".
    """
    offset_nv, gain_ppm = round(line.offset_v * 1e9), round(line.gain * 1e6)
    gain_standard = None if line.gain_standard is None else round(line.gain_standard * 1e6, 1)
    certificate: dict[str, Any] = {
        "format": FORMAT,
        "date": date,
        "complete": complete,
        "bridge": {"uid": hello.uid.hex(), "build": hello.build.hex(), "firmware": ".".join(map(str, hello.firmware))},
        "sensor": {
            "number": sensor, "address": hello.sensors[sensor].address, "config": config.register(),
            "range_mv": 40 << config.pga,
        },
        "reference": meter | {"limit_relative": error.relative, "limit_fixed": error.fixed},
        "points": points,
        "before": _record(before),
        "after": _record(Calibration(0, shunt_uohm, offset_nv, gain_ppm, day)),
        "uncertainty": {
            "offset_standard_nv": round(line.offset_standard_v * 1e9, 1),
            "offset_expanded_nv": round(COVERAGE * line.offset_standard_v * 1e9, 1),
            "gain_standard_ppm": gain_standard,
            "gain_expanded_ppm": None if gain_standard is None else round(COVERAGE * gain_standard, 1),
            "coverage_factor": COVERAGE,
            "residual_sigmas": round(line.residual_sigmas, 3),
            "left_out": "temperature, ageing, error of the bus voltage",
        },
    }  # fmt: skip
    number = certificate_id(certificate)
    record = Calibration(number if complete else 0, shunt_uohm, offset_nv, gain_ppm, day)
    return {"id": f"{number:08x}"} | certificate, record


def _record(calibration: Calibration) -> dict[str, int]:
    return {
        "shunt_uohm": calibration.shunt_uohm,
        "offset_nv": calibration.offset_nv,
        "gain_ppm": calibration.gain_ppm,
        "day": calibration.day,
    }
