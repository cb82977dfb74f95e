"""A decorated function, called by several threads; what all calls came to.

python3 examples/measure_threads.py serial:/dev/ttyUSB0
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from edge_runtime.api import Meter, measure

meter = Meter(sys.argv[1] if len(sys.argv) > 1 else "estimate:pi4")


@measure(meter, "work")
def work(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


with meter, ThreadPoolExecutor(4) as pool, meter.window("all") as whole:
    list(pool.map(work, [0.05] * 8))

print(whole)
# Calls that ran at once share their joules: the sum counts them twice, and says so.
total = meter.total("work")
print(total)
assert "overlapping" in total.flags
