"""A decoder at work, in a child process: here TensorFlow is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.child import Progress
from protos.errors import ModelError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_FIX = "give the decoder that was pre-trained with the bundle's encoder"


def run(fields: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Decode the embeddings of one file into another.

    Raises:
        ModelError: the decoder cannot be opened, or is for other embeddings.
    """
    import keras

    where = Path(fields["decoder"]).name
    try:
        decoder = keras.models.load_model(fields["decoder"], compile=False)
    except (OSError, ValueError, TypeError) as error:
        said = str(error).splitlines()[0][:200]
        raise ModelError(f"cannot be opened as a decoder ({said})", where=where, fix=_FIX) from error
    given = np.load(fields["given"], allow_pickle=False)
    progress(f"decoding {len(given)} embeddings")
    takes, gives = tuple(decoder.input_shape[1:]), tuple(decoder.output_shape[1:])
    if takes != given.shape[1:] or len(gives) != 3:
        raise ModelError(
            f"takes {list(takes)} and gives {list(gives)}, where an embedding has {given.shape[1]} numbers and an "
            "image three sides",
            where=where,
            fix=_FIX,
        )
    shade = np.asarray(decoder.predict(given, batch_size=256, verbose=0))
    if not np.isfinite(shade).all():
        raise ModelError("gives pixels that are not finite", where=where, fix=_FIX)
    np.save(fields["made"], np.clip(np.rint(255 * shade), 0, 255).astype(np.uint8), allow_pickle=False)
    return {"examples": len(given)}
