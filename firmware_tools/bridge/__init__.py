"""The INA219 serial bridge: its protocol drawn, and a simulated bridge on a pseudo-terminal."""
