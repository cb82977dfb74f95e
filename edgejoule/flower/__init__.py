"""For users of Flower (flwr 1.42): our codecs as a mod, strategies that weigh by joules, joules in the metrics.

    codec.py       ``coded``, a mod for a ClientApp, and ``Decoding``, the other end for any strategy
    strategies.py  ``EnergyWeighted`` and ``Unbiased``
    metering.py    ``meter``, for functions of a ClientApp
    packing.py     a coded change as the bytes of one array

Nothing here needs protobuf or gRPC of ours: Flower's own versions are others (docs/flower.md says how to install both).
This file imports nothing.
"""
