"""A program that is measured and recorded, and run again on its recording: the same joules, without the sensor.

python3 examples/record_and_replay.py serial:/dev/ttyUSB0 run.ejr
python3 examples/record_and_replay.py replay:run.ejr
"""

import sys
import time

from edge_runtime.api import Meter

sensor, *record = sys.argv[1:]

with Meter(sensor, record=record[0] if record else None) as meter:
    for _ in range(3):
        with meter.window("step") as step:
            time.sleep(0.1)
        print(step)
    print(meter.total("step"))
