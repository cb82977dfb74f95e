"""An image sorter: photos of flowers through an extractor that never trains, and a head solved for in one pass.

    python3 examples/projects/image_sorter/run.py -o sorted/
    python3 examples/projects/image_sorter/run.py --photos FOLDER       # your own, a folder for each class

Each board sends sums of the embeddings of its photos, once; no photo leaves it. The head is the ridge regression that
one machine with all photos would have found, bit by bit.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import journey  # noqa: E402
import stand_in  # noqa: E402


def photos_by_class(source: Path, folder: Path) -> Path:
    """CLASS_NAME.jpg of one folder as CLASS/NAME.jpg, and every fifth of a class held out."""
    for at, photo in enumerate(sorted(source.glob("*.jpg"))):
        label, _, name = photo.name.partition("_")
        there = folder / ("test" if at % 5 == 4 else "train") / label
        there.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, there / name)
    return folder


def main() -> None:
    """Convert, simulate, tell."""
    options = journey.options(__doc__, photos="a folder of your own photos, one for each class in it")
    with journey.room(options.output) as folder:
        model = journey.reference(
            "models_coral", "mobilenet_v1_0.25_128_quant.tflite"
            if options.small else "mobilenet_v1_1.0_224_quant_embedding_extractor.tflite",
        )  # fmt: skip
        photos = options.photos or journey.reference("flowers_embeddings", "jpg")
        words: list[str | Path] = []
        if model is None or photos is None:
            data, model = stand_in.digits(folder), stand_in.digits_model(folder)
        else:
            data = photos if options.photos else photos_by_class(photos, folder / "photos")
            classes = {path.parent.name for path in data.rglob("*.jp*g")}
            words = ["--fresh-head", "--classes", str(len(classes))]
            if options.small:
                words += ["--cut", "MobilenetV1/Logits/AvgPool_1a/AvgPool"]
        journey.command("firmware-tools", "convert", model, "--eval", data, *words, "-o", folder / "bundle")
        found = journey.fleet(
            folder, HERE / "plan.toml", data, devices=4, boards="coral-dev,pi5,pi4,pi-zero-2", partition="iid"
        )
        journey.conclude(found)


if __name__ == "__main__":
    main()
