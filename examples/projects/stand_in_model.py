"""A small CNN for images of 8 x 8 pixels, trained on seen.npz for two passes; writes digits.keras."""

import keras
import numpy as np

seen = np.load("seen.npz", allow_pickle=False)
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 16),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(seen["x"], seen["y"], epochs=2, verbose=0)
model.save("digits.keras")
