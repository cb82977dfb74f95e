"""Rows of installed packages: found by their metadata, imported when named, refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.aggregate.rules import RULES
from coordinator.budgets.weights import Standing, weight
from edge_runtime.power.sensor_factory import make_sensor
from protos import plugins
from protos.errors import PlanError, PluginError, SensorError, UsageError
from protos.plan.plan import parse
from protos.update import codecs

Install = Callable[..., Path]
SHAPES = {"a": (3,)}
TREE = {"a": np.array([1.0, -2.0, 0.5], np.float32)}
CODEC = """
from protos.extending import Codec, CodecEntry, EncodedTensor, Float32, Parameter, each, stateless
print("imported")
def build(parameters):
    return Codec("x", stateless, lambda tree, state, random: ({tensors}, state))
ROW = CodecEntry({parameters}, build, "for a test")
"""
PLAIN = 'tuple(EncodedTensor(n, v.shape, Float32(v.astype("<f4").tobytes())) for n, v in sorted(tree.items()))'


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(group, name, code, package=..., attribute=...)`: a package as pip leaves it, on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def put(group: str, name: str, code: str = "", *, package: str = "one", attribute: str = "ROW") -> Path:
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[edgejoule.{group}]\n{name} = {package}_{group}:{attribute}\n")
        (site / f"{package}_{group}.py").write_text(code)
        plugins.forget()
        return site

    plugins.forget()
    yield put
    plugins.forget()
    for name in set(sys.modules) - before:
        if name.endswith(tuple(f"_{kind}" for kind in plugins.KINDS)):
            del sys.modules[name]


def plan(more: str = "", codec: str = "float32") -> str:
    return f'[run]\nbundle = "b"\n[update]\ncodec = "{codec}"\n{more}'


def test_a_codec_is_imported_when_it_is_named_and_its_parameters_are_the_plans(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("codecs", "x", CODEC.format(tensors=PLAIN, parameters='{"rate": Parameter(2, 1, 4, whole=False)}'))
    assert parse(plan()).update.codec == "float32"
    assert "x" in codecs.CODECS
    assert capsys.readouterr().out == ""
    assert parse(plan("rate = 3.5", codec="x")).update.parameters == {"rate": 3.5}
    assert capsys.readouterr().out == "imported\n"
    with pytest.raises(PlanError, match="not a number from 1 to 4"):
        parse(plan("rate = 5", codec="x"))
    tensors, state = codecs.build("x", {}).encode(TREE, {}, np.random.default_rng(0))
    assert [tensor.name for tensor in tensors] == ["a"]
    assert state == {}
    with pytest.raises(PlanError, match="the same to the bit"):
        parse(plan('[downlink]\ncodec = "x"'))
    with pytest.raises(PlanError, match="no bits to plan"):
        parse(plan('[planner]\npolicy = "joules"', codec="x"))


def test_what_is_not_installed_is_said_with_what_to_do(install: Install) -> None:
    with pytest.raises(PlanError, match=r"no codec is called 'ternary'.*install the package that has it"):
        codecs.build("ternary", {}, where="order of round 1")
    with pytest.raises(PlanError, match=r"no weight is called 'mine'.*install the package"):
        parse(plan('[aggregate]\nweight = ["mine"]'))
    with pytest.raises(PlanError, match=r"no normalisation is called 'mean'.*install the package"):
        parse(plan('[aggregate]\nnormalise = "mean"'))
    with pytest.raises(UsageError, match=r"unknown sensor 'lamp:1'.*installed package"):
        make_sensor("lamp:1")


def test_a_name_of_ours_is_never_replaced(install: Install) -> None:
    install("codecs", "eden", "raise SystemExit('imported')")
    assert codecs.CODECS["eden"] is codecs.BUILT_IN["eden"]
    (error,) = plugins.refused(plugins.installed("codecs"), codecs.BUILT_IN).values()
    assert str(error) == "codec 'eden' of one 1.0: the name is one of ours; give it another name"
    assert list(codecs.CODECS) == list(codecs.BUILT_IN)


def test_of_two_packages_with_one_name_neither_is_taken(install: Install) -> None:
    for package in ("one", "two"):
        install("codecs", "x", CODEC.format(tensors=PLAIN, parameters="{}"), package=package)
    with pytest.raises(PluginError, match=r"codec 'x': two packages have it: one 1.0 and two 1.0; uninstall one"):
        parse(plan(codec="x"))
    assert len(plugins.refused(plugins.installed("codecs"), codecs.BUILT_IN)) == 2
    install("codecs", "a b", package="three")
    (odd, *_) = plugins.refused(plugins.installed("codecs"), codecs.BUILT_IN).values()
    assert "a name is letters, digits" in str(odd)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("ROW = 1 /", "SyntaxError"),
        ("", "no attribute 'ROW'"),
        ("ROW = 7", "is int, not a CodecEntry"),
        (CODEC.format(tensors=PLAIN, parameters='{"bits": 3}'), "parameter 'bits' is not a Parameter"),
        (CODEC.format(tensors=PLAIN, parameters='{"bits": Parameter(9, 1, 8)}'), "minimum <= default"),
        (CODEC.format(tensors=PLAIN, parameters='{"codec": Parameter(1, 1, 8)}'), "parameter 'codec'"),
        (CODEC.format(tensors=PLAIN, parameters="{}").replace("return Codec", "return str"), "failed to build"),
        (CODEC.format(tensors="1 / 0", parameters="{}"), "failed to encode (ZeroDivisionError"),
        (CODEC.format(tensors="()", parameters="{}"), "cannot be decoded (tensors missing"),
        (CODEC.format(tensors="[7]", parameters="{}"), "something else than EncodedTensor"),
        (CODEC.format(tensors='[EncodedTensor("a", (3,), 7)]', parameters="{}"), "cannot be decoded"),
        (CODEC.format(tensors=PLAIN, parameters="{}").replace(", state))", ", 7))"), "its state is no mapping"),
        (CODEC.format(tensors=PLAIN, parameters="{}").replace("stateless,", "lambda s: 7,"), "its state is no mapping"),
    ],
)
def test_a_broken_codec_is_an_error_with_its_name_and_package(install: Install, code: str, said: str) -> None:
    install("codecs", "x", code)

    def work() -> None:
        codec = codecs.build("x", {})
        codec.encode(TREE, codec.init(SHAPES), np.random.default_rng(0))

    with pytest.raises(PluginError) as caught:
        work()
    assert said in str(caught.value)
    assert str(caught.value).startswith("codec 'x' of one 1.0: ")
    assert str(caught.value).endswith("mend or uninstall one")


def test_a_weight_is_a_finite_number_from_0_on(install: Install) -> None:
    install("weights", "w", "import math\ndef ROW(standing): return {1: 2.5, 2: -1, 3: math.nan}[standing.examples]")
    assert parse(plan('[aggregate]\nweight = ["w"]')).aggregate.weight == ("w",)
    assert weight(["w", "by_examples"], Standing(1, None, None)) == 2.5
    for examples in (2, 3):
        with pytest.raises(PluginError, match="not a finite number"):
            weight(["w"], Standing(examples, None, None))
    with pytest.raises(PluginError, match=r"failed to weigh a device \(KeyError: 4\)"):
        weight(["w"], Standing(4, None, None))


RULE = """
from coordinator.extending import Rule
ROW = Rule(lambda shapes: [], lambda state, update, weight, work: [*state, update], lambda state: {finish}, "all", "m")
"""


def test_a_rule_gives_a_change_of_the_heads_shape(install: Install) -> None:
    install("rules", "good", RULE.format(finish="state[0] if state else None"))
    rule = RULES["good"]
    assert rule.finish(rule.start(SHAPES)) is None
    change = rule.finish(rule.add(rule.start(SHAPES), TREE, 1.0, 1.0))
    assert change is not None
    assert change["a"].dtype == np.float64
    assert change["a"].tolist() == TREE["a"].tolist()
    with pytest.raises(PlanError, match="plug-in's rule"):
        parse(plan('[aggregate]\nnormalise = "good"\n[planner]\npolicy = "joules"', codec="entropy_coded"))
    for name, finish, said in (
        ("shape", '{"a": 1.0}', "not the tensors of the head"),
        ("names", "{}", "not the tensors of the head"),
        ("raises", "1 / 0", "failed to finish a round"),
    ):
        install("rules", name, RULE.format(finish=finish), package=name)
        with pytest.raises(PluginError, match=said):
            RULES[name].finish(RULES[name].start(SHAPES))


SENSOR = """
from edge_runtime.extending import *
def ROW(rest, options, clock): return Source(rest)
class Source:
    poll_s, dithers = 0.01, False
    identity = MeterIdentity("measured", "lamp", "none", "uncalibrated")
    capabilities = Capabilities(100.0, "host")
    def __init__(self, how): self.how, self.last_s = how, 0.0
    def open(self, now_s):
        if self.how == "open": raise RuntimeError("no bulb")
        self.last_s = now_s
    def take(self, now_s):
        if self.how == "nan": return one_sample(self.last_s, now_s, float("nan"))
        begin_s, self.last_s = self.last_s, now_s
        return one_sample(begin_s, now_s, 4.0)
    def errors(self): return ErrorModel(gain_relative=0.01)
    def flags(self):
        if self.how == "flags": raise RuntimeError("no words")
        return ()
    def close(self):
        if self.how == "close": raise RuntimeError("stuck")
