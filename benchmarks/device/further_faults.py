"""Further faults of the field, one function each, as those of `faults.py`: what is exchanged, copied, or half there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.device.faults import GIVE_UP_S, Rig, Row, row, until

__all__ = ["FURTHER_FAULTS"]


def _photographs(rig: Rig, folder: Path, numbers: range) -> None:
    from PIL import Image

    manifest = rig.bundle.manifest
    height, width, channels = manifest.backbone.input_shape
    for number in numbers:
        path = folder / manifest.classes[number % len(manifest.classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path)


def exchanged_disk(rig: Rig) -> Row:
    """The data disk is taken away while the daemon runs, which leaves an empty folder; another one is put in."""
    rig.serve()
    rig.data = rig.folder / "disk"
    _photographs(rig, rig.data, range(30))
    _photographs(rig, rig.folder / "other", range(100, 145))
    daemon = rig.device()
    rig.round_works()
    rig.data.rename(rig.folder / "away")
    rig.data.mkdir()
    run_id = rig.begin_run()
    reason = rig.says("image")
    rig.data.rmdir()
    (rig.folder / "other").rename(rig.data)
    recovered_s = rig.await_run(run_id)
    found = rig.shown()
    assert found is not None
    assert found.train_examples == 45, found.train_examples
    return row("a data disk that is exchanged", daemon, recovered_s, reason)


def copied_card(rig: Rig) -> Row:
    """A card is copied while its board is off, and starts in another one; then the first board comes back."""
    rig.serve()
    rig.write_data()
    for name in ("one", "two"):
        machine = rig.folder / name / "etc" / "machine-id"
        machine.parent.mkdir(parents=True)
        machine.write_text(f"{name:0<32}\n")
    first = rig.device("--machine-root", rig.folder / "one")
    rig.round_works()
    first.terminate()
    first.wait(GIVE_UP_S)
    shutil.copytree(rig.folder / "state", rig.folder / "copy")
    second = rig.device("--machine-root", rig.folder / "two", state="copy")
    rig.round_works()
    assert any("came from another machine" in line for line in rig.log())
    daemon = rig.device("--machine-root", rig.folder / "one")
    reason = rig.says("second device")
    second.terminate()
    second.wait(GIVE_UP_S)
    return row("a card that was copied", daemon, rig.round_works(), reason)


def half_a_file(rig: Rig) -> Row:
    """A picture is being copied into the inbox when a round begins, beside one that is no picture; then it is whole."""
    from io import BytesIO

    from PIL import Image

    rig.serve()
    manifest = rig.bundle.manifest
    height, width, channels = manifest.backbone.input_shape
    rig.data = rig.folder / "own"

    def picture(number: int) -> bytes:
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        file = BytesIO()
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG")
        return file.getvalue()

    from edge_runtime.data.store import ExampleStore

    store = ExampleStore(rig.data)
    for number in range(20):
        store.add(picture(number), manifest.classes[number % 2])
    daemon = rig.device()
    until(lambda: (one := rig.shown()) is not None and one.train_examples == 20)
    inbox = rig.data / "inbox" / manifest.classes[0]
    inbox.mkdir(parents=True)
    whole = picture(20)
    (inbox / "a.png").write_bytes(whole[: len(whole) // 2])
    (inbox / "b.npy").write_bytes(b"no array")
    rig.round_works()
    found = rig.shown()
    assert found is not None
    assert found.train_examples == 20, found.train_examples
    assert (rig.data / "inbox" / ".refused" / "b.npy").exists()
    (inbox / "a.png").write_bytes(whole)
    recovered_s = rig.round_works()
    until(lambda: (one := rig.shown()) is not None and one.train_examples == 21)
    return row("half a file in the inbox", daemon, recovered_s, "21 examples")


FURTHER_FAULTS: tuple[Callable[[Rig], Row], ...] = (exchanged_disk, copied_card, half_a_file)
