"""The real firmware on a simulated ATmega328P with simulated INA219 sensors (see README.md of this folder)."""
