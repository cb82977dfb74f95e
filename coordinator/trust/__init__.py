"""Who belongs to a fleet: its certificate authority, its register of tokens and certificates, its audit log."""
