"""Tests of real hardware, and the same tests on a bench that is simulated. README.md says how to bring one up."""
