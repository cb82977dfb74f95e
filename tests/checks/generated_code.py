"""Fails when protos/v1 is not what the generator makes of its .proto files today."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("edgejoule", "identity")
GENERATED = tuple(f"{name}{end}" for name in SOURCES for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{ROOT}", *outputs, *(str(ROOT / f"protos/v1/{name}.proto") for name in SOURCES)]):
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
