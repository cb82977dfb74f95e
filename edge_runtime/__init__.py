"""The device: joins, trains the head, meters what it cost, reports."""
