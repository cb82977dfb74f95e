"""Meters: joules of phases and windows over a sensor, over a model, over nothing."""
