"""Makes models of the kinds that converters trip over, and their data, in the current folder. Seeded; a minute."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L  # noqa: N812

keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
N = 300
y = rng.integers(0, 3, N).astype(np.int32)
held_out = np.arange(N) >= 200

# Windows of 8 steps of 3 values; the class is the frequency.
t = np.linspace(0, 2 * np.pi, 8)
wave = np.stack([np.stack([np.sin((k + 1) * t + p), np.cos((k + 1) * t + p), 0.5 * np.sin(t + p)], 1)
                 for k, p in zip(y, rng.uniform(0, 6.28, N), strict=True)])  # fmt: skip
wave = (wave + rng.normal(0, 0.1, wave.shape)).astype(np.float32)
np.savez("wave.npz", x=wave, y=y, is_test=held_out)
# The same classes in values of very unlike units.
units = rng.normal(0, 1, (N, 3))
units[np.arange(N), y] += 4.0
units = (units * [900.0, 0.02, 3.0] + [101325.0, 0.0, 22.0]).astype(np.float32)
np.savez("units.npz", x=units, y=y, is_test=held_out)
# Pictures whose class is a bright corner.
image = rng.integers(0, 120, (N, 12, 12, 3)).astype(np.uint8)
for at, k in enumerate(y):
    image[at, 6 * (k // 2) : 6 * (k // 2) + 6, 6 * (k % 2) : 6 * (k % 2) + 6] += 110
np.savez("image.npz", x=image, y=y, is_test=held_out)
unit_image = image.astype(np.float32) / 255
np.savez("float01.npz", x=unit_image, y=y, is_test=held_out)


def fitted(model, x, epochs=12, loss="sparse_categorical_crossentropy", target=y):
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(x[:200], target[:200], epochs=epochs, batch_size=20, verbose=0)
    return model


def head(value):
    return L.Dense(3, activation="softmax", name="scores")(value)


for name, layer in (("gru", L.GRU(8)), ("lstm", L.LSTM(8)), ("rnn", L.SimpleRNN(8))):
    start = keras.Input((8, 3))
    made = fitted(keras.Model(start, head(layer(start))), wave)
    made.save(f"{name}.keras")
    made.export(f"{name}_saved", verbose=False)

norm = L.Normalization()
norm.adapt(units[:200])
start = keras.Input((3,))
made = fitted(keras.Model(start, head(L.Dense(16, activation="relu")(norm(start)))), units)
made.save("units.keras")
made.export("units_saved", verbose=False)


def trunk(start, last="relu"):
    value = L.Conv2D(8, 3, strides=2, activation="relu", name="first")(start)
    return L.Flatten(name="vector")(L.Conv2D(8, 3, activation=last, name="last")(value))


start = keras.Input((12, 12, 3))
value = L.Reshape((25, 8))(L.Conv2D(8, 3, strides=2, activation="gelu")(start))
value = L.LayerNormalization()(value + L.MultiHeadAttention(2, 4)(value, value))
fitted(keras.Model(start, head(L.GlobalAveragePooling1D()(value))), unit_image, 15).save("attention.keras")

keras.mixed_precision.set_global_policy("mixed_float16")
start = keras.Input(batch_shape=(20, 12, 12, 3))
value = L.Dense(3, activation="softmax", dtype="float32")(trunk(start))
fitted(keras.Model(start, value), unit_image).save("mixed20.keras")
keras.mixed_precision.set_global_policy("float32")

start = keras.Input((12, 12, 3))
value = L.BatchNormalization()(L.Dense(3)(trunk(start, "elu")))
fitted(keras.Model(start, L.Softmax()(value)), unit_image, 20).save("elu.keras")

start = keras.Input((12, 12, 3), dtype="uint8")
fitted(keras.Model(start, head(trunk(L.Rescaling(1 / 255)(start)))), image).save("uint8.keras")

start = keras.Input((12, 12, 3))
good = fitted(keras.Model(start, head(trunk(start))), unit_image)
good.save("good.keras")


good.save_weights("good.weights.h5")
start = keras.Input((12, 12, 3))
value = L.ReLU()(L.GroupNormalization(4)(L.Conv2D(8, 3, strides=2)(start)))
fitted(keras.Model(start, head(L.Flatten()(value))), unit_image).save("groups.keras")
start = keras.Input((12, 12, 3), dtype="float64")
value = L.Flatten(dtype="float64")(L.Conv2D(8, 3, strides=2, activation="relu", dtype="float64")(start))
wide = keras.Model(start, L.Dense(3, activation="softmax", dtype="float64")(value))
fitted(wide, unit_image.astype(np.float64)).save("wide.keras")
start = keras.Input(batch_shape=(20, 8, 3))
fitted(keras.Model(start, head(L.SimpleRNN(8, stateful=True)(start))), wave).save("stateful.keras")
start = keras.Input((12, 12, 3))
value = L.BatchNormalization(name="odd_one")(L.Conv2D(8, 3, strides=2)(start))
odd = keras.Model(start, head(L.Flatten()(value)))
odd.get_layer("odd_one").moving_variance.assign(np.full(8, -1.0))
odd.save("odd_variance.keras")
start = keras.Input((12, 12, 3))
value = keras.ops.sqrt(L.Conv2D(8, 3, strides=2, use_bias=False)(start) - 50.0)
keras.Model(start, head(L.Flatten()(value))).save("root.keras")


class Two(tf.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float32)])
    def infer(self, image):
        return {"probabilities": self.model(image)}

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float32)])
    def other(self, image):
        return {"sum": tf.reduce_sum(image, [1, 2, 3])}


two = Two(good)
tf.saved_model.save(two, "two_signatures", signatures={"infer": two.infer, "other": two.other})

bad = keras.models.clone_model(good)
weights = good.get_weights()
weights[2][0, 0, 0, 0] = np.nan
bad.set_weights(weights)
bad.save("nan.keras")
bad.export("nan_saved", verbose=False)

start = keras.Input((12, 12, 3))
quantity = (15.0 + 5.0 * y).astype(np.float32)
made = keras.Model(start, L.Dense(2, name="place")(trunk(start)))
fitted(made, unit_image, 2, "mse", np.stack([quantity, -quantity], 1)).save("regression.keras")
start = keras.Input((36,))
value = L.Dense(36)(L.Dense(12, activation="relu", name="code")(start))
keras.Model(start, value).save("autoencoder.keras")
start = keras.Input((12, 12, 3))
fitted(keras.Model(start, L.Dense(3, activation="sigmoid")(trunk(start))), unit_image, 1, "binary_crossentropy",
       np.eye(3, dtype=np.float32)[y]).save("labels.keras")  # fmt: skip
start = keras.Input((12, 12, 3))
keras.Model(start, L.Dense(3)(L.Flatten()(keras.ops.floor(L.Conv2D(4, 3)(start))))).save("floor.keras")

try:
    import tf_keras
except ImportError:
    pass
else:  # operators of TensorFlow as layers (TFOpLambda), which Keras 3 does not load
    K = tf_keras.layers
    start = K.Input((12, 12, 3))
    value = K.Flatten()(K.Conv2D(8, 3, strides=2, activation="relu")(start) * 2.0 + 1.0)
    older = tf_keras.Model(start, K.Dense(3, activation="softmax")(value))
    older.compile("adam", "sparse_categorical_crossentropy")
    older.fit(unit_image[:200], y[:200], epochs=15, batch_size=20, verbose=0)
    older.save("older.h5")
