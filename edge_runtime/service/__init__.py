"""The daemon as a service of systemd: its unit, what it tells systemd, and the commands that put it there."""
