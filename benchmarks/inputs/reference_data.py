"""Makes data files of this project's format from the folder of reference data.

The folder is named by EDGEJOULE_REFERENCE_DATA, or is `../shared/data` beside the repository; nothing is downloaded.

    .venv/bin/python benchmarks/inputs/reference_data.py cifar10 -o /tmp/cifar10.npz
    .venv/bin/python benchmarks/inputs/reference_data.py flowers -o /tmp/flowers/ --json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import string
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from protos.datafiles.dataset import Dataset, load, save
from protos.errors import DataError, EdgejouleError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FEMNIST = tuple(string.digits + string.ascii_uppercase + string.ascii_lowercase)
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def root() -> Path:
    """The folder of reference data.

    Raises:
        DataError: there is none.
    """
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("EDGEJOULE_REFERENCE_DATA") or beside)
    if not folder.is_dir():
        raise DataError("no reference data there", where=str(folder), fix="set EDGEJOULE_REFERENCE_DATA to the folder")
    return folder


def cifar10() -> Dataset:
    """5,000 training and 2,000 held-out JPEG images, uint8 [7000, 32, 32, 3]."""
    path = root() / "cifar10_subset" / "cifar10_jpeg.npz"
    with np.load(path, allow_pickle=False) as stored:
        x = np.concatenate([stored["x_train"], stored["x_test"]])
        y = np.concatenate([stored["y_train"], stored["y_test"]]).astype(np.int32)
        is_test = np.arange(len(y)) >= len(stored["y_train"])
    return Dataset(x, y, is_test, None, CIFAR10, str(path))


def cifar10_workshop() -> Dataset:
    """4,000 more training images, none of them in :func:`cifar10`, as JPEG of the same quality, and its held-out ones.

    They are stored without loss; quality 75 with halved colours is what the others were written with.
    """
    from PIL import Image

    path = root() / "cifar10_subset" / "cifar10_lossless_train4000.npz"
    with np.load(path, allow_pickle=False) as stored:
        plain, labels = stored["x"], stored["y"].astype(np.int32)
    lossy = np.empty_like(plain)
    for at, image in enumerate(plain):
        written = io.BytesIO()
        Image.fromarray(image).save(written, "JPEG", quality=75, subsampling=2)
        with Image.open(written) as read:
            lossy[at] = np.asarray(read)
    held_out = cifar10().test()
    x, y = np.concatenate([lossy, held_out.x]), np.concatenate([labels, held_out.y])
    return Dataset(x, y, np.arange(len(y)) >= len(labels), None, CIFAR10, str(path))


def femnist() -> Dataset:
    """105 writers, uint8 [16393, 28, 28], 62 classes, the LEAF split; the owner is the writer."""
    path = root() / "femnist_by_writer" / "femnist_105_writers.npz"
    with np.load(path, allow_pickle=False) as stored:
        owner = stored["writer_ids"][stored["writer"]]
        y, is_test = stored["y"].astype(np.int32), stored["is_test"].astype(np.bool_)
        return Dataset(stored["x"], y, is_test, owner, FEMNIST, str(path))


def mnist() -> Dataset:
    """60,000 training and 10,000 held-out digits, uint8 [70000, 28, 28]."""
    return load(root() / "mnist")


def fashion_mnist() -> Dataset:
    """60,000 training and 10,000 held-out articles, uint8 [70000, 28, 28]."""
    data = load(root() / "fashion_mnist")
    return Dataset(data.x, data.y, data.is_test, None, FASHION, data.source)


def flowers(folder: Path) -> int:
    """Copy 50 photos, CLASS_NAME.jpg, to `folder`/CLASS/NAME.jpg; returns how many."""
    photos = sorted((root() / "flowers_embeddings" / "jpg").glob("*.jpg"))
    for photo in photos:
        label, _, name = photo.name.partition("_")
        (folder / label).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, folder / label / name)
    return len(photos)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "cifar10": cifar10,
    "cifar10_workshop": cifar10_workshop,
    "femnist": femnist,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*DATASETS, "flowers"])
    parser.add_argument("-o", "--output", type=Path, required=True, help="FILE.npz, or a folder for flowers")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    options = parser.parse_args()
    try:
        if options.name == "flowers":
            made = {"output": str(options.output), "examples": flowers(options.output)}
        else:
            data = DATASETS[options.name]()
            save(data, options.output)
            made = {
                "output": str(options.output),
                "examples": len(data),
                "held_out": int(data.is_test.sum()),
                "shape": list(data.x.shape[1:]),
                "owners": 0 if data.owner is None else len(np.unique(data.owner)),
            }
    except EdgejouleError as error:
        print(f"reference_data: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"reference_data: {options.output}: cannot be written ({error.strerror})", file=sys.stderr)
        return 1
    print(json.dumps(made) if options.json else f"{made['output']}: {made['examples']} examples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
