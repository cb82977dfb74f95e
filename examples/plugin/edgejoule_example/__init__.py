"""A codec, a sensor, a weight factor, an aggregation rule and an objective, in a package of their own."""
