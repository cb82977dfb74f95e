"""Readers of local data, one room per file format; `protos.dataset` is the door."""
