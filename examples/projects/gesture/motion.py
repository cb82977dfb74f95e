"""Synthesised motion: what a wrist's accelerometer might say of four gestures, by people who make them unlike.

There is no recording of people in it. With t in seconds, a person's pace p (1/s), strength s and tilt, and noise of
0.15 g, acceleration in g is

    shake   s sin(2 pi 3 p t) along x
    circle  s (cos, sin)(2 pi p t) in x and y
    raise   a bump s exp(-((t - t0) / 0.25)^2) along z
    rest    nothing but gravity

each turned by the person's tilt, with gravity (0, 0, 1) added before the turn. Angles are uniform within 0.6 rad, p
within 0.7 to 1.5, s within 0.3 to 1.2.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

GESTURES = ("circle", "raise", "rest", "shake")
RATE_HZ, LENGTH = 50, 50
COLUMNS = ("ax", "ay", "az")


def recording(gesture: str, person: int, windows: int, seed: int) -> npt.NDArray[np.float64]:
    """So many seconds of one person making one gesture again and again, g, float64 [windows * 50, 3]."""
    own = np.random.default_rng([seed, person])
    pace, strength, turn, lean = own.uniform(0.7, 1.5), own.uniform(0.3, 1.2), *own.uniform(-0.6, 0.6, 2)
    random = np.random.default_rng([seed, person, GESTURES.index(gesture)])
    made = []
    for _ in range(windows):
        t = np.arange(LENGTH) / RATE_HZ
        a = np.zeros((LENGTH, 3))
        phase = random.uniform(0, 2 * np.pi)
        if gesture == "shake":
            a[:, 0] = strength * np.sin(2 * np.pi * 3 * pace * t + phase)
        elif gesture == "circle":
            a[:, 0] = strength * np.cos(2 * np.pi * pace * t + phase)
            a[:, 1] = strength * np.sin(2 * np.pi * pace * t + phase)
        elif gesture == "raise":
            a[:, 2] = strength * np.exp(-(((t - random.uniform(0.3, 0.7)) / 0.25) ** 2))
        made.append(a)
    still = np.concatenate(made) + np.array([0.0, 0.0, 1.0])
    c, s = np.cos(turn), np.sin(turn)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = np.cos(lean), np.sin(lean)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return still @ (about_z @ about_x).T + random.normal(0, 0.15, still.shape)


def table(path: Path, people: range, windows: int, seed: int) -> Path:
    """A table as a logger on a board writes it: ax, ay, az, activity."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow((*COLUMNS, "activity"))
        for person in people:
            for gesture in GESTURES:
                for row in recording(gesture, person, windows, seed):
                    rows.writerow((*(f"{value:.4f}" for value in row), gesture))
    return path


def examples(
    people: range, windows: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.str_]]:
    """Windows of one second: x float32 [N, 50, 3] in g, y int32 [N], and whose each is."""
    x, y, whose = [], [], []
    for person in people:
        for label, gesture in enumerate(GESTURES):
            x.append(recording(gesture, person, windows, seed).reshape(windows, LENGTH, 3))
            y += [label] * windows
            whose += [f"person-{person:02d}"] * windows
    return np.concatenate(x).astype(np.float32), np.array(y, np.int32), np.array(whose)
