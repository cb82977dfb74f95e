"""A machine that sounds unlike itself: the ToyCar autoencoder of MLPerf Tiny, and what is normal learnt by a fleet.

    python3 examples/projects/machine_sound/run.py -o machine/

The autoencoder gives what it cannot reconstruct; boards sum that over their normal examples, once, and the head is the
Mahalanobis distance from what all of them heard. One normal recording of a car comes with the model (196 windows of
five frames in 128 mel bands, dB). No board heard anything else: each is that recording through a microphone of its own
(a level, and a slope over the bands), and anomalies are made of it by a tone, a rattle or a band that is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import journey  # noqa: E402

FRAMES, BANDS = 5, 128
Floats = npt.NDArray[np.float32]


def recorded(path: Path | None) -> Floats:
    """Windows of a normal machine, log-mel energies in dB, float32 [N, 640]."""
    if path is not None:
        frames = np.fromfile(path, "<f4").reshape(-1, BANDS)
        return np.stack([frames[at : at + FRAMES].ravel() for at in range(len(frames) - FRAMES + 1)])
    print("a synthesised hum stands in for the recording: its figures say nothing of machines", flush=True)
    random = np.random.default_rng(7)
    # About its own mean, as a network can learn it in seconds.
    slope = 4 - 8 * np.arange(BANDS) / BANDS
    mel = slope + 8 * np.exp(-(((np.arange(BANDS) - 20) / 4.0) ** 2)) + random.normal(0, 2.0, (196, FRAMES, BANDS))
    return mel.reshape(196, -1).astype(np.float32)


def through_microphone(windows: Floats, board: int) -> Floats:
    """As one board hears them: its level, within 1 dB, a slope within 1 dB over the bands, and noise of 0.3 dB."""
    random = np.random.default_rng([1, board])
    level, slope = random.uniform(-1, 1, 2)
    heard = windows.reshape(-1, FRAMES, BANDS) + level + slope * np.linspace(-0.5, 0.5, BANDS)
    return (heard + random.normal(0, 0.3, heard.shape)).reshape(len(windows), -1).astype(np.float32)


def spoilt(windows: Floats, seed: int) -> Floats:
    """A third each with a tone of 6 dB, a rattle of 4 dB in two frames, and eight bands that are 6 dB down."""
    random = np.random.default_rng(seed)
    made = windows.reshape(-1, FRAMES, BANDS).copy()
    for at, window in enumerate(made):
        band = int(random.integers(8, BANDS - 16))
        if at % 3 == 0:
            window[:, band : band + 2] += 6.0
        elif at % 3 == 1:
            window[1:3] += 4.0 * random.random(BANDS)
        else:
            window[:, band : band + 8] -= 6.0
    return made.reshape(len(windows), -1)


def autoencoder(folder: Path, normal: Floats) -> Path:
    """In place of the published one: 640 -> 64 -> 8 -> 64 -> 640, trained on the hum."""
    np.savez(folder / "seen.npz", x=normal)
    journey.script(HERE / "model.py", folder)
    return folder / "autoencoder.keras"


def main() -> None:
    """Convert, simulate, tell."""
    options = journey.options(__doc__)
    boards = 2 if options.small else 6
    with journey.room(options.output) as folder:
        recording = journey.reference("models_mlperf_tiny", "normal_id_01_00000000_hist_librosa.bin")
        normal = recorded(recording)
        model = journey.reference("models_mlperf_tiny", "ad01_fp32.tflite") or autoencoder(folder, normal)
        # The last quarter of the recording: neighbours share frames, so five windows between are nobody's.
        at = np.arange(len(normal)) / len(normal)
        held, boards_own = at >= 0.75, at < 0.75 - FRAMES / len(normal)
        mine = [through_microphone(normal[boards_own], board) for board in range(boards)]
        whose = np.repeat([f"board-{board}" for board in range(boards)], boards_own.sum())
        other = through_microphone(normal[held], boards)
        x = np.concatenate([*mine, other, spoilt(other, 3)])
        y = np.concatenate([np.zeros(len(whose) + len(other)), np.ones(len(other))])
        held_out = np.arange(len(y)) >= len(whose)
        device = np.concatenate([whose, np.repeat("held-out", 2 * len(other))])
        data = journey.keep(folder / "sound.npz", x, y, held_out, device)
        journey.command(
            "firmware-tools", "convert", model, "--objective", "anomaly", "--eval", data, "-o", folder / "bundle"
        )
        found = journey.fleet(
            folder, HERE / "plan.toml", data, devices=boards, boards="pi3b-plus,pi4", partition="natural"
        )
        journey.conclude(found, "auc")


if __name__ == "__main__":
    main()
