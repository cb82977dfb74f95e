"""``firmware-tools sample``: new examples from a denoiser that a fleet has trained."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from firmware_tools.child import run_in_child
from firmware_tools.sample.sheet import png
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.commands.program import HelpFormatter
from protos.errors import StoreError, UsageError
from protos.extras import require
from protos.model.head_kinds.denoiser import Denoiser

_MOST = 100_000


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sample",
        help="new examples from a denoiser that a fleet has trained",
        description="Samples DENOISER, the .npz that `coordinator export` writes of a run whose head denoises: new "
        "embeddings of each class, and with --decoder the images that they are. OUT is an .npz with x and y, or a "
        ".png with a row of images for each class.",
        epilog="example:\n  coordinator export maker -o denoiser.npz\n"
        "  firmware-tools sample denoiser.npz --decoder coder/decoder.keras --count 10 -o sheet.png",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("denoiser", type=Path, metavar="DENOISER")
    parser.add_argument("--decoder", type=Path, metavar="DECODER.keras", help="embeddings to images, pixels 0..1")
    parser.add_argument("--count", type=int, default=10, metavar="N", help="examples of each class (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a new .npz or .png")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    kind = options.output.suffix.lower()
    if kind not in (".npz", ".png"):
        raise UsageError("is neither .npz nor .png", where=str(options.output), fix="name one of these")
    if kind == ".png" and options.decoder is None:
        raise UsageError("embeddings alone are no images", where="--decoder", fix="give the decoder, or an .npz as -o")
    if not 0 <= options.seed < 1 << 62:
        raise UsageError(f"{options.seed} is outside 0..{(1 << 62) - 1}", where="--seed")
    if options.output.exists():
        raise UsageError("is there already", where=str(options.output), fix="choose another -o")
    denoiser = Denoiser.from_file(options.denoiser)
    most = _MOST // len(denoiser.classes)
    if not 1 <= options.count <= most:
        raise UsageError(f"{options.count} is outside 1..{most}", where="--count")
    classes = np.repeat(np.arange(len(denoiser.classes), dtype=np.int32), options.count)
    made: npt.NDArray[np.generic] = denoiser.embeddings(classes, seed=options.seed)
    if options.decoder is not None:
        require(("tensorflow",), "workshop")
        made = decoded(options.decoder, made)
    try:
        with write_whole(options.output) as file:
            if kind == ".npz":
                np.savez(file, allow_pickle=False, x=made, y=classes)
            else:
                file.write(png(made, options.count))
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(options.output)) from error
    told = {"output": str(options.output), "examples": len(made), "classes": list(denoiser.classes)}
    if options.json:
        print(json.dumps(document("sampled", told)))
    else:
        print(f"{options.output}: {options.count} examples of each of {len(denoiser.classes)} classes")
    return 0


def decoded(decoder: Path, embeddings: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Images uint8 [N, H, W, C] of embeddings [N, D]; the decoder is opened in a child process.

    Raises:
        ModelError: the decoder cannot be opened, or takes other numbers.
    """
    with tempfile.TemporaryDirectory(prefix="edgejoule-sample-") as folder:
        given, made = Path(folder) / "given.npy", Path(folder) / "made.npy"
        np.save(given, embeddings, allow_pickle=False)
        fields = {"decoder": str(decoder.absolute()), "given": str(given), "made": str(made)}
        run_in_child(
            "firmware_tools.sample.decoding:run",
            fields,
            where=decoder.name,
            progress=lambda line: print(f"firmware-tools sample: {line}", file=sys.stderr, flush=True),
        )
        images: npt.NDArray[np.uint8] = np.load(made, allow_pickle=False)
    return images
