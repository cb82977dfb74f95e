"""Readers of local data, one room per file format; `protos.datafiles.dataset` is the door."""