"""


def test_a_source_of_a_package_is_polled_and_cannot_end_the_polling(install: Install) -> None:
    install("sensors", "lamp", SENSOR)
    for how in ("well", "flags", "close"):
        sensor = make_sensor(f"lamp:{how}")
        sensor.open()
        try:
            assert sensor.trace().power_w[-1] == 4.0
            sensor.request()
            sensor.wait_for_news(1.0)
        finally:
            sensor.close()
    with pytest.raises(SensorError, match=r"sensor 'lamp' of one 1.0: cannot be opened \(RuntimeError: no bulb\)"):
        make_sensor("lamp:open").open()
    with pytest.raises(SensorError, match="gave no sample"):
        make_sensor("lamp:nan").open()
    install("sensors", "bad", "def ROW(rest, options, clock): return object()", package="two")
    with pytest.raises(PluginError, match="no Source: it has no identity"):
        make_sensor("bad:1")


def test_metadata_that_cannot_be_read_is_said(install: Install) -> None:
    site = install("codecs", "x", "ROW = 7")
    (site / "one-1.0.dist-info" / "entry_points.txt").write_text("[edgejoule.codecs\nx = ")
    plugins.forget()
    assert parse(plan()).update.codec == "float32"
    with pytest.raises((PluginError, PlanError), match=r"cannot be read|no codec is called"):
        parse(plan(codec="x"))


def test_a_start_without_plugins_reads_no_metadata_and_imports_none(install: Install) -> None:
    site = install("codecs", "x", "raise SystemExit('imported')")
    script = """
import sys
from protos.plan.plan import parse
from protos.update import codecs
from edge_runtime.power.sensor_factory import make_sensor
parse('[run]\\nbundle = "b"\\n[aggregate]\\nnormalise = "fednova"\\nweight = ["by_examples"]')
codecs.build("entropy_coded", {"bits": 2.0})
make_sensor("hwmon:none")
print(*({"importlib.metadata", "one_codecs", "protos.update.plugged_codec", "email"} & set(sys.modules)))
"""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[2])])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.split() == []
