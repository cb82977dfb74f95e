"""`firmware-tools prune` on a real model and data: what is written, what is said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from warm_tensorflow import WarmTensorFlow

from firmware_tools.prune.command import CRITERION_NAMES
from firmware_tools.prune.fine_tuning import shifted
from protos.datafiles.dataset import load

pytestmark = pytest.mark.workshop


@pytest.fixture(scope="module")
def tools(tensorflow: WarmTensorFlow) -> WarmTensorFlow:
    return tensorflow


@pytest.fixture(scope="module")
def digits(tools: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prune") / "digits"
    done = tools.call("pretrain", "digits", "-o", folder)
    assert done.code == 0, done.stderr
    # What it was trained on, with a part held out.
    data = load(folder / "workshop.npz")
    np.savez(folder / "held.npz", x=data.x, y=data.y, is_test=np.arange(len(data.y)) % 4 == 0)
    return folder


def _pruned(tools: WarmTensorFlow, *words: Any) -> dict[str, Any]:
    done = tools.call("prune", *words, "--json")
    assert done.code == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["schema"] == "edgejoule.prune/1"
    return report


def test_half_of_the_multiply_adds_go_and_fine_tuning_brings_the_accuracy_back(
    tools: WarmTensorFlow, digits: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.keras"
    report = _pruned(tools, digits / "digits.keras", "--data", digits / "held.npz", "--target", "macs=0.5",
                     "--epochs", "4", "-o", out)  # fmt: skip
    before, after = report["before"], report["after"]
    assert 0.3 * before["macs"] < after["macs"] <= 0.5 * before["macs"]
    assert after["parameters"] < before["parameters"]
    assert after["int8_bytes"] < before["int8_bytes"]
    assert after["accuracy"] >= before["accuracy"] - 0.03
    assert before["latency_share"] == 1.0
    assert min(before["latency_ms"], after["latency_ms"], after["latency_share"]) > 0
    assert all(layer["kept"] % 4 == 0 for layer in report["layers"])
    assert report["examples"]["held_out"] == int(load(digits / "held.npz").is_test.sum())
    # What was written is a model like any other.
    done = tools.call("convert", out, "--calibrate", digits / "held.npz", "-o", tmp_path / "bundle", "--json")
    assert done.code == 0, done.stderr
    text = tools.call("prune", digits / "digits.keras", "--criterion", "l1", "--ratio", "0.25", "-o", out, "--force")
    assert text.code == 0, text.stderr
    assert "multiply-adds" in text.stdout


def test_a_model_that_was_pruned_learns_on_from_the_whole_one_on_images_that_move(
    tools: WarmTensorFlow, digits: Path, tmp_path: Path
) -> None:
    data, whole = ("--data", digits / "held.npz"), digits / "digits.keras"
    small = _pruned(tools, whole, *data, "--target", "macs=0.5", "-o", tmp_path / "small.keras")
    taught = ("--epochs", "3", "--shift", "1", "--teacher", whole)
    report = _pruned(tools, tmp_path / "small.keras", *data, "--ratio", "0", *taught, "-o", tmp_path / "taught.keras")
    assert report["before"]["macs"] == report["after"]["macs"] == small["after"]["macs"]
    # On digits least squares leave next to nothing to learn.
    assert report["after"]["accuracy"] >= small["after"]["accuracy"] - 0.01
    done = tools.call("prune", tmp_path / "small.keras", "--criterion", "l1", "--ratio", "0", "--no-teacher",
                      "--teacher", whole, "-o", tmp_path / "again.keras")  # fmt: skip
    assert "exclude each other" in done.stderr


def test_a_last_layer_that_fits_nothing_is_fitted_anew(tools: WarmTensorFlow, digits: Path, tmp_path: Path) -> None:
    """Classes of the model in another order than those of the data: only the last layer is wrong."""
    tools.script(
        "import keras, numpy as np, sys\n"
        "model = keras.models.load_model(sys.argv[1], compile=False)\n"
        "last = model.layers[-1]\n"
        "last.set_weights([np.roll(w, 1, axis=-1) for w in last.get_weights()])\n"
        "model.save(sys.argv[2])\n",
        tmp_path, digits / "digits.keras", tmp_path / "rolled.keras",
    )  # fmt: skip
    words = ("--data", digits / "held.npz", "--criterion", "least_squares", "--target", "macs=0.5", "--refit")
    report = _pruned(tools, tmp_path / "rolled.keras", *words, "-o", tmp_path / "small.keras")
    assert report["before"]["accuracy"] < 0.2
    assert report["before"]["accuracy_refitted"] > 0.9
    assert report["after"]["accuracy"] > 0.85
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]


def test_shifted_images_are_pieces_of_the_mirrored_ones() -> None:
    images = np.arange(2 * 6 * 5, dtype=np.float32).reshape(2, 6, 5, 1)
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        moved = shifted(images, 2, random)
        assert moved.shape == images.shape
        wide = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
        for number in range(2):
            places = [(d, r) for d in range(5) for r in range(5)
                      if (wide[number, d : d + 6, r : r + 5] == moved[number]).all()]  # fmt: skip
            assert places
            seen.add(places[0])
    assert len(seen) > 15
    np.testing.assert_array_equal(shifted(images, 0, random), images)


def test_ratios_go_by_layer_and_need_no_data(tools: WarmTensorFlow, digits: Path, tmp_path: Path) -> None:
    report = _pruned(tools, digits / "digits.keras", "--criterion", "l1", "--ratio", "0.5", "--ratio", "conv2d_1=0.25",
                     "--multiple", "1", "-o", tmp_path / "small.keras")  # fmt: skip
    assert [(layer["layers"], layer["kept"]) for layer in report["layers"]] == [
        (["conv2d"], 8), (["conv2d_1"], 24), (["conv2d_2"], 24),
    ]  # fmt: skip
    assert report["after"]["accuracy"] is None


def test_no_layer_is_pruned_beyond_what_it_may_cost(tools: WarmTensorFlow, digits: Path, tmp_path: Path) -> None:
    report = _pruned(tools, digits / "digits.keras", "--data", digits / "held.npz", "--max-drop", "0.02",
                     "-o", tmp_path / "small.keras")  # fmt: skip
    assert set(report["sensitivity"]) <= {"conv2d", "conv2d_1", "conv2d_2"}
    assert report["sensitivity"], "digits need no 96 filters"
    assert report["after"]["macs"] < report["before"]["macs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say how much goes"),
        (("--ratio", "0.5", "--target", "macs=0.5"), "say how much goes"),
        (("--ratio", "0.5"), "--criterion taylor needs examples"),
        (("--ratio", "0.5", "--criterion", "least_squares"), "--criterion least_squares needs examples"),
        (("--ratio", "0.5", "--criterion", "l1", "--refit"), "--refit needs examples"),
        (("--ratio", "nope=0.5", "--criterion", "l1"), "no layer 'nope' can be pruned"),
        (("--ratio", "1.5", "--criterion", "l1"), "'1.5' is no share"),
        (("--ratio", "0.5", "--ratio", "0.25", "--criterion", "l1"), "is given twice for all layers"),
        (("--ratio", "0.01", "--criterion", "l1"), "no channel can go: layers of 16, 32, 48 filters keep a multiple"),
        (("--target", "joules=0.5", "--criterion", "l1", "--board", "pi99"), "unknown board 'pi99'"),
        (("--target", "joy=0.5", "--criterion", "l1"), "'joy=0.5' is no target"),
        (("--target", "macs=0.001", "--criterion", "l1"), "is the least"),
        (("--max-drop", "0.1", "--criterion", "l1"), "--max-drop needs examples"),
        (("--ratio", "0.5", "--criterion", "l1", "--epochs", "1"), "--epochs needs examples"),
        (("--ratio", "0.5", "--data", "nowhere.npz"), "no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tools: WarmTensorFlow, digits: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "small.keras"
    done = tools.call("prune", digits / "digits.keras", *words, "-o", out)
    assert done.code != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("what", "words", "said"),
    [
        ("nan", (), "example 3 has a NaN or an infinity"),
        ("none", (), "has no examples"),
        ("one_class", ("--refit",), "training examples of one class alone"),
    ],
)
def test_data_that_would_spoil_the_weights_in_silence_are_refused(
    tools: WarmTensorFlow, digits: Path, tmp_path: Path, what: str, words: tuple[str, ...], said: str
) -> None:
    with np.load(digits / "held.npz") as held:
        x, y = held["x"].astype(np.float32), held["y"]
    if what == "nan":
        x[3, 0, 0] = np.nan
    rows = {"nan": slice(None), "none": slice(0), "one_class": y == 5}[what]
    np.savez(tmp_path / "data.npz", x=x[rows], y=y[rows])
    out = tmp_path / "small.keras"
    done = tools.call("prune", digits / "digits.keras", "--data", tmp_path / "data.npz", "--ratio", "0.5", *words,
                      "-o", out)  # fmt: skip
    assert done.code != 0
    assert said in done.stderr
    assert not out.exists()


def test_a_folder_that_is_not_there_is_said_before_the_work(
    tools: WarmTensorFlow, digits: Path, tmp_path: Path
) -> None:
    done = tools.call(
        "prune", digits / "digits.keras", "--criterion", "l1", "--ratio", "0.5", "-o", tmp_path / "no/s.keras"
    )
    assert done.code == 2
    assert "no such folder" in done.stderr
    assert "scoring" not in done.stderr


def test_a_model_of_any_size_of_input_is_told_to_fix_it(tools: WarmTensorFlow, tmp_path: Path) -> None:
    tools.script(
        "import keras\nfrom keras import layers\ni = keras.Input((None, None, 1))\n"
        "x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(i))\n"
        "keras.Model(i, layers.Dense(3)(x)).save('any.keras')\n",
        tmp_path,
    )
    done = tools.call(
        "prune", tmp_path / "any.keras", "--criterion", "l1", "--ratio", "0.5", "-o", tmp_path / "s.keras"
    )
    assert done.code == 6
    assert "leaves the size of its input open, (None, None, 1)" in done.stderr


def test_a_model_that_the_engine_refuses_is_pruned_without_a_latency(tools: WarmTensorFlow, tmp_path: Path) -> None:
    """A squeeze whose channels are always zero gets a scale that XNNPACK does not take."""
    tools.script(
        "import keras, numpy as np\nfrom keras import layers\nkeras.utils.set_random_seed(1)\n"
        "i = keras.Input((8, 8, 1))\nx = layers.Conv2D(16, 3, padding='same')(i)\n"
        "s = layers.GlobalAveragePooling2D(keepdims=True)(x)\n"
        "s = layers.Conv2D(4, 1, activation='relu', name='dead', bias_initializer=keras.initializers.Constant(-9))(s)\n"
        "x = layers.Multiply()([x, layers.Conv2D(16, 1, activation='sigmoid')(s)])\n"
        "keras.Model(i, layers.Dense(3)(layers.Flatten()(x))).save('dead.keras')\n",
        tmp_path,
    )
    words = (tmp_path / "dead.keras", "--criterion", "l1", "--ratio", "0.5", "--force", "-o", tmp_path / "s.keras")
    report = _pruned(tools, *words)
    assert report["after"]["latency_ms"] is report["before"]["joules"] is None
    assert report["after"]["macs"] < report["before"]["macs"]
    text = tools.call("prune", *words)
    assert "latency, ms                ?" in text.stdout
    assert "no latency is measured" in text.stderr
    timed = tools.call(
        "prune", tmp_path / "dead.keras", "--criterion", "l1", "--target", "latency=0.5", "-o", tmp_path / "t.keras"
    )
    assert timed.code == 6
    assert "its latency cannot be measured" in timed.stderr


def test_joules_are_said_to_be_estimated_and_by_which_board(
    tools: WarmTensorFlow, digits: Path, tmp_path: Path
) -> None:
    report = _pruned(tools, digits / "digits.keras", "--criterion", "l1", "--target", "joules=0.7", "--board", "pi5",
                     "-o", tmp_path / "small.keras")  # fmt: skip
    assert (report["joules_method"], report["board"]) == ("estimated", "pi5")
    for figures in (report["before"], report["after"]):
        assert figures["joules"] == pytest.approx(1e-3 * figures["latency_ms"] * 2.45)
    assert report["after"]["macs"] < report["before"]["macs"]


def test_a_file_that_is_there_is_not_replaced(tools: WarmTensorFlow, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.keras"
    out.write_text("mine")
    words = (digits / "digits.keras", "--criterion", "l1", "--ratio", "0.5", "-o")
    assert tools.call("prune", *words, out).code == 2
    assert tools.call("prune", *words, tmp_path / "small.h5").code == 2
    assert out.read_text() == "mine"


def test_the_names_of_the_command_are_those_of_the_criteria(tools: WarmTensorFlow, tmp_path: Path) -> None:
    names = tools.script("from firmware_tools.prune.criteria import CRITERIA\nprint(*CRITERIA)", tmp_path)
    assert tuple(names.split()) == CRITERION_NAMES
