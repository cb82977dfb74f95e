"""Runs in labgrid's own environment: loads our file, makes the target, reads its port. Prints JSON.

Nothing of ours can be imported here: labgrid brings another pyserial.
"""

from __future__ import annotations

import json
import sys

from labgrid import Environment

path, listen = sys.argv[1], len(sys.argv) > 2
environment = Environment(path)
target = environment.get_target("main")
told = {
    "features": sorted(environment.get_target_features()),
    "resources": sorted(type(resource).__name__ for resource in target.resources),
    "drivers": sorted(type(each_driver).__name__ for each_driver in target.drivers),
    "heard": "",
}
if listen:
    driver = target.get_driver("SerialDriver")
    target.activate(driver)
    data = b""
    while len(data) < 4000:
        data += driver.read(size=1, timeout=30.0)
    told["heard"] = data.hex()
    target.deactivate(driver)
print(json.dumps(told))
