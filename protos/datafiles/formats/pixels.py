"""From an image file to 8-bit pixels of the model's size and channels.

Images of more than 8 bits are scaled by their mode, never clipped: 16-bit and 32-bit integers as 0..65535, floats as
0..1. Sensors of 10, 12 and 14 bits write files of 16: where no image of the data goes beyond 1023, 4095 or 16383, that
is taken as white, and said. Values that contradict this are refused, since no scale can be known for them. The
orientation tag of a camera is applied, so that pictures are as people see them. Pillow is needed, and imported only
here.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Remark, Tally
from protos.datafiles.formats.columns import reading
from protos.errors import DataError, ShapeError
from protos.extras import advice
from protos.progress import progressed

_MODES = {1: "L", 3: "RGB"}
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L", "LA", "La", "F", *_DEEP)
# TIFF 6.0 and EXIF 2.32: tag 274, orientation; 1 is upright.
_ORIENTATION = 274
# What decoding takes: Pillow keeps four bytes a pixel, and cutting and converting make another picture of them; libjpeg
# keeps two bytes for each coefficient of three colours of a progressive JPEG, at whatever scale it decodes.
_BYTES_A_PIXEL, _COEFFICIENTS_A_PIXEL = 8, 6
# Of the machine's memory, how much one image may take.
_SHARE = 0.25


def decode(
    paths: list[Path], shape: Sequence[int] | None, folder: Path, aside: Tally | None = None
) -> tuple[NDArray[np.uint8], tuple[Remark, ...], list[int]]:
    """Read these images.

    Args:
        paths: one or more.
        shape: [height, width, channels] to make of every image, by cutting around its centre and resizing; None
            keeps the size of the first, which must then be the size of all.
        folder: what the user named, for messages.
        aside: counts the images that cannot be read, and they are left out; None refuses the first of them.

    Returns:
        uint8 [M, height, width, channels], what was changed in how many of them, and the places of these M in `paths`.

    Raises:
        DataError: Pillow is missing, an image cannot be decoded, or its values have no known scale.
        ShapeError: sizes differ and no shape is given, or the model takes no images.
    """
    pillow = _pillow(folder)
    size = _size_of(shape, folder)
    reader = _Reader(pillow, folder, size)
    out: NDArray[np.uint8] | None = None if size is None else np.empty((len(paths), *size), np.uint8)
    readable: list[int] = []
    for index, path in enumerate(paths):
        progressed()
        try:
            pixels = reader.read(path)
        except DataError as error:
            if aside is None:
                raise
            aside.add("image that cannot be read", f"{path.relative_to(folder)}: {error.what}"[:200])
            continue
        if out is None:
            out = np.empty((len(paths), *pixels.shape), np.uint8)
        if pixels.shape != out.shape[1:]:
            raise ShapeError(
                f"is {pixels.shape}, {paths[0].name} is {out.shape[1:]}",
                where=str(path),
                fix="make all images one size, or give the bundle so that they are resized to its input",
            )
        out[len(readable)] = pixels
        readable.append(index)
    if out is None:
        out = np.empty((0, 0), np.uint8)
    for at in reader.to_read_again([paths[index] for index in readable]):
        out[at] = reader.read(paths[readable[at]])
    return out[: len(readable)], reader.changed(), readable


def decode_image(data: bytes, shape: Sequence[int]) -> NDArray[np.uint8]:
    """One image from the bytes of its file, as :func:`decode` makes it of a folder's.

    Args:
        shape: [height, width, channels] to make of it.

    Returns:
        uint8 [height, width, channels].

    Raises:
        DataError: Pillow is missing, or they are no image. ShapeError: the model takes no images.
    """
    place = Path("image")
    size = _size_of(shape, place)
    assert size is not None
    reader = _Reader(_pillow(place), place.parent, size, draft=True)
    pixels = reader.read(place, io.BytesIO(data))
    reader.changed()
    return pixels


def _most_bytes() -> float:
    """What one image may take on this machine; where it does not tell its memory, what a board of 512 MB may give."""
    try:
        return _SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return _SHARE * (512 << 20)


def _size_of(shape: Sequence[int] | None, folder: Path) -> tuple[int, int, int] | None:
    if shape is None:
        return None
    if len(shape) != 3 or shape[2] not in _MODES:
        raise ShapeError(
            f"images cannot be given the shape {list(shape)}",
            where=str(folder),
            fix="use a model with an input of [height, width, 1 or 3], or an npz file",
        )
    return int(shape[0]), int(shape[1]), int(shape[2])


class Opener:
    """Makes pixels of single images, one at a time, without knowing the others.

    A JPEG is decoded at the smallest scale that still has twice the wanted size (`Image.draft`): a photograph of 12
    megapixels takes a few hundred kilobytes then, and a tenth of the time.

    Args:
        shape: [height, width, channels] to make of each.
        folder: what the user named, for messages.

    Raises:
        DataError: Pillow is missing. ShapeError: the model takes no images.
    """

    def __init__(self, shape: Sequence[int], folder: Path) -> None:
        size = _size_of(shape, folder)
        assert size is not None
        self.shape = size
        self._pillow = _pillow(folder)
        self._reader = _Reader(self._pillow, folder, size, draft=True)

    def look(self, path: Path) -> str:
        """What the header of an image says, without decoding it: `ok`, with `|` before each kind of change that will be
        made; `deep`, of more than 8 bits; or `bad: ` and why it cannot be read.

        Raises:
            DataError: the system does not let it be read, which says nothing of the image.
        """
        reader = _Reader(self._pillow, path.parent, self.shape)
        try:
            with reading(str(path), "an image"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", self._pillow.DecompressionBombWarning)
                try:
                    with self._pillow.open(path) as image:
                        if image.mode in (*_DEEP, "F"):
                            return "deep"
                        reader.scale_down(image)
                        reader.note_kinds(image, path)
                except (self._pillow.DecompressionBombWarning, self._pillow.DecompressionBombError) as cause:
                    raise ValueError(str(cause)) from cause
        except DataError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise
            return f"bad: {error.what}"
        return "".join(["ok", *(f"|{remark.kind}" for remark in reader.changed())])

    def dtype_of(self, paths: Sequence[Path]) -> np.dtype[Any]:
        """Of pixels, uint8."""
        return np.dtype(np.uint8)

    def read(self, path: Path) -> NDArray[np.uint8]:
        """uint8 [height, width, channels].

        Raises:
            DataError: it cannot be decoded.
        """
        return self._reader.read(path)


class _Reader:
    def __init__(
        self, pillow: ModuleType, folder: Path, size: tuple[int, int, int] | None, *, draft: bool = False
    ) -> None:
        self._pillow, self._folder, self._size, self._draft = pillow, folder, size, draft
        self._tally = Tally()
        self._largest, self._white = 0, 65535
        self._deep: Path | None = None
        self._deep_paths: set[Path] = set()
        self._telling = True

    def read(self, path: Path, file: io.BytesIO | None = None) -> NDArray[np.uint8]:
        pillow = self._pillow
        with reading(str(path), "an image"), warnings.catch_warnings():
            # Pillow warns of files that would unpack to huge pictures, and of odd metadata.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            try:
                with pillow.open(path if file is None else file) as image:
                    if self._draft and self._size is not None:
                        self.scale_down(image)
                    return self._pixels(image, path)
            except (pillow.DecompressionBombWarning, pillow.DecompressionBombError, SyntaxError) as cause:
                raise ValueError(str(cause)) from cause

    def scale_down(self, image: Any) -> None:
        """Let an open image be decoded as small as is still good; refuse one that this machine has no memory for.

        Raises:
            ValueError: decoding it would take more than a quarter of the machine's memory.
        """
        assert self._size is not None
        whole = image.width * image.height
        image.draft(None, (2 * self._size[1], 2 * self._size[0]))
        needed = _BYTES_A_PIXEL * image.width * image.height
        if "progressive" in image.info or "progression" in image.info:
            needed += _COEFFICIENTS_A_PIXEL * whole
        if needed > (most := _most_bytes()):
            raise ValueError(
                f"its {whole / 1e6:.0f} million pixels take {needed / 1e6:.0f} MB to decode, and this machine may give "
                f"{most / 1e6:.0f} MB: save it smaller, or as a JPEG"
            )

    def changed(self) -> tuple[Remark, ...]:
        """What was changed; refuses deep images none of which uses more than the first 8 bits."""
        if self._deep is not None and 0 < self._largest <= 255:
            raise DataError(
                f"holds 16-bit or 32-bit images with no value above {self._largest}, which looks like 8 bits",
                where=str(self._deep),
                fix="save them as 8-bit images, or as an npz file with the model's own values",
            )
        if self._deep is not None:
            scale = "divided by 257" if self._white == 65535 else f"taken as {self._white.bit_length()} bits"
            kind = f"of 16 or 32 bits, {scale} (largest value {self._largest})"
            counted = [remark for remark in self._tally.remarks() if remark.kind != "deep"]
            (deep,) = [remark for remark in self._tally.remarks() if remark.kind == "deep"]
            return (*counted, Remark(kind, deep.count, deep.example))
        return self._tally.remarks()

    def to_read_again(self, paths: list[Path]) -> Iterator[int]:
        """Places of deep images to read once more, now that the largest value of all tells the bits of their sensor."""
        bits = next(text for text in (8, 10, 12, 14, 16) if self._largest < 1 << text)
        if self._deep is None or bits in (8, 16):
            return
        self._white, self._telling = (1 << bits) - 1, False
        yield from (index for index, path in enumerate(paths) if path in self._deep_paths)

    def _note(self, kind: str, path: Path) -> None:
        if self._telling:
            self._tally.add(kind, str(path.relative_to(self._folder)))

    def note_kinds(self, image: Any, path: Path) -> None:
        """Note what will be changed of an image that is open."""
        if getattr(image, "n_frames", 1) > 1:
            self._note("of several frames, the first is used", path)
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            self._note("with transparency, which is ignored", path)
        if _orientation(image) != 1:
            self._note("turned upright by its EXIF tag", path)

    def _pixels(self, image: Any, path: Path) -> NDArray[np.uint8]:
        self.note_kinds(image, path)
        grey = image.mode in _GREY
        picture = self._eight_bits(image, path)
        if (orientation := _orientation(image)) != 1:
            picture = _upright(self._pillow, picture, orientation)
        if self._size is None:
            return np.asarray(picture.convert("L" if grey else "RGB")).reshape(picture.height, picture.width, -1)
        height, width, channels = self._size
        # Grey is made colour when it is small: each channel is the same, before and after.
        if picture.mode != _MODES[channels] and picture.mode != "L":
            picture = picture.convert(_MODES[channels])
        scale = min(picture.width / width, picture.height / height)
        wide, high = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (picture.width - wide) // 2, (picture.height - high) // 2
        if (wide, high) != (picture.width, picture.height):
            picture = picture.crop((left, top, left + wide, top + high))
        picture = picture.resize((width, height), self._pillow.Resampling.BILINEAR)
        if picture.mode != _MODES[channels]:
            picture = picture.convert(_MODES[channels])
        return np.asarray(picture).reshape(height, width, channels)

    def _eight_bits(self, image: Any, path: Path) -> Any:
        """The picture with 8 bits a channel; deep and float ones scaled by their mode."""
        image.load()
        if image.mode not in (*_DEEP, "F"):
            return image
        values = np.asarray(image).astype(np.float64)
        low, high = float(values.min()), float(values.max())
        top = 1.0 if image.mode == "F" else 65535.0
        if not (low >= 0.0 and high <= top):
            name = "floats" if image.mode == "F" else "integers of more than 8 bits"
            raise DataError(
                f"holds {name} from {low:g} to {high:g}, and only 0 to {top:g} have a known scale",
                where=str(path),
                fix="save it as an 8-bit image, or all of them as an npz file with the model's own values",
            )
        if image.mode == "F":
            self._note("of floats, taken as 0 to 1", path)
        else:
            self._note("deep", path)
            self._deep, self._largest = self._deep or path, max(self._largest, int(high))
            self._deep_paths.add(path)
            top = float(self._white)
        return self._pillow.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))


def _orientation(image: Any) -> int:
    if image.format == "PNG":
        # Its EXIF may lie behind the pixels, so that Pillow decodes them to find it. Damage there must not pass as odd
        # metadata: Pillow says it once, and gives the pixels that it has, black below, when asked again.
        image.load()
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except (ValueError, SyntaxError, KeyError, TypeError, struct.error, OSError):
        return 1  # odd metadata do not make a picture unreadable
    return found if found in range(2, 9) else 1


def _upright(pillow: ModuleType, picture: Any, orientation: int) -> Any:
    way = pillow.Transpose
    turns = {
        2: way.FLIP_LEFT_RIGHT, 3: way.ROTATE_180, 4: way.FLIP_TOP_BOTTOM, 5: way.TRANSPOSE,
        6: way.ROTATE_270, 7: way.TRANSVERSE, 8: way.ROTATE_90,
    }  # fmt: skip
    return picture.transpose(turns[orientation])


def _pillow(folder: Path) -> ModuleType:
    try:
        from PIL import Image
    except ImportError as cause:
        raise DataError(
            "images need Pillow, which is not installed",
            where=str(folder),
            fix=advice("images"),
        ) from cause
    return Image
