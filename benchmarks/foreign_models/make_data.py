"""Makes further data as people have them, from the pictures of `make_models.py`, in a folder.

    .venv/bin/python benchmarks/foreign_models/make_data.py FOLDER --pictures MODELS/image.npz

Part of `benchmarks/any_model.py`. Folders of four classes, ten pictures each; and files of arrays.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("ant", "bee", "cat", "dog")
_parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
_parser.add_argument("folder", type=Path, metavar="FOLDER", help="made where it is not there")
_parser.add_argument("--pictures", type=Path, required=True, metavar="NPZ", help="image.npz of make_models.py")
GIVEN = _parser.parse_args()
with np.load(GIVEN.pictures, allow_pickle=False) as archive:
    X, Y = archive["x"], archive["y"]
Write = Callable[[Image.Image, Path], None]


def plain(picture: Image.Image, path: Path) -> None:
    picture.save(path)


def frames(**options: Any) -> Write:
    """Several frames, the second one turned."""
    return lambda picture, path: picture.save(path, save_all=True, append_images=[picture.rotate(180)], **options)


def mode(name: str) -> Write:
    return lambda picture, path: picture.convert(name).save(path)


def png16(picture: Image.Image, path: Path) -> None:
    """Sixteen bits of red, green and blue."""
    deep = np.asarray(picture).astype(">u2") * 257
    height, width, _ = deep.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + line.tobytes() for line in deep)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def folder(
    name: str,
    write: Write = plain,
    ending: str = "png",
    *,
    names: Sequence[str] = NAMES,
    where: str = "{name}/{index}",
) -> Path:
    """Ten pictures of each class; ``where`` says in which file each lies."""
    for label, text in enumerate(names):
        for index, row in enumerate(np.flatnonzero(label == Y)[:10]):
            path = Path(name) / f"{where.format(name=text, index=index)}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(Image.fromarray(X[row]), path)
    return Path(name)


def folders() -> None:
    """Folders of pictures."""
    for kind in ("LA", "CMYK", "1", "YCbCr"):
        folder(f"mode_{kind.lower()}", mode(kind), {"LA": "png", "YCbCr": "jpg"}.get(kind, "tif"))
    folder("png16_rgb", png16)
    folder("gif_frames", frames(), "gif")
    folder("webp_frames", frames(lossless=True), "webp")
    folder("tiff_pages", frames(), "tif")
    folder("mpo", frames(format="MPO", quality=95), "jpg")
    folder(
        "float255", lambda image, path: Image.fromarray(np.asarray(image.convert("L"), np.float32)).save(path), "tif"
    )
    folder("black_under_alpha", lambda image, path: Image.merge(
        "LA", (Image.new("L", image.size), image.convert("L"))).save(path))  # fmt: skip
    folder("heic", lambda image, path: image.save(path, format="PNG"), "heic")
    loop = folder("loop")
    (loop / "ant" / "up").symlink_to("..")
    (loop / "bee" / "here").symlink_to(".")
    (loop / "self").symlink_to("self")
    moved = folder("class_link") / "dog"
    shutil.move(moved, "elsewhere")
    moved.symlink_to("../elsewhere")
    os.mkfifo(folder("pipe") / "ant" / "x.png")
    folder("pool", where="images/{name}_{index}")
    folder("folds", where="fold{index}/{name}/a")
    folder("clash", names=("ant", "Ant", "cat", "dog"))
    folder("hidden_class", names=(".ant", "bee", "cat", "dog"))
    both = folder("nfc_and_nfd")
    for form in ("NFC", "NFD"):
        (both / unicodedata.normalize(form, "käfer")).mkdir()
    odd = os.fsencode(folder("no_utf8")) + b"/\xff\xfe"
    os.mkdir(odd)
    shutil.copy("no_utf8/ant/0.png", os.fsdecode(odd) + "/0.png")
    leak = folder("leak", where="train/{name}/{index}")
    shutil.copytree(leak / "train", leak / "test")
    (folder("page_as_jpg") / "ant" / "x.jpg").write_text("<html>404</html>")
    Image.new("1", (20000, 20000)).save(folder("bomb") / "ant" / "x.png")
    Path("empty").mkdir()
    (folder("empty_class") / "fly").mkdir()
    splits = folder("class_splits", where="{name}/train/{index}")
    for name in NAMES:
        shutil.copytree(splits / name / "train", splits / name / "test")
    folder("year_pool", where="train2017/{name}_{index}")
    damaged = folder("png_damaged") / "ant" / "0.png"
    content = bytearray(damaged.read_bytes())
    content[content.index(b"IDAT") + 100] ^= 0xFF
    damaged.write_bytes(content)


def arrays() -> None:
    """Files of arrays."""
    for name, x, y in (
        ("one_based", X, Y + 1),
        ("one_hot", X, np.eye(4)[Y]),
        ("column", X, Y[:, None]),
        ("texts", X, Y.astype(str)),
        ("half01", (X / 255).astype(np.float16), Y),
        ("double01", X / 255, Y),
        ("imagenet", ((X / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32), Y),
        ("caffe", (X[..., ::-1] - [103.9, 116.8, 123.7]).astype(np.float32), Y),
        ("signed_wrapped", X.view(np.int8), Y),
        ("channels_first", np.transpose(X, (0, 3, 1, 2)), Y),
        ("complex", X.astype(np.complex64), Y),
        ("swapped", Y, X),
        ("fewer", X, Y[:-5]),
        ("with_alpha", np.concatenate([X, X[..., :1]], axis=-1), Y),
        ("grey_for_colours", X[..., 0], Y),
        ("flattened", X.reshape(len(X), -1), Y),
        ("stray_255", X, np.where(np.arange(len(Y)) == 3, 255, Y)),
    ):
        np.savez(f"{name}.npz", x=x, y=y)
    np.savez("split_keys.npz", x_train=X, y_train=Y)
    np.savez("owners_none.npz", x=X, y=Y, device=np.array([None] * len(Y), object))
    # A pickle under the name of an archive: numpy writes one for objects, behind a header that is cut off here.
    held = io.BytesIO()
    np.save(held, np.array({"x": X, "y": Y}, dtype=object))
    data = held.getvalue()
    Path("pickled.npz").write_bytes(data[data.index(b"\n") + 1 :])
    Path("nothing.npz").write_bytes(b"")
    Path("cut.npz").write_bytes(Path("column.npz").read_bytes()[:-400])


def idx(path: str, values: Any, *, code: int = 8, cut: int | None = None, after: bytes = b"") -> None:
    """One gzipped idx file."""
    head = struct.pack(">HBB", 0, code, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    kind = {8: ">u1", 0x0B: ">i2", 0x0D: ">f4"}[code]
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes(gzip.compress(head + values.astype(kind).tobytes() + after)[:cut])


def pairs() -> None:
    """Pairs of idx files."""
    for name, values, labels, options in (
        ("idx_short", X, Y, {"code": 0x0B}),
        ("idx_cut", X, Y, {"cut": 5000}),
        ("idx_one_based", X, Y + 1, {}),
        ("idx_fewer", X[:-3], Y, {}),
        ("idx_swapped", Y, X, {}),
    ):
        idx(f"{name}/train-images-idx3-ubyte.gz", values, **options)  # type: ignore[arg-type]
        idx(f"{name}/train-labels-idx1-ubyte.gz", labels)
    idx("idx_alone/train-images-idx3-ubyte.gz", X)


def tables() -> None:
    """Tables of two numbers and a class, and recordings of a second, as programs write them."""
    Path("tables").mkdir(exist_ok=True)
    for name, text in (
        ("gap_in_class", "a,b,y\n1,2,ant\n3,4,NaN\n5,6,bee\n"),
        ("classes_with_points", "a,b,y\n" + "".join(f"{k},{k},{k}.0\n" for k in range(12))),
        ("spreadsheet", "sep=;\na;b;y;\n1,5;2;ant;\n3;4;bee;\n"),
        ("open_quote", 'a,b,y\n1,2,"ant\n3,4,ant\n'),
        ("beyond_float32", "a,b,y\n1e39,2,ant\n3,4,bee\n"),
        ("contest/train", "a,b,y\n1,2,ant\n3,4,bee\n"),
        ("contest/test", "a,b\n5,6\n"),
        ("parts/train", "a,b,y\n1,2,ant\n3,4,bee\n"),
        ("parts/test", "a,b,y\n5,6,ant\n"),
    ):
        path = Path("tables") / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    samples = (np.sin(np.arange(8000) / 3) * 9000).astype("<i2").tobytes()
    for name, frame, bits, behind in (
        ("sounds/my_data/train_set/ant/1", 2, 16, b""), ("sounds/my_data/test_set/ant/1", 2, 16, b""),
        ("goes_on/ant/1", 2, 16, samples), ("odd_frame/ant/1", 4, 24, b""),
        ("audio_pool/audio/1-100032-A-0", 2, 16, b""),
    ):  # fmt: skip
        path = Path("tables") / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        body = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000 * frame, frame, bits)
        body += b"data" + struct.pack("<I", len(samples)) + samples + behind
        path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    for name in ("sounds/my_data/train_set/bee/1.mp3", "named_so/ant/1.wav"):
        path = Path("tables") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"ID3\x03" + bytes(500))


if __name__ == "__main__":
    GIVEN.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(GIVEN.folder)
    folders()
    arrays()
    pairs()
    tables()
