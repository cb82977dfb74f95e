"""Errors of the codecs beside the values that theory and the papers give for a Gaussian."""

from __future__ import annotations

import numpy as np
import pytest

from protos.convert.tensors import tensors_to
from protos.update.codecs import build, generator
from protos.update.entropy.codec import header_bits
from protos.update.entropy.reader import EntropyCoded
from protos.update.quantised import dither
from protos.update.quantised.levels import lloyd_max, nearest
from protos.update.quantised.rotated import chunks, rotate
from protos.update.tensors import decode
from protos.update.trees import shapes

D = 1 << 18


def measured(codec: str, parameters: dict[str, float], values: np.ndarray) -> tuple[float, float]:
    """Bits per coordinate on the wire, and ||decoded - x||^2 / ||x||^2."""
    tree = {"w": values.astype(np.float32)}
    built = build(codec, parameters)
    tensors, _ = built.encode(tree, built.init({"w": values.shape}), generator(2, "figures"))
    back = decode(tensors, {"w": values.shape})["w"].astype(np.float64)
    sent = sum(len(message.SerializeToString()) for message in tensors_to(tensors))
    return 8 * sent / values.size, float(np.sum((back - tree["w"]) ** 2) / np.sum(values**2))


@pytest.fixture(scope="module")
def gaussian() -> np.ndarray:
    return np.random.default_rng(1).normal(size=D)


@pytest.mark.parametrize(
    ("bits", "halves"),
    [
        (1, [0.79788]),
        (2, [0.45278, 1.51042]),
        (3, [0.24509, 0.75601, 1.34391, 2.15195]),
        (4, [0.12840, 0.38805, 0.65676, 0.94234, 1.25623, 1.61805, 2.06902, 2.73259]),
    ],
)
def test_lloyd_max_levels_are_those_of_the_tables(bits: int, halves: list[float]) -> None:
    levels = lloyd_max(bits)
    np.testing.assert_allclose(levels[2 ** (bits - 1) :], halves, atol=2e-5)
    np.testing.assert_allclose(levels, -levels[::-1], atol=1e-7)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_code_is_that_of_the_nearest_level(bits: int) -> None:
    values = np.concatenate([np.random.default_rng(bits).normal(size=20_000) * 2, [-1e9, 1e9, 0.0]]).astype(np.float32)
    levels = lloyd_max(bits).astype(np.float64)
    best = np.abs(values[:, None].astype(np.float64) - levels).min(axis=1)
    np.testing.assert_allclose(np.abs(values - levels[nearest(values, bits)]), best, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.5708), (2, 0.1331), (3, 0.03578), (4, 0.009592), (8, 4.119e-5)])
def test_eden_has_the_error_of_its_theory(gaussian: np.ndarray, bits: int, error: float) -> None:
    rate, found = measured("eden", {"bits": bits}, gaussian)
    # 8 bits: the few values past the last level scatter the figure by 1 %.
    assert found == pytest.approx(error, rel=0.02 if bits < 8 else 0.04)
    assert rate < bits + 0.01


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_eden_under_one_bit_sends_a_part_of_the_coordinates(gaussian: np.ndarray, share: float) -> None:
    rate, found = measured("eden", {"bits": share}, gaussian)
    assert found == pytest.approx(np.pi / 2 / share - 1, rel=0.03)
    assert rate < share + 0.01


def test_eden_is_blind_to_what_the_values_are_like() -> None:
    tailed = np.random.default_rng(2).standard_t(3, size=D)
    assert measured("eden", {"bits": 2}, tailed)[1] == pytest.approx(0.1331, rel=0.04)


@pytest.mark.parametrize("count", [1 << 14, D])
@pytest.mark.parametrize(("bits", "error"), [(2, 0.0976), (3, 0.02274), (4, 0.005591), (8, 2.172e-5)])
def test_the_entropy_coder_reaches_the_limit_of_scalar_quantisation(
    gaussian: np.ndarray, count: int, bits: int, error: float
) -> None:
    many = [measured("entropy_coded", {"bits": bits}, part) for part in gaussian.reshape(-1, count)[:8]]
    rate, found = np.mean(many, axis=0)
    assert rate <= bits + 0.003
    assert found <= 1.05 * error


def test_at_one_bit_rounding_to_nearest_does_best(gaussian: np.ndarray) -> None:
    rate, found = measured("entropy_coded_mmse", {"bits": 1}, gaussian)
    assert rate <= 1.002
    assert found <= 0.545
    assert found < measured("eden", {"bits": 1}, gaussian)[1]


@pytest.mark.parametrize("bits", [0.25, 0.5, 1, 2, 4])
@pytest.mark.parametrize("source", ["laplace", "student"])
def test_heavy_tails_are_cheaper_without_a_rotation(source: str, bits: float) -> None:
    rng = np.random.default_rng(3)
    values = rng.laplace(size=D) if source == "laplace" else rng.standard_t(3, size=D)
    rate, found = measured("entropy_coded", {"bits": bits}, values)
    eden_rate, eden_found = measured("eden", {"bits": bits}, values)
    assert rate < eden_rate
    assert found < eden_found


