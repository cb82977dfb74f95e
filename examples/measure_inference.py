"""Joules of a piece of a program, with the board at rest taken away.

python3 examples/measure_inference.py serial:/dev/ttyUSB0
"""

import sys
import time

import numpy as np

from edge_runtime.api import Meter

sensor = sys.argv[1] if len(sys.argv) > 1 else "estimate:pi4"
rng = np.random.default_rng(0)
layer, batch = rng.normal(size=(512, 512)), rng.normal(size=(64, 512))

with Meter(sensor) as meter:
    with meter.window("rest") as before:
        time.sleep(0.3)
    with meter.window("infer") as infer:
        for _ in range(50):
            batch = np.tanh(batch @ layer)
    with meter.window("rest") as after:
        time.sleep(0.3)

    # Figures wait for the last samples; read them outside of what is measured.
    print(infer)
    net = infer.net(before, after)
    if net.energy_j is None:
        print(f"beyond rest: unknown ({', '.join(net.flags)})")
    else:
        print(f"beyond rest: {net.energy_j:.3g} J, {net.energy_j / 50:.3g} J a batch")
