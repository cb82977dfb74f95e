"""How wrong the bridge's joules are, and what they cost: the real firmware in a simulated machine, exact truth known.

A shunt of 0.02 ohm at 5.000 V, calibrated with a reference without error; zero, gain, noise, clocks and USB are drawn
from the seed. Rows come from lock-step; one minute at over 1000 samples a second goes over a pseudo-terminal in real
time. Prints each figure with its target and verdict, and a digest of all bytes received: the same seed, the same bytes.

    .venv/bin/python benchmarks/metering.py --json metering.json
    .venv/bin/python benchmarks/metering.py --quick
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.coverage_study import study, summary
from benchmarks.meters.host import Streamed, per_sample_share, streamed
from benchmarks.meters.rows import Row, replayed, tasks
from firmware_tools.bridge.machine.build import APT, missing

WORKERS = min(2, os.cpu_count() or 1)
HOST_SHARE, BYTES_PER_SAMPLE, COVERAGE = 0.01, 3.0, (0.93, 0.99)


def measured(quick: bool, seed: int) -> dict[str, Any]:
    """Everything; the real-time part first and alone, so that it is not disturbed."""
    stream = streamed(10.0 if quick else 60.0, seed)
    per_sample = per_sample_share(2.0 if quick else 10.0)
    with ProcessPoolExecutor(WORKERS) as pool:
        trace = pool.submit(replayed, "transient", seed, 10.0 if quick else 60.0)
        rows: list[Future[list[Row]]] = [pool.submit(what, *given) for what, *given in tasks(quick, seed)]
        inside = pool.submit(coverage, 500, seed)
        found = [row for future in rows for row in future.result()]
        traced, bytes_per_sample = trace.result()
        found += traced
        share_inside = inside.result()
    digest = hashlib.sha256("".join(row.digest for row in found).encode()).hexdigest()[:16]
    return {
        "rows": found, "stream": stream, "per_sample_share": per_sample, "bytes_per_sample": bytes_per_sample,
        "inside": share_inside, "digest": digest,
    }  # fmt: skip


def coverage(cases: int, seed: int) -> float:
    """Share of random cases whose interval holds the truth."""
    return float(summary(study(cases, seed))["inside"])


def checks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What is not a row: name, value, target, verdict."""
    stream: Streamed = found["stream"]
    low, high = COVERAGE
    wrong = stream.mean_w / stream.true_w - 1
    lines: list[tuple[str, float | None, str, bool | None]] = [
        (f"lost frames, {stream.seconds:.0f} s at {stream.rate_hz:.0f} samples/s on a terminal",
         stream.lost_frames, "0", stream.lost_frames == 0 and stream.rate_hz >= 1000),
        ("mean power of them, relative error", wrong, "0.25 %", abs(wrong) <= 0.0025),
        ("share of a core at 1000 samples/s, all of the host", stream.share_at_1khz, f"{HOST_SHARE:.0%}",
         stream.share_at_1khz <= HOST_SHARE),
        ("share of a core, one read and sum per sample", found["per_sample_share"], "none", None),
        ("random cases whose interval holds the truth", found["inside"], f"{low:.0%} to {high:.0%}",
         low <= found["inside"] <= high),
    ]  # fmt: skip
    size = found["bytes_per_sample"]
    if size is not None:
        lines.append(("bytes per sample of a recording", size, f"{BYTES_PER_SAMPLE:g}", size <= BYTES_PER_SAMPLE))
    words = {True: "ok", False: "missed", None: "noted"}
    return [{"check": n, "value": v, "target": t, "verdict": words[ok]} for n, v, t, ok in lines]


def show(rows: list[Row], others: list[dict[str, Any]], digest: str) -> None:
    print(f"{'profile':10} {'load':58} {'true J':>9} {'J':>9} {'error':>8} {'95 %':>7} {'target':>12}  verdict")
    for row in rows:
        joules = "?" if row.measured_j is None else f"{row.measured_j:.4f}"
        error = "?" if row.relative_error is None else f"{100 * row.relative_error:+.3f} %"
        width = "?" if row.uncertainty_j is None else f"{100 * row.uncertainty_j / row.true_j:.2f} %"
        print(
            f"{row.profile:10} {row.load:58} {row.true_j:9.4f} {joules:>9} {error:>8} {width:>7} {row.target:>12}  "
            f"{row.verdict}{' ' if row.flags else ''}{','.join(row.flags)}"
        )
    for line in others:
        print(f"{line['check']:79} {line['value']:9.4g} {line['target']:>26}  {line['verdict']}")
    print(f"digest {digest}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="shorter runs: under a minute on two cores")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if what := missing():
        print(f"metering: {what}; {APT}", file=sys.stderr)
        return 1
    found = measured(given.quick, given.seed)
    rows, others = found["rows"], checks(found)
    show(rows, others, found["digest"])
    missed = [line for line in (*(row.verdict for row in rows), *(other["verdict"] for other in others))
              if line == "missed"]  # fmt: skip
    if given.json:
        document = {
            "rows": [row.as_json() for row in rows],
            "host_cpu_share": found["stream"].share_at_1khz,
            "per_sample_cpu_share": found["per_sample_share"],
            "bytes_per_sample": found["bytes_per_sample"],
            "checks": others, "seed": given.seed, "quick": given.quick, "digest": found["digest"],
        }  # fmt: skip
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(missed)} missed" if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
