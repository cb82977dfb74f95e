"""The wire protocol between the serial power bridge and its host: framing and messages."""
