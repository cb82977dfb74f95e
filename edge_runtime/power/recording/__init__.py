"""Recordings: what a sensor sent, in a file that survives a power cut, and the sensor that plays it again."""
