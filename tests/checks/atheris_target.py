"""One decoder under atheris, which follows coverage; started by ``fuzz.py --engine atheris``.

    python tests/checks/atheris_target.py "a token" CORPUS -max_total_time=60 -seed=1

The corpus begins with valid bytes. What is neither a value nor an error of ours ends it, and the bytes that did it are
kept in the folder that ``-artifact_prefix`` names.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["protos", "edge_runtime", "coordinator", "json", "base64"]):
    from test_fuzzed_decoders import DECODERS

    from protos.errors import EdgejouleError


def main() -> None:
    name, corpus = sys.argv[1], Path(sys.argv[2])
    valid, read = DECODERS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "valid").write_bytes(valid)

    def one(data: bytes) -> None:
        with contextlib.suppress(EdgejouleError):
            read(data)

    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
