"""The coordinator as a service of systemd."""
