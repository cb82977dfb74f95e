"""`OLD=NEW`: what a class of the data is called in the model. Needs no numpy, for commands that must start at once."""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """The name as people read it: in Unicode normalisation form C, without blanks at its ends."""
    return unicodedata.normalize("NFC", name).strip()


def read_renames(text: str) -> dict[str, str]:
    """`OLD=NEW`, several divided by commas, as a table from the data's name to the model's.

    Raises:
        ValueError: anything else, in words that follow "is".
    """
    found: dict[str, str] = {}
    for pair in text.split(","):
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not (old and equals and new) or composed(old) in found:
            raise ValueError("not OLD=NEW, several divided by commas, each OLD once")
        found[composed(old)] = composed(new)
    return found
