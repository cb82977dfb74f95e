"""Fails when protos/v1 is not what the generator makes of edgejoule.proto today."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("edgejoule_pb2.py", "edgejoule_pb2.pyi", "edgejoule_pb2_grpc.py")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{ROOT}", *outputs, str(ROOT / "protos/v1/edgejoule.proto")]):
            return 1
        stale = [
            name
            for name in GENERATED
            if (Path(folder) / "protos/v1" / name).read_bytes() != (ROOT / "protos/v1" / name).read_bytes()
        ]
    if stale:
        print(f"protos/v1: stale: {', '.join(stale)}; run `make protos` and commit", file=sys.stderr)
        return 1
    print(f"generated code is current: {', '.join(GENERATED)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
