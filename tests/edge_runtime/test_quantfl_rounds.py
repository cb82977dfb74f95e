"""The comparison of codecs in `benchmarks/`: its rounds on a real bundle, and how it sums up what came of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from striped_data import write_data

from benchmarks import quantfl
from benchmarks.one_pass.fleet import BOARDS
from benchmarks.one_pass.metered import LINKS
from benchmarks.quantised import rounds as quantfl_rounds
from benchmarks.quantised.rounds import Course, Fleet, Run
from benchmarks.quantised.tasks import Task
from coordinator.budgets.cold_start import prices_of, work_w_of
from protos.datafiles.dataset import load
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle

ENVELOPE = 600  # bytes around the tensors of one message
FLEET = Fleet(devices=3, rounds=4, steps=6, scheme="iid", inputs={"rate": 0.1})


@pytest.fixture(scope="module")
def task(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Task:
    data = load(write_data(tmp_path_factory.mktemp("comparison") / "data.npz", 120, test=30))
    backbone = Backbone(bundle)
    train, test = data.train(), data.test()
    return Task("stripes", "pretrained", bundle, backbone.embed(train.x), train.y, backbone.embed(test.x), test.y)


def head_bits_of(task: Task) -> int:
    return 32 * sum(math.prod(shape) for shape in task.bundle.manifest.head.shapes().values())


def course(task: Task, codec: str, rate: float, seed: int = 1) -> Course:
    return Run(task, FLEET, codec, rate, seed).course()


def test_without_a_loss_every_round_costs_the_head_up_and_from_the_second_on_down(task: Task) -> None:
    found = course(task, "float32", 32)
    head_bits = head_bits_of(task)
    up, down = np.diff([0, *found.bits_up]), np.diff([0, *found.bits_down])
    changes, heads = np.diff([0, *found.change_bits_up]), np.diff([0, *found.head_bits_down])
    assert (changes == changes[0]).all()
    assert 3 * head_bits < changes[0] < 3 * (head_bits + 8 * 80)
    assert heads[0] < 3 * 8 * 80, "only a name travels before the first round"
    assert (heads[1:] > 3 * head_bits).all()
    # What is around them, the same each round but for digits: ids, engine, joules of each phase, inputs, the codec.
    assert (up - changes < 3 * 8 * ENVELOPE).all()
    assert (down - heads < 3 * 8 * ENVELOPE).all()
    assert np.ptp(up) < 3 * 8 * 16
    assert found.accuracy[-1] > 0.9


@pytest.mark.parametrize("codec", ["entropy_coded", "eden", "bucket_uniform", "bucket_quantile"])
def test_coded_rounds_learn_with_fewer_bits_and_the_same_each_time(task: Task, codec: str) -> None:
    plain, found = course(task, "float32", 32), course(task, codec, 3)
    assert found == course(task, codec, 3)
    assert found.change_bits_up[-1] < 0.6 * plain.change_bits_up[-1]
    assert plain.bits_up[-1] - found.bits_up[-1] > 0.4 * plain.change_bits_up[-1]
    assert found.bits_down[-1] < plain.bits_down[-1]
    assert found.accuracy[-1] > 0.8


def test_a_closed_form_is_one_round_of_sums_that_no_held_out_example_chose(task: Task) -> None:
    found = course(task, "closed_form", 0)
    assert len(found.bits_up) == len(found.accuracy) == 1
    assert found.accuracy[0] > 0.9
    width = task.train.shape[1]
    assert found.bits_up[0] > found.change_bits_up[0] > 3 * width * (width + 1) // 2, (
        "a bit an entry of the sums at least"
    )
    assert quantfl_rounds.plan_for(FLEET, "closed_form", 0, 1).closed_form.choose == "devices"


def test_boards_meter_their_steps_their_messages_and_nothing_else(task: Task) -> None:
    """Of one round: steps, writing, coding at the board's prices; bytes at the link's."""
    found = course(task, "entropy_coded", 3)
    fleet = Run(task, FLEET, "entropy_coded", 3, 1)
    expected = 0.0
    for at, board in enumerate(BOARDS[: FLEET.devices]):
        head = task.bundle.manifest.head
        prices = prices_of(board, macs=1, coordinates=head_bits_of(task) // 32, batch_size=head.batch_size)
        expected += FLEET.steps * prices.step_j + prices.train_fixed_j + prices.encode_j
        assert work_w_of(board) > 0, at
    up_j, down_j, wake_j = LINKS["wifi"]
    expected = FLEET.rounds * (expected + FLEET.devices * wake_j)
    expected += (found.bits_up[-1] * up_j + found.bits_down[-1] * down_j) / 8
    # What came after the last mark of a device is settled with its next order: the bytes of one order at most.
    assert found.joules[-1] == pytest.approx(expected, rel=1e-3)
    assert fleet.course().joules == found.joules


def test_rows_say_what_was_saved_and_how_far_below_float32_they_are(task: Task) -> None:
    rates = {"float32": (32.0,), "entropy_coded": (2.0,)}
    plain, coded = quantfl.compare(task, FLEET, rates, 3)
    assert plain.saved == 0
    assert plain.below_float32 == 0
    assert plain.seeds == 3
    assert 0.3 < coded.saved_of_heads < 1
    assert 0 < coded.saved < coded.saved_of_heads, "what is around heads is not coded"
    assert 0 < coded.joules < plain.joules, "fewer bytes, and the same steps"
    assert coded.saved == pytest.approx(1 - (coded.bits_up + coded.bits_down) / (plain.bits_up + plain.bits_down))
    assert coded.below_float32 == pytest.approx(100 * (plain.accuracy_mean - coded.accuracy_mean))
    assert [bits for bits, _ in coded.curve] == sorted(bits for bits, _ in coded.curve)
    assert quantfl.within([plain, coded], coded.curve[0][0] - 1) is None
    assert quantfl.within([plain, coded], math.inf) == max(plain.accuracy_mean, coded.accuracy_mean)
    assert len(list(quantfl.table([plain, coded]))) == 5
    assert len(list(quantfl.budgets([plain, coded]))) == 4


def test_accuracy_is_a_mean_over_the_last_rounds_and_intervals_are_those_of_student() -> None:
    assert quantfl.settled([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])[-1] == pytest.approx(0.75)
    assert quantfl.settled([0.0] * 15 + [1.0] * 5)[-1] == 1.0
    # 2.776 is the 97.5 % point of Student's t with four degrees of freedom.
    assert quantfl.half_width([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