def test_the_rescaled_code_keeps_the_inner_product() -> None:
    values = np.random.default_rng(4).laplace(size=20_000).astype(np.float32)
    tensors, _ = build("entropy_coded_mmse", {"bits": 1}).encode({"w": values}, {}, generator(1, "x"))
    back = decode(tensors, {"w": values.shape})["w"]
    assert float(np.dot(values, back)) == pytest.approx(float(np.dot(values, values)), rel=1e-4)


@pytest.mark.parametrize("size", [16, 32, 64, 512, 4096])
def test_the_rotation_is_orthonormal_and_its_own_inverse(size: int) -> None:
    rows = np.random.default_rng(size).normal(size=(3, size)).astype(np.float32)
    turned = rotate(rows)
    np.testing.assert_allclose((turned**2).sum(axis=1), (rows**2).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(rotate(turned), rows, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 650, 4096, 10_000, 123_457])
def test_chunks_cover_the_tensor_and_little_more(count: int) -> None:
    pieces = chunks(count, 4096)
    covered = sum(number * size for _, number, size in pieces)
    assert count <= covered < count + 64
    assert [begin for begin, _, _ in pieces] == [
        sum(number * size for _, number, size in pieces[:i]) for i in range(len(pieces))
    ]


@pytest.mark.parametrize(
    ("codec", "parameters", "error"),
    [
        ("bucket_uniform", {"bits": 4, "bucket": 256, "stochastic": 1}, 0.0239),
        ("bucket_uniform", {"bits": 4, "bucket": 256, "stochastic": 0}, 0.012),
        ("bucket_uniform", {"bits": 2, "bucket": 256, "stochastic": 1}, 0.60),
        ("qsgd", {"bits": 4, "bucket": 512}, 1.6),
        ("sign", {}, 0.3634),
        ("affine8_weights", {}, 1.0e-4),
    ],
)
def test_baselines_have_the_errors_known_for_them(
    gaussian: np.ndarray, codec: str, parameters: dict[str, float], error: float
) -> None:
    assert measured(codec, parameters, gaussian)[1] == pytest.approx(error, rel=0.12)


@pytest.mark.parametrize("dithered", [True, False])
def test_what_a_message_holds_around_its_codes_is_set_aside_to_the_byte(dithered: bool) -> None:
    """Never less than it takes, at most the few bytes more of lengths that turn out short; for some, just as much."""
    spare = []
    for names, shape in ((2, (13, 25)), (8, (40, 40)), (1, (307, 100))):
        random = np.random.default_rng(names)
        tree = {f"t{at}": random.normal(0, 0.1, shape).astype(np.float32) for at in range(names)}
        for bits in (0.3, 2.0, 5.0):
            for per_tensor in (0.0, 1.0):
                codec = build(f"entropy_coded{'' if dithered else '_mmse'}", {"bits": bits, "per_tensor": per_tensor})
                (sent,), _ = codec.encode(tree, codec.init(shapes(tree)), generator(1))
                coded = sent.values
                assert isinstance(coded, EntropyCoded)
                (message,) = tensors_to([sent])
                around = message.ByteSize() - sum(map(len, (coded.table, coded.codes, coded.low, coded.tails)))
                total = names * int(np.prod(shape))
                told = header_bits(names, total, dithered=dithered, shared=bits < 0.75, gains=bool(per_tensor))
                spare.append(told / 8 - around)
    assert min(spare) == 0.0
    assert max(spare) <= (4.0 if dithered else 11.0)


def test_levels_of_the_normal_distribution_are_the_same_in_every_version() -> None:
    """Both ends compute them: what one version coded is decoded by another to the same bits."""
    upper = [
        0.12839503586292267, 0.38804832100868225, 0.6567591428756714, 0.9423404932022095,
        1.2562311887741089, 1.6180464029312134, 2.069017171859741, 2.7325894832611084,
    ]  # fmt: skip
    assert lloyd_max(4)[8:].tolist() == upper
    assert [len(lloyd_max(bits)) for bits in range(1, 9)] == [2**bits for bits in range(1, 9)]


@pytest.mark.parametrize("bits", [0.3, 0.5])
def test_few_bits_let_as_many_coordinates_travel_as_pay_for_headers_and_tables(bits: float) -> None:
    """Before there is a model, tables and coder states are taken for 24 bytes."""
    values = np.random.default_rng(5).normal(size=4000).astype(np.float32)
    (tensors, _) = build("entropy_coded", {"bits": bits}).encode({"w": values}, None, generator(1, "share"))
    whole = next(one.values for one in tensors if isinstance(one.values, EntropyCoded))
    fixed_bits = header_bits(1, 4000, dithered=True, shared=True, gains=False) + 8 * 24
    assert whole.share == round((bits * 4000 - fixed_bits) / 4000 / 0.75 * dither.WHOLE)
