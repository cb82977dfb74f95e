"""A CNN over a second of acceleration, trained on seen.npz; writes gesture.keras."""

import keras
import numpy as np

seen = np.load("seen.npz", allow_pickle=False)
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input(seen["x"].shape[1:]),
        keras.layers.Conv1D(16, 5, activation="relu"),
        keras.layers.MaxPooling1D(2),
        keras.layers.Conv1D(32, 5, activation="relu"),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(int(seen["y"].max()) + 1, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(seen["x"], seen["y"], epochs=10, verbose=0)
model.save("gesture.keras")
