"""What the TFLite converter means: its messages are call sites and passes of a compiler around one clause."""

from __future__ import annotations

import re

# "FILE:LINE:COLUMN: error: CLAUSE"; notes, call sites and passes follow the clause.
_ERROR = re.compile(r"error:\s*(.+?)(?=\s*(?:\n|$|<[^>\n]*>:\d|/\S+:\d+:\d+:|during TF Lite|see current op))")
_PLACES = re.compile(r"fused\[[^\]]*\]|<[^<>\n]*>:\d+(?::\d+)?:?|\S+\.py:\d+\S*")
_LAYER = re.compile(r'fused\["[A-Za-z0-9]+:",\s*"([^"@]+)')
# Clauses that say only that something went wrong.
_EMPTY = ("failed to legalize", "failures have been detected", "Lowering tensor list", "failed to convert")


def converter_words(text: str) -> str:
    """The clause that says what is wrong, with the layer that it is about where that is told; about 200 characters.

    >>> converter_words("<unknown>:0: error: loc(callsite('a'('b':1:1))): 'tf.Erf' op is neither a custom op")
    "'tf.Erf' op is neither a custom op"
    """
    plain = _PLACES.sub(" ", _without_locations(text))
    clauses = [clause for each_text in _ERROR.findall(plain) if (clause := " ".join(each_text.split()).strip(" :"))]
    good = [each_clause for each_clause in clauses if not any(word in each_clause for word in _EMPTY)]
    clause = (good or clauses or [" ".join(plain.split())])[0]
    layer = _LAYER.search(text)
    at = f" (at {layer[1]})" if layer and layer[1] not in clause else ""
    return (clause[:200] or "it gives no reason") + at


def _without_locations(text: str) -> str:
    """The text less every ``loc(...)`` and ``callsite(...)``, whose brackets are nested."""
    kept, at = [], 0
    for found in re.finditer(r"\b(loc|callsite)\(", text):
        if found.start() < at:
            continue
        kept.append(text[at : found.start()])
        depth, at = 1, found.end()
        while at < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += 1
    return "".join([*kept, text[at:]])
