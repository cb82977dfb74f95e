"""Recordings in the formats of other instruments."""
