"""Who this device is on the wire: its key and certificate, how it got them, and how they are renewed."""
