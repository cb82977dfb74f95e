"""The service of a device on a machine of its own: installed, packaged, upgraded, watched."""
