"""A model without channels is the old one with these channels silenced: through adds, concatenations and the rest.

One process builds, prunes and compares all models, since TensorFlow takes seconds to load.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from warm_tensorflow import WarmTensorFlow

pytestmark = pytest.mark.workshop

_MAKE = r"""
import json, sys
import keras, numpy as np, tensorflow as tf
from keras import layers
from firmware_tools.prune.channels import Channels
from firmware_tools.prune.choosing import by_ratios, to_target
from firmware_tools.prune.criteria import l1, taylor
from firmware_tools.prune.fine_tuning import cross_entropy
from firmware_tools.prune.least_squares import least_squares
from firmware_tools.prune.reconstruction import reconstruct
from firmware_tools.prune.surgery import without
from protos.errors import ModelError

keras.utils.set_random_seed(3)
random = np.random.default_rng(3)


def conv(x, filters, name, size=3, strides=1, act=True):
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization(name=name + "_bn")(x)
    return layers.ReLU()(x) if act else x


def residual():
    i = keras.Input((8, 8, 3))
    a = conv(i, 8, "stem")
    b = conv(conv(a, 12, "b1"), 8, "b2", act=False)
    x = layers.ReLU()(layers.Add()([a, b]))
    c = conv(conv(x, 8, "c1", strides=2), 16, "c2", act=False)
    x = layers.ReLU()(layers.Add()([c, layers.Conv2D(16, 1, strides=2, name="shortcut")(x)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(i, layers.Dense(5, activation="softmax", name="out")(x))


def branches():
    i = keras.Input((8, 8, 3))
    a, b = conv(i, 8, "a"), conv(i, 12, "b", size=1)
    x = layers.Concatenate()([a, layers.ZeroPadding2D(0)(b), i])
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depth")(x)
    x = layers.PReLU(shared_axes=[1, 2])(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D()(conv(x, 16, "after"))
    x = layers.Flatten()(x)
    x = layers.Dense(20, activation="relu", name="hidden")(x)
    return keras.Model(i, layers.Dense(5, name="out")(layers.Dropout(0.5)(x)))


def reshaped():
    i = keras.Input((8, 8, 3))
    x = layers.Rescaling(0.5)(i)
    x = layers.Conv2D(8, 3, activation="relu", name="one")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Reshape((8,))(x)
    return keras.Model(i, layers.Dense(5, name="out")(layers.Dense(12, activation="relu", name="two")(x)))


def shared():
    i = keras.Input((8, 8, 3))
    twice = layers.Conv2D(8, 3, padding="same", name="twice")
    one = layers.Conv2D(8, 1, name="free")(layers.Conv2D(3, 1, name="before")(i))
    x = layers.Add()([twice(i), twice(layers.Conv2D(3, 1, name="into")(one))])
    x = layers.LayerNormalization(name="mix")(x)
    return keras.Model(i, layers.Dense(5, name="out")(layers.GlobalAveragePooling2D()(x)))


def stirred(model):
    for layer in model.layers:
        layer.set_weights([w + random.uniform(-0.15, 0.2, w.shape) for w in layer.get_weights()])
    return model


def silenced(model, channels, gone):
    # The same model whose filters of removed channels, and what normalises them, give zero.
    quiet = keras.models.clone_model(model)
    quiet.set_weights(model.get_weights())
    for use in channels.uses:
        stays, layer = channels.mask(use.made, gone), quiet.get_layer(use.layer)
        weights = [np.array(w) for w in layer.get_weights()]
        for w in weights[:2] if type(layer).__name__ == "BatchNormalization" else weights:
            if use.kind != "depthwise" or w.ndim == 1:
                w[..., ~stays] = 0
            else:
                w.reshape(*w.shape[:2], -1)[..., ~stays] = 0
        layer.set_weights(weights)
    return quiet


found = {}
x = random.uniform(0, 1, (16, 8, 8, 3)).astype(np.float32)
y = random.integers(0, 5, 16).astype(np.int32)
for make in (residual, branches, reshaped, shared):
    model = stirred(make())
    channels = Channels(model, where="m")
    families = channels.families()
    scores = {c: float(random.uniform()) for f in families for c in f.channels}
    gone = by_ratios(families, scores, {"*": 0.5}, 1)
    small = without(model, channels, gone)
    expected = silenced(model, channels, gone).predict(x, verbose=0)
    got = small.predict(x, verbose=0)
    found[make.__name__] = {
        "families": [list(f.layers) + [len(f.channels)] for f in families],
        "error": float(np.abs(got - expected).max()), "scale": float(np.abs(expected).max()),
        "differs": float(np.abs(got - model.predict(x, verbose=0)).max()),
        "parameters": [small.count_params(), channels.cost(gone)[1], model.count_params(), channels.cost()[1]],
        "kept_whole": channels.kept_whole,
    }
    small.save(sys.argv[1] + "/" + make.__name__ + ".keras")

model = stirred(residual())
channels = Channels(model, where="m")
found["macs"] = channels.cost()[0]
loss = cross_entropy(probabilities=True)
scores = taylor(model, channels, x, y, loss)


def losses():
    return loss(y, model(x, training=False)).numpy().astype(np.float64)


numeric = []
for family in channels.families():
    root = family.channels[1]
    total = 0.0
    for layer, index in channels.members()[root]:
        bends = []
        for nudge in (1.01, 0.99):
            weights = model.get_layer(layer).get_weights()
            nudged = [np.where(np.arange(w.shape[-1]) == index, w * nudge, w) for w in weights]
            model.get_layer(layer).set_weights(nudged)
            bends.append(losses())
            model.get_layer(layer).set_weights(weights)
        total += float(np.mean(((bends[0] - bends[1]) / 0.02) ** 2))
    numeric.append([scores[root], total])
found["taylor"] = numeric
kernel = np.abs(model.get_layer("b1").get_weights()[0]).sum(axis=(0, 1, 2))
size = l1(model, channels)
found["l1"] = [[size[c], float(k)] for c, k in zip(channels.families()[1].channels, kernel)]
found["l1_layers"] = list(channels.families()[1].layers)
targets = {}
for share in (0.8, 0.5, 0.3):
    for across in (False, True):
        macs = lambda g: channels.cost(g)[0]
        gone = to_target(channels, channels.families(), scores, macs, share * macs(set()), 1, across=across)
        targets[f"{share} {across}"] = channels.cost(gone)[0] / channels.cost()[0]
found["targets"] = targets
for make in (residual,):
    model = make()
    model.set_weights([w + random.normal(0, 0.05, w.shape) for w in model.get_weights()])
    channels = Channels(model, where="m")
    # One channel of two is a copy of its neighbour: what a removed one gave is there still.
    kernel = model.get_layer("b1")
    twin = [np.concatenate([w[..., :6], w[..., :6]], axis=-1) for w in kernel.get_weights()]
    kernel.set_weights(twin)
    norm = model.get_layer(kernel.name + "_bn")
    norm.set_weights([np.concatenate([w[:6], w[:6]]) for w in norm.get_weights()])
    family = next(f for f in channels.families() if f.layers == (kernel.name,))
    gone = {c for c in family.channels if channels.members()[c][0][1] >= 6}
    small = without(model, channels, gone)
    many = random.uniform(0, 1, (600, 8, 8, 3)).astype(np.float32)
    whole = model.predict(many, verbose=0)
    cut = float(np.abs(small.predict(many, verbose=0) - whole).max())
    fitted = reconstruct(model, small, channels, gone, many)
    found["refit " + make.__name__] = [cut, float(np.abs(small.predict(many, verbose=0) - whole).max()), fitted]
    told = least_squares(model, channels, many)
    found["twins left"] = {}
    found["scored"] = sorted(told) == sorted(c for f in channels.families() for c in f.channels)
    for name, scores in (("least_squares", told), ("l1", l1(model, channels))):
        out = by_ratios([family], scores, {"*": 0.5}, 1)
        found["twins left"][name] = len({channels.members()[c][0][1] % 6 for c in family.channels if c not in out})
inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
try:
    Channels(keras.Sequential([keras.Input((8, 8, 3)), inner, layers.GlobalAveragePooling2D()])._functional, where="m")
except ModelError as error:
    found["nested"] = error.what
json.dump(found, open(sys.argv[1] + "/found.json", "w"))
"""


@pytest.fixture(scope="module")
def found(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("surgery")
    tensorflow.script(_MAKE, folder, folder)
    value: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return value


@pytest.mark.parametrize("name", ["residual", "branches", "reshaped", "shared"])
def test_the_pruned_model_is_the_old_one_with_channels_silenced(found: dict[str, Any], name: str) -> None:
    one = found[name]
    assert one["error"] <= 1e-4 * max(1.0, one["scale"])
    assert one["differs"] > 1e-3, "something was removed"


@pytest.mark.parametrize("name", ["residual", "branches", "reshaped", "shared"])
def test_weights_are_counted_as_keras_counts_them(found: dict[str, Any], name: str) -> None:
    small, ours, whole, ours_whole = found[name]["parameters"]
    assert small < whole
    # What no row of the table describes is not counted; it does not change either.
    assert whole - small == ours_whole - ours
    if not found[name]["kept_whole"]:
        assert (small, whole) == (ours, ours_whole)


def test_filters_that_an_add_joins_are_one_family(found: dict[str, Any]) -> None:
    assert found["residual"]["families"] == [["stem", "b2", 8], ["b1", 12], ["c1", 8], ["c2", "shortcut", 16]]
    assert sorted(found["branches"]["families"]) == [["a", 8], ["after", 16], ["b", 12], ["hidden", 20]]
    assert found["reshaped"]["families"] == [["one", 8], ["two", 12]]


def test_what_is_used_twice_or_not_understood_keeps_all_around_it(found: dict[str, Any]) -> None:
    assert found["shared"]["families"] == [["before", 3], ["free", 8]]
    assert set(found["shared"]["kept_whole"]) == {"twice", "mix"}
    assert "holds the model" in found["nested"]


def test_multiply_adds_are_those_of_the_shapes(found: dict[str, Any]) -> None:
    # 64 places for stem, b1, b2; 16 for c1, c2 and the 1x1 shortcut; the dense layer.
    expected = 64 * 9 * (3 * 8 + 8 * 12 + 12 * 8) + 16 * 9 * (8 * 8 + 8 * 16) + 16 * 8 * 16 + 16 * 5
    assert found["macs"] == expected


def test_scores_are_the_slopes_of_the_loss_and_sizes_of_weights(found: dict[str, Any]) -> None:
    for score, slope in found["taylor"]:
        assert score == pytest.approx(slope, rel=0.05, abs=1e-9)
    assert found["l1_layers"] == ["b1"]
    for ours, plain in found["l1"]:
        assert ours == pytest.approx(plain, rel=1e-5)


def test_weights_that_are_left_make_up_for_what_others_can_tell(found: dict[str, Any]) -> None:
    cut, fitted, layers = found["refit residual"]
    assert layers == 1, "the one that reads b1"
    assert fitted < 0.02 * cut


def test_of_twins_one_goes_and_the_other_stays(found: dict[str, Any]) -> None:
    assert found["scored"], "every channel that may go has a score"
    assert found["twins left"] == {"least_squares": 6, "l1": 3}


def test_targets_are_met_and_not_by_far(found: dict[str, Any]) -> None:
    for name, reached in found["targets"].items():
        share = float(name.split()[0])
        assert share - 0.15 < reached <= share, name
