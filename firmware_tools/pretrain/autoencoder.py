"""A small convolutional autoencoder, pre-trained in the workshop: its encoder becomes a frozen backbone.

Latents get normal noise before they are decoded, and are kept small, so that what lies between two examples decodes to
something too (Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.pretrain import quiet_keras
from protos.datafiles.dataset import Dataset
from protos.errors import DataError

_NOISE, _SMALL = 0.3, 1e-3
_PIXEL = 1 / 255


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        encoder: raw pixels to a latent; decoder: a latent to pixels 0..1; both .keras.
        error: mean squared error of pixels 0..1 on the examples it was trained on.
    """

    encoder: Path
    decoder: Path
    error: float


def pretrain(data: Dataset, folder: Path, *, latent: int = 16, epochs: int = 10, seed: int = 0) -> Made:
    """Train encoder and decoder.

    Args:
        data: uint8 images [N, H, W] or [N, H, W, C], H and W divisible by 4.
        latent: numbers of a latent.

    Raises:
        DataError: other examples.
    """
    x = data.x[..., None] if data.x.ndim == 3 else data.x
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1] % 4 or x.shape[2] % 4 or not len(x):
        raise DataError(
            f"examples {x.dtype} {list(x.shape[1:])}: an autoencoder is trained on uint8 images whose sides 4 divides",
            where=data.source,
        )
    keras = quiet_keras.loaded()
    keras.utils.set_random_seed(seed)
    height, width, channels = x.shape[1:]
    encoder, decoder = _encoder(keras, x.shape[1:], latent), _decoder(keras, (height, width), channels, latent)
    given = keras.Input((height, width, channels))
    noisy = keras.layers.GaussianNoise(_NOISE, seed=seed)(encoder(given))
    whole = keras.Model(given, decoder(noisy))
    whole.compile(keras.optimizers.Adam(2e-3), "binary_crossentropy")
    shade = x.astype(np.float32) * np.float32(_PIXEL)
    whole.fit(shade, shade, batch_size=64, epochs=epochs, verbose=0)
    error = float(np.mean((whole.predict(shade[:2000], verbose=0) - shade[:2000]) ** 2))
    # Empty borders are zeros either way: dividing the first kernel is dividing the pixels.
    kernel, bias = encoder.get_layer("first").get_weights()
    encoder.get_layer("first").set_weights([kernel * _PIXEL, bias])
    folder.mkdir(parents=True, exist_ok=True)
    made = Made(folder / "encoder.keras", folder / "decoder.keras", error)
    encoder.save(made.encoder)
    decoder.save(made.decoder)
    return made


def _encoder(keras: Any, shape: tuple[int, ...], latent: int) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="first"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(latent, name="latent", activity_regularizer=keras.regularizers.L2(_SMALL)),
        ]
    )


def _decoder(keras: Any, sides: tuple[int, int], channels: int, latent: int) -> Any:
    layers, (high, wide) = keras.layers, (side // 4 for side in sides)
    return keras.Sequential(
        [
            keras.Input((latent,)),
            layers.Dense(high * wide * 32, activation="relu"),
            layers.Reshape((high, wide, 32)),
            layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(channels, 3, padding="same", activation="sigmoid"),
        ]
    )
