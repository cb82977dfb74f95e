"""What goes wrong on a device, provoked: the parts of field.py, and a day of it."""
