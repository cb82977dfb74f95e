"""What metering costs and how wrong it is: the parts of metering.py, and studies."""
