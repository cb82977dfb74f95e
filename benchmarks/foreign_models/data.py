"""Data as people have them, read against a bundle of the same pictures: how many examples, how many are right.

Part of `benchmarks/any_model.py`, which makes the files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

RowFields = tuple[str, str, str, str, bool]

# Reads one data set as a device does, in a process of its own: rc, counts, accuracy, what is said.
_READ = """
import json, sys
from pathlib import Path
import numpy as np
from protos.datafiles import dataset
from protos.errors import EdgejouleError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.head import Head
try:
    from protos.model.resemblance import held_against
except ImportError:
    held_against = None
bundle = open_bundle(sys.argv[1])
backbone, head = Backbone(bundle), Head(bundle)
shape, names = bundle.manifest.backbone.input_shape, bundle.manifest.classes
for spec in sys.argv[2:]:
    out = {"spec": spec}
    try:
        data = dataset.load(spec, image_shape=shape, classes=names, renames={})
        dataset.check(data, shape, len(names))
        data = dataset.fitted(data, shape)
        out |= {"n": len(data), "test": int(data.is_test.sum()), "account": dataset.account_of(data)}
        out["warning"] = held_against(bundle.manifest, data.held, where=data.source) if held_against else None
        z = backbone.dequantise(backbone.embed(data.x))
        out["accuracy"] = head.evaluate(z, data.y).accuracy
    except EdgejouleError as error:
        out |= {"code": error.exit_code, "message": str(error)}
    except Exception as error:
        out |= {"code": -1, "message": f"{type(error).__name__}: {error}"}
    print(json.dumps(out), flush=True)
