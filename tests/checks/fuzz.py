"""Bytes at every decoder that faces the network or a file from elsewhere, for a given time.

    make fuzz MINUTES=60            python tests/checks/fuzz.py --minutes 60 [--seed N]

Runs ``tests/test_fuzzed_decoders.py`` again and again, each time with another seed and more examples than the suite
has, and prints how many there were. Ends at the first decoder that gave neither a value nor an error of ours, with the
seed that makes it happen again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/test_fuzzed_decoders.py"


def main() -> int:
    """Fuzz; 0, or what pytest left with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="for how long (default 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default 0)")
    parser.add_argument("--examples", type=int, default=2000, metavar="N", help="of each decoder and seed")
    given = parser.parse_args()
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
