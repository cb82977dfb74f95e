"""Bytes at every decoder that faces the network or a file from elsewhere, for a given time.

    make fuzz MINUTES=60                    python tests/checks/fuzz.py --minutes 60 [--seed N]
    make fuzz MINUTES=60 ENGINE=atheris     the same, by an engine that follows coverage

Runs ``tests/test_fuzzed_decoders.py`` again and again, each time with another seed and more examples than the suite
has, and prints how many there were. Ends at the first decoder that gave neither a value nor an error of ours, with the
seed that makes it happen again. With atheris each decoder gets the same share of the time, in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/test_fuzzed_decoders.py"
TARGET = Path(__file__).with_name("atheris_target.py")


def by_atheris(minutes: float, seed: int, only: str | None) -> int:
    """Every decoder for its share of the time; 0, or what the first one left with that failed."""
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: the package atheris is not installed; make fuzz ENGINE=atheris installs it", file=sys.stderr)
        return 2
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from test_fuzzed_decoders import DECODERS

    names = sorted(DECODERS) if only is None else [only]
    each_s = max(1, round(60 * minutes / len(names)))
    for name in names:
        with tempfile.TemporaryDirectory(prefix="edgejoule-fuzz-") as folder:
            words = [sys.executable, str(TARGET), name, f"{folder}/corpus", f"-max_total_time={each_s}"]
            kept = f"-artifact_prefix={ROOT}/fuzz-found-"
            done = subprocess.run(
                [*words, f"-seed={seed or 1}", "-max_len=4096", "-rss_limit_mb=2048", kept],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
                capture_output=True, text=True, errors="replace", check=False,
            )  # fmt: skip
        if done.returncode:
            print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)
            print(
                f"fuzz: {name} failed; what did it is in {ROOT}/fuzz-found-*; again: --engine atheris --only '{name}'"
            )
            return done.returncode
        runs = re.findall(r"Done (\d+) runs in", done.stderr) or ["0"]
        covered = re.findall(r"cov: (\d+)", done.stderr) or ["0"]
        print(f"fuzz: {name}: {runs[-1]} inputs in {each_s} s, {covered[-1]} branches; nothing found", flush=True)
    return 0


def main() -> int:
    """Fuzz; 0, or what pytest left with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="for how long (default 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default 0)")
    parser.add_argument("--examples", type=int, default=2000, metavar="N", help="of each decoder and seed")
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis", help="default hypothesis")
    parser.add_argument("--only", metavar="NAME", help="this decoder alone; atheris")
    given = parser.parse_args()
    if given.engine == "atheris":
        return by_atheris(given.minutes, given.seed, given.only)
    end_s, seed = time.monotonic() + 60 * given.minutes, given.seed
    environ = {**os.environ, "EDGEJOULE_FUZZ": str(given.examples), "PYTHONPATH": str(ROOT)}
    while True:
        words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-x", "-p", "no:cacheprovider", TESTS]
        done = subprocess.run([*words, f"--hypothesis-seed={seed}"], cwd=ROOT, env=environ, check=False)
        if done.returncode:
            print(f"fuzz: failed with seed {seed}; again: {Path(__file__).name} --minutes 0 --seed {seed}")
            return done.returncode
        seed += 1
        print(f"fuzz: {(seed - given.seed) * given.examples} examples of each decoder, nothing found", flush=True)
        if time.monotonic() >= end_s:
            return 0


if __name__ == "__main__":
    sys.exit(main())