"""

# By the name of the folder or file: examples, held out, least accuracy, words that must be said; or refusals.
_IMAGES: dict[str, tuple[int, int, float, str]] = {
    "plain": (96, 0, 0.95, ""),
    "gray8": (96, 0, 0.0, ""),
    "gray16": (96, 0, 0.0, "16"),
    "gray12in16": (96, 0, 0.0, "12 bits"),
    "floattiff": (96, 0, 0.0, "floats"),
    "int32tiff": (96, 0, 0.0, "32 bits"),
    "alpha": (96, 0, 0.0, "transparency"),
    "palette": (96, 0, 0.95, ""),
    "palette_transparent": (96, 0, 0.95, "transparency"),
    "cmyk": (96, 0, 0.9, ""),
    "exif_rotated": (96, 0, 0.95, "EXIF"),
    "webp": (96, 0, 0.95, ""),
    "two_classes_gif": (96, 0, 0.95, ""),
    "half_jfif": (96, 0, 0.95, ""),
    "misnamed": (96, 0, 0.95, ""),
    "macos": (96, 0, 0.95, ""),
    "appledouble": (96, 0, 0.95, ""),
    "macosx_folder": (96, 0, 0.95, ""),
    "macosx_split": (192, 96, 0.95, ""),
    "synology": (96, 0, 0.95, ""),
    "checkpoints": (96, 0, 0.95, ""),
    "roboflow": (96, 32, 0.95, ""),
    "trainval": (80, 16, 0.95, ""),
    "capital": (80, 16, 0.95, ""),
    "dev": (80, 16, 0.95, ""),
    "nested": (96, 0, 0.95, ""),
    "partly_nested": (96, 0, 0.95, ""),
    "case": (96, 0, 0.95, ""),
    "broken_link": (96, 0, 0.95, "broken"),
    "one_class": (24, 0, 0.0, ""),  # its pictures are those of another class
    "bare_label_subset": (48, 0, 0.0, ""),
    "kaggle_seg": (80, 16, 0.95, ""),
    "images_above": (96, 0, 0.95, ""),
    "mixed_size": (96, 0, 0.9, ""),
    "upper_ext": (96, 0, 0.95, ""),
}
_IMAGE_REFUSALS = {
    "unicode_nfc": (9,), "unicode_nfd": (9,), "spaces": (9,), "numbers": (9,), "comma": (9,),
    "corrupt_one": (13,), "truncated_jpg": (13,), "flat": (11,),
}  # fmt: skip
_ARRAYS: dict[str, tuple[int, int, float, str]] = {
    "good.npz": (300, 90, 0.95, ""),
    "float255.npz": (300, 90, 0.95, ""),
    "int32.npz": (300, 90, 0.95, ""),
    "big_endian.npz": (300, 90, 0.95, ""),
    "devices.npz": (300, 90, 0.95, ""),
    "device_test_only.npz": (300, 90, 0.95, ""),
    "all_test.npz": (300, 300, 0.95, ""),
    "bgr.npz": (300, 90, 0.0, ""),
}
# Refusals, by their exit codes.
_ARRAY_REFUSALS = {
    "float01.npz": (13,), "float64_01.npz": (13,), "pm1.npz": (13,), "uint16.npz": (13,), "const.npz": (13,),
    "chw.npz": (8,), "flat.npz": (8,), "onehot.npz": (8,), "strings.npz": (9,), "bytes.npz": (9,),
    "from1.npz": (9,), "negative.npz": (9,), "object_x.npz": (13,), "object_y.npz": (13,), "keras_names.npz": (13,),
    "arr.npz": (13,), "images_labels.npz": (13,), "upper.npz": (13,), "nan.npz": (10,), "nan_y.npz": (10,),
    "istest_strings.npz": (13,), "devices_float.npz": (13,), "x.npy": (13,), "table.csv": (13,),
    "data_batch_1": (13,),
}  # fmt: skip
# Further ones, made by `make_data.py`; 40 pictures of 4 classes.
_MORE: dict[str, tuple[int, int, float, str]] = {
    "mode_la": (40, 0, 0.95, "transparency"),
    "mode_cmyk": (40, 0, 0.95, ""),
    "mode_1": (40, 0, 0.9, ""),
    "mode_ycbcr": (40, 0, 0.95, ""),
    "png16_rgb": (40, 0, 0.95, ""),
    "gif_frames": (40, 0, 0.95, "several frames"),
    "webp_frames": (40, 0, 0.95, "several frames"),
    "tiff_pages": (40, 0, 0.95, "several frames"),
    "mpo": (40, 0, 0.95, "several frames"),
    "loop": (40, 0, 0.95, "link to a folder above"),
    "class_link": (40, 0, 0.95, ""),
    "pipe": (40, 0, 0.95, "no plain file"),
    "hidden_class": (30, 0, 0.95, "hidden folder with images"),
    "nfc_and_nfd": (40, 0, 0.95, "class folder without an image"),
    "empty_class": (40, 0, 0.95, "class folder without an image"),
    "leak": (80, 40, 0.95, ""),
    "column.npz": (320, 0, 0.95, ""),
    "caffe.npz": (320, 0, 0.0, "unlike those of the bundle"),
    "signed_wrapped.npz": (320, 0, 0.0, "unlike those of the bundle"),
    "idx_short": (320, 0, 0.95, ""),
    "class_splits": (80, 40, 0.95, ""),
}
_MORE_REFUSALS = {
    "float255": (13,), "black_under_alpha": (13,), "heic": (11,), "pool": (11,), "folds": (9,), "clash": (9,),
    "no_utf8": (13,), "page_as_jpg": (13,), "bomb": (13,), "empty": (11,), "one_based.npz": (9,), "one_hot.npz": (8,),
    "texts.npz": (9,), "half01.npz": (13,), "double01.npz": (13,), "imagenet.npz": (13,), "channels_first.npz": (8,),
    "complex.npz": (13,), "swapped.npz": (8,), "fewer.npz": (8,), "stray_255.npz": (9,), "split_keys.npz": (13,),
    "owners_none.npz": (13,), "pickled.npz": (13,), "nothing.npz": (13,), "cut.npz": (13,), "idx_cut": (13,),
    "year_pool": (11,), "png_damaged": (13,), "with_alpha.npz": (8,), "grey_for_colours.npz": (8,),
    "flattened.npz": (8,),
    "idx_one_based": (9,), "idx_fewer": (8,), "idx_swapped": (8,), "idx_alone": (13,),
}  # fmt: skip
# Pairs of idx files hold 28 x 28 pictures, read here without a bundle: examples and held-out ones.
_IDX = {"emnist": (260, 60), "emnist_digits": (260, 60), "qmnist": (260, 60), "kaggle_double": (260, 60)}

# Tables and recordings, read by front ends: examples, held-out ones, words to be said; or an exit code and words.
_TABLES: dict[str, tuple[int, int, str] | tuple[int, str]] = {
    "gap_in_class.csv": (2, 0, "1 row without a number or a class"),
    "classes_with_points.csv": (12, 0, ""),
    "spreadsheet.csv": (2, 0, ""),
    "open_quote.csv": (13, "close its quotes"),
    "beyond_float32.csv": (1, 0, "1 row without a number or a class"),
    "contest": (2, 0, "1 table without a class"),
    "parts": (3, 1, ""),
    "sounds": (2, 1, "1 class folder without a recording"),
    "goes_on": (1, 0, "though its file goes on"),
    "odd_frame": (13, "24 bits a sample, and 4 bytes"),
    "audio_pool": (11, "all 1 recordings lie in one folder"),
    "named_so": (13, "is an MP3 file"),
}


def data_rows(folder: Path, groups: list[str]) -> Iterator[RowFields]:
    """Rows of the groups of data that are asked for: case, kind, expected, got, ok."""
    with tempfile.TemporaryDirectory(prefix="edgejoule-any-") as scratch:
        for model, data, mine in (
            ("C07-odd/good.keras", "C07-odd/img.npz", ("D01-images", "D03-arrays")),
            ("E01-more/good.keras", "E01-more/image.npz", ("E02-data",)),
        ):
            if not set(mine) & set(groups):
                continue
            bundle = Path(scratch) / mine[0]
            command = [
                sys.executable, "-m", "firmware_tools.cli", "convert", str(folder / model), "--preprocess", "unit",
                "--eval", str(folder / data), "--class-names", "ant,bee,cat,dog", "-o", str(bundle),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                yield model, "bundle for the data", "converts", done.stderr.strip()[-200:], False
                continue
            if "D01-images" in set(mine) & set(groups):
                yield from _judged(bundle, folder / "D01-images", "folder of images", _IMAGES, _IMAGE_REFUSALS)
            if "D03-arrays" in set(mine) & set(groups):
                yield from _judged(bundle, folder / "D03-arrays", "arrays", _ARRAYS, _ARRAY_REFUSALS)
                yield from _idx_rows(folder / "D03-arrays")
            if "E02-data" in set(mine) & set(groups):
                yield from _judged(bundle, folder / "E02-data", "further data", _MORE, _MORE_REFUSALS)
                yield from _table_rows(folder / "E02-data" / "tables")


def _judged(
    bundle: Path,
    folder: Path,
    kind: str,
    read: dict[str, tuple[int, int, float, str]],
    refused: dict[str, tuple[int, ...]],
) -> Iterator[RowFields]:
    names = [*read, *refused]
    command = [sys.executable, "-c", _READ, str(bundle), *(str(folder / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {Path(row["spec"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    for name in names:
        case, one = f"{folder.name}/{name}", found.get(name, {"code": done.returncode, "message": done.stderr[-200:]})
        if name in refused:
            expected = f"refused with exit code {' or '.join(map(str, refused[name]))} and a way on"
            if "code" not in one:
                got = f"read: {one['account']}; {100 * one['accuracy']:.1f} % right; {one['warning'] or 'no warning'}"
                yield case, kind, expected, got, False
                continue
            got = f"refused {one['code']}: {one['message']}".replace(str(folder), folder.name)
            yield case, kind, expected, got, one["code"] in refused[name] and ";" in one["message"]
            continue
        count, held_out, accuracy, words = read[name]
        expected = f"{count} examples, {held_out} held out" + (f", {100 * accuracy:.0f} % right" if accuracy else "")
        expected += f", says {words!r}" if words else ""
        if "code" in one:
            yield case, kind, expected, f"refused {one['code']}: {one['message']}", False
            continue
        got = f"{one['account']}; {100 * one['accuracy']:.1f} % right"
        got += f"; {one['warning']}" if one["warning"] else ""
        right = (one["n"], one["test"]) == (count, held_out) and one["accuracy"] >= accuracy and words in got
        yield case, kind, expected, got, right


def _idx_rows(folder: Path) -> Iterator[RowFields]:
    from protos.datafiles import dataset
    from protos.errors import EdgejouleError

    for name, (count, held_out) in _IDX.items():
        expected = f"{count} examples, {held_out} held out"
        try:
            data = dataset.load(folder / name)
            found = (len(data), int(data.is_test.sum()))
            yield f"{folder.name}/{name}", "idx", expected, dataset.account_of(data), found == (count, held_out)
        except EdgejouleError as error:
            yield f"{folder.name}/{name}", "idx", expected, f"refused {error.exit_code}: {error}", False


def _table_rows(folder: Path) -> Iterator[RowFields]:
    from protos.datafiles import dataset
    from protos.datafiles.front_end import front_end_of
    from protos.errors import EdgejouleError

    rows = front_end_of("rows width=2 label=y")
    sound = front_end_of("log-mel rate=8000 frame=256 hop=128 bins=20 frames=30")
    for name, wanted in _TABLES.items():
        path, words = folder / name, str(wanted[-1])
        counts = f"{wanted[0]} examples, {wanted[1]} held out" if len(wanted) == 3 else ""
        expected = counts or f"refused with exit code {wanted[0]} and a way on"
        expected += f", says {words!r}" if words else ""
        table = path.suffix == ".csv" or any(path.glob("*.csv"))
        try:
            data = dataset.load(path, front_end=rows if table else sound)
        except EdgejouleError as error:
            got = f"refused {error.exit_code}: {error}".replace(str(folder), folder.name)
            right = not counts and error.exit_code == wanted[0] and words in got and ";" in got
            yield f"E02-data/tables/{name}", "tables and sound", expected, got, right
            continue
        got = dataset.account_of(data)
        classes = [str(number) for number in range(len(data))] if name.startswith("classes") else None
        right = (len(data), int(data.is_test.sum())) == wanted[:2] and words in got
        right &= classes is None or (
            list(data.class_names or ()) == classes and data.y.tolist() == list(range(len(data)))
        )
        yield f"E02-data/tables/{name}", "tables and sound", expected, got, right
