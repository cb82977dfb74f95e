"""Makes models whose scores, types or code are odd, of one training, and their data, in the current folder. Seeded."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L  # noqa: N812

keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
N = 300
y = rng.integers(0, 3, N).astype(np.int32)
held_out = np.arange(N) >= 200
image = rng.integers(0, 120, (N, 12, 12, 3)).astype(np.uint8)
for at, k in enumerate(y):
    image[at, 6 * (k // 2) : 6 * (k // 2) + 6, 6 * (k % 2) : 6 * (k % 2) + 6] += 110
np.savez("image.npz", x=image, y=y, is_test=held_out)
unit_image = image.astype(np.float32) / 255


def fitted(model, x, epochs):
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x[:200], y[:200], epochs=epochs, batch_size=20, verbose=0)
    return model


start = keras.Input((12, 12, 3))
first = L.Conv2D(8, 3, strides=2, activation="relu", name="first")
dense = L.Dense(3, name="scores")
vector = L.Flatten(name="vector")(first(start))
good = fitted(keras.Model(start, L.Softmax()(dense(vector))), unit_image, 12)
good.save("good.keras")


def put(name, end):
    made = keras.Model(start, end)
    made.save(f"{name}.keras")
    made.export(f"{name}_saved", verbose=False)


put("temperature", L.Softmax()(L.Rescaling(1 / 2.5)(dense(vector))))
put("divided", keras.ops.softmax(dense(vector) / 0.25))
put("logarithm", keras.ops.log_softmax(dense(vector)))
keras.Model(start, L.Reshape((3,))(L.Softmax()(dense(L.Reshape((1, 200))(vector))))).save("reshaped.keras")
keras.Model(start, L.Softmax()(L.Rescaling(-1.0)(dense(vector)))).save("reversed.keras")
put("weakened", L.Rescaling(0.5)(L.Softmax()(dense(vector))))
keras.Model(start, L.Dense(1, activation="softmax")(vector)).save("certain.keras")

put("constant", L.Softmax()(L.Dense(3)(L.Flatten()(L.ReLU()(first(start) - 1000.0)))))
keras.Model(start, L.Softmax()(dense(L.Dropout(0.1, name="goes_on")(vector, training=True)))).save("goes_on.keras")
# Layers that draw random numbers also where they do nothing with them.
lines, recurrent = L.Reshape((12, 36)), L.LSTM(8, dropout=0.1, recurrent_dropout=0.1)
ends = L.Dense(3, activation="softmax")
drawn = fitted(keras.Model(start, ends(recurrent(lines(start)))), unit_image, 12)
drawn.export("drawn_saved", verbose=False)
colours = L.RandomGrayscale(0.1)(L.RandomHue(0.1, value_range=(0, 1))(start))
keras.Model(start, ends(recurrent(lines(colours)))).save("drawn.keras")


class Trained(tf.Module):
    """As quantisation-aware training leaves a model: FakeQuant on the input, a kernel and an activation."""

    def __init__(self):
        super().__init__()
        self.kernel, self.bias = (tf.Variable(weight) for weight in first.get_weights())
        self.top, self.scores = tf.Variable(np.float32(np.quantile(vector_of(unit_image), 0.98))), dense

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float32)])
    def serve(self, x):
        x = tf.quantization.fake_quant_with_min_max_args(x, 0.0, 1.0)
        low, high = tf.reduce_min(self.kernel, [0, 1, 2]), tf.reduce_max(self.kernel, [0, 1, 2])
        kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(self.kernel, low, high, narrow_range=True)
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "VALID") + self.bias)
        x = tf.quantization.fake_quant_with_min_max_vars(x, 0.0, self.top)
        return tf.nn.softmax(self.scores(tf.reshape(x, [-1, 200])))


vector_of = keras.Model(start, vector).predict
aware = Trained()
tf.saved_model.save(aware, "aware_saved", signatures={"serving_default": aware.serve})
keras.Model(start, L.Softmax()(L.GlobalAveragePooling2D(name="pooled")(L.Dense(3)(first(start))))).save("spread.keras")

for policy in ("mixed_float16", "mixed_bfloat16", "float64"):
    keras.mixed_precision.set_global_policy(policy)
    other = keras.Input((12, 12, 3))
    value = L.Dense(3, dtype="float32")(L.Flatten()(L.Conv2D(8, 3, strides=2, activation="relu")(other)))
    half = keras.Model(other, L.Softmax(dtype="float32")(value))
    half.set_weights(good.get_weights())
    half.export(f"{policy}_saved", verbose=False)
keras.mixed_precision.set_global_policy("float32")


@keras.saving.register_keras_serializable("mine")
class Gate(L.Layer):
    def call(self, x):
        return x * 0.5


@keras.saving.register_keras_serializable("mine")
def halved(x):
    return keras.ops.relu(x) * 0.5


keras.Model(start, dense(L.Flatten()(Gate()(first(start))))).save("own_layer.keras")
keras.Model(start, L.Dense(3)(L.Flatten()(L.Conv2D(4, 3, activation=halved)(start)))).save("own_activation.keras")
keras.Model(start, dense(L.Flatten()(L.Lambda(lambda x: x * 0.5)(first(start))))).save("lambda.keras")


class Eight(tf.Module):
    def __init__(self):
        super().__init__()
        self.model = good

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([8, 12, 12, 3], tf.float32)])
    def together(self, x):
        return self.model(x)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([8, 12, 12, 3], tf.float32)])
    def mixed(self, x):
        return self.model(x - tf.reduce_mean(x, axis=0, keepdims=True))


eight = Eight()
tf.saved_model.save(eight, "eight_saved", signatures={"together": eight.together, "mixed": eight.mixed})

# Token ids: the class is the token below 3 that occurs.
tokens = rng.integers(3, 40, (N, 9)).astype(np.int32)
tokens[np.arange(N), rng.integers(0, 9, N)] = y
np.savez("tokens.npz", x=tokens, y=y, is_test=held_out)
for name, dtype in (("tokens", "int32"), ("tokens_real", "float32")):
    ids = keras.Input((9,), dtype=dtype)
    value = L.Conv1D(12, 1, activation="relu")(L.Embedding(40, 8, name="table")(ids))
    words = keras.Model(ids, L.Dense(3, activation="softmax")(L.GlobalMaxPooling1D()(value)))
    if name == "tokens":
        fitted(words, tokens, 40)
    words.save(f"{name}.keras")
real = tf.lite.TFLiteConverter.from_keras_model(words)
with open("tokens_real.tflite", "wb") as file:
    file.write(real.convert())
padded = np.where(np.arange(9) < rng.integers(4, 10, (N, 1)), tokens, 0)
np.savez("padded.npz", x=padded, y=y, is_test=held_out)
strange = tokens.astype(np.int64)
strange[4, 2], strange[5, 0], strange[6, 8] = 40, -1, 10**9
np.savez("strange.npz", x=strange, y=y, is_test=held_out)
np.savez("shifted.npz", x=tokens + 40, y=y, is_test=held_out)
ids = keras.Input((9,), dtype="int32")
value = L.LSTM(4)(L.Embedding(40, 8, mask_zero=True, name="table")(ids))
masked = keras.Model(ids, L.Dense(3, activation="softmax")(value))
masked.get_layer("table").set_weights([rng.normal(size=(40, 8))])
masked.save("tokens_masked.keras")

converter = tf.lite.TFLiteConverter.from_keras_model(good)
with open("plain.tflite", "wb") as file:
    file.write(converter.convert())
function = tf.function(lambda x: good(tf.raw_ops.Erfinv(x=x * 0.5)), [tf.TensorSpec([1, 12, 12, 3], tf.float32)])
converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], good)
converter.allow_custom_ops = True
with open("custom.tflite", "wb") as file:
    file.write(converter.convert())
