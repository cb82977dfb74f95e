"""Heads that are more than one classifier in floats: for one device, that denoise, on few bits."""
