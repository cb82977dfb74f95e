"""A small autoencoder of log-mel windows, trained on seen.npz; writes autoencoder.keras."""

import keras
import numpy as np

seen = np.load("seen.npz", allow_pickle=False)["x"]
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input(seen.shape[1:]),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(seen.shape[1]),
    ]
)
model.compile("adam", "mse")
model.fit(seen, seen, epochs=20, verbose=0)
model.save("autoencoder.keras")
