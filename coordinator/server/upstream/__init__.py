"""A coordinator as one device of another: it sums over its own devices, exactly, and reports the sum upward.

    link.py   the calls of a device, on the event loop
    sums.py   what its devices sent as one report: statistics, examples, joules
    handed_down.py  heads from above, which go on to its devices as they came
    site.py   joins, is ordered, lets its own devices do it, reports; and waits for whoever is away

This file imports nothing.
"""
