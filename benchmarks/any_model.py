"""Every case of a folder of cases, made in a temporary folder and run: models through `convert`, data against a bundle.

A case is right when it converts with figures on the right side of its limits, or is refused with the exit code that
belongs to it and a way on. The folder is named by --cases or EDGEJOULE_CASES, or is `../shared/cases/models_and_data`
beside the repository; its `*/make.py` make the models and data from seeds. Further ones are made by
`benchmarks/foreign_models/`, and need no such folder (`--only E01-more --only E02-data --only R01-runtime`). Nothing is
downloaded.

    .venv/bin/python benchmarks/any_model.py --json any_model.json --table docs/models.md
    .venv/bin/python benchmarks/any_model.py --only C01-gru --only C02-tabular --keep /tmp/cases

Each case has a process and a limit of time of its own, and OUT is written after each of them: with --resume, cases
whose rows in OUT are right are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.foreign_models.data import data_rows
from benchmarks.foreign_models.labs import lab_rows
from benchmarks.foreign_models.rows import Case, further_cases
from benchmarks.foreign_models.runtime import NAME as RUNTIME
from benchmarks.foreign_models.runtime import runtime_rows
from firmware_tools.convert.many import Converter

APPLICATIONS = (
    "mobilenet", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_b0", "resnet50",
    "densenet121", "nasnet_mobile", "convnext_tiny",
)  # fmt: skip
# Least mean cosine of an application with random weights, at 64 x 64; deep nets add up rounding.
_APPLICATION_COSINE = 0.95
# Random weights give nothing that stands out of the rounding that so many layers add up: that it agrees too little is a
# right refusal. Trained ones are another matter.
_DEEP = ("resnet50",)
_APPLICATIONS = "C06-applications"
_LABS = "H01-labgrid"
_TABLE_BEGIN, _TABLE_END = "<!-- made by benchmarks/any_model.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """One case: what should come of it, and what came."""

    case: str
    kind: str
    expected: str
    got: str
    ok: bool
    operators: str = ""


def cases() -> Iterator[Case]:
    """Every model of the folder of cases."""
    gesture = "C01-gru/gesture.npz"
    for name in ("gru", "gru_unroll", "lstm", "lstm_unroll", "simplernn", "conv1d", "tcn"):
        kind = "convolution over time" if name in ("conv1d", "tcn") else "recurrent"
        for suffix in (".keras", ""):
            yield Case(f"C01-gru/{name}{suffix}", kind, gesture, points=1.5)
    for suffix in (".keras", ""):
        yield Case(f"C01-gru/bilstm{suffix}", "recurrent", gesture, points=1.5, refused=(6,), either=True)
    for name, data in (("normalised", "weather"), ("mild", "mild"), ("plain", "weather_std")):
        yield Case(f"C02-tabular/{name}.keras", "unlike units", f"C02-tabular/{data}.npz", cosine=0.999, points=1.0)
    for name, data in (("embed_float", "tokens_f32"), ("embed_int", "tokens_i32")):
        yield Case(f"C03-text/{name}.keras", "token ids", f"C03-text/{data}.npz", points=1.5)
    yield Case("C03-text/textvec.keras", "token ids", "C03-text/tokens_f32.npz", refused=(6,))
    heads, cut = "C04-heads/img.npz", ("--cut",)
    unit = ("--preprocess", "unit")
    for name in ("regress", "regress3", "segment", "fullyconv", "tanh"):
        yield Case(f"C04-heads/{name}.keras", "no classifier", heads, unit, refused=(6,), says=cut)
    yield Case("C04-heads/autoencoder.keras", "no classifier", "C04-heads/flat.npz", refused=(6,), says=cut)
    yield Case("C04-heads/two_outputs.keras", "no classifier", heads, unit, refused=(6,), says=cut)
    yield Case("C04-heads/multilabel.keras", "no classifier", heads, unit, refused=(6,), says=cut)
    yield Case("C04-heads/dict_output.keras", "classifier", heads, unit)
    yield Case("C04-heads/binary.keras", "classifier", "C04-heads/binary.npz", unit, points=1.5)
    yield Case("C04-heads/fullyconv.keras", "classifier", heads, (*unit, "--cut", "pool"))
    yield Case(
        "C04-heads/regress.keras", "regression", "C04-heads/regress.npz", (*unit, "--objective", "regression"),
    )  # fmt: skip
    yield Case(
        "C04-heads/autoencoder.keras", "anomaly", "C08-toycar/frames.npz",
        ("--objective", "anomaly"), refused=(6, 8), either=True,
    )  # fmt: skip
    for name in APPLICATIONS:
        yield Case(
            f"C06-applications/{name}_64.keras", "application", "C06-applications/img64.npz",
            cosine=_APPLICATION_COSINE, refused=(3,) if name in _DEEP else (), either=name in _DEEP,
        )  # fmt: skip
    odd = "C07-odd/img.npz"
    for name in ("mixed16", "good", "batch20", "timedist", "resize_unitnorm", "bn_everywhere"):
        yield Case(f"C07-odd/{name}.keras", "odd but good", odd, unit, points=1.5)
    yield Case("C07-odd/pure16.keras", "odd but good", odd, unit)
    for name in ("uint8_in", "augment"):
        yield Case(f"C07-odd/{name}.keras", "odd but good", odd, points=1.5)
    yield Case("C07-odd/nan_weight.keras", "wrong culprit", odd, unit, refused=(10,), says=("conv2d",))
    yield Case("C07-odd/two_inputs.keras", "wrong culprit", odd, unit, refused=(6,), says=("SavedModel",))
    for name in ("custom.keras", "subclass.keras"):
        yield Case(f"C07-odd/{name}", "wrong culprit", odd, unit, refused=(6,), says=("SavedModel",))
    for name in ("custom_export", "subclass_export", "good_export", "no_input.keras", "no_input.h5"):
        yield Case(f"C07-odd/{name}", "odd but good", odd, unit, points=1.5)
    for name in ("swish", "gelu", "elu", "selu", "hard_sigmoid", "hard_swish", "mish", "softplus", "leaky_relu",
                 "relu6", "tanh"):  # fmt: skip
        yield Case(f"C07-odd/act_{name}.keras", "activation", odd, unit, points=3.0, refused=(6,), either=True)
    yield Case("C07-odd/open_size.keras", "odd but good", odd, (*unit, "--input-shape", "24,24,3"), points=1.5)
    yield Case("C07-odd/open_size.keras", "wrong culprit", odd, unit, refused=(6,), says=("--input-shape",))
    yield Case("C07-odd/bn_after_dense.keras", "odd but good", odd, unit, points=1.5)
    yield Case("C07-odd/two_signatures", "signature", odd, unit, refused=(6,), says=("--signature",))
    yield Case("C07-odd/two_signatures", "signature", odd, (*unit, "--signature", "infer"), points=1.5)
    yield Case("C07-odd/no_signature", "signature", odd, unit, refused=(6,), says=("signature",), either=True)
    yield Case("C04-heads/autoencoder.keras", "no classifier", "C08-toycar/frames.npz", refused=(6, 8), says=())
    yield from further_cases()


def run_case(case: Case, folder: Path, converter: Converter) -> Row:
    """Convert one model by the command that users call."""
    with tempfile.TemporaryDirectory(prefix="edgejoule-any-") as scratch:
        done = converter.call(
            "convert",
            folder / case.model,
            *case.options,
            "--eval",
            folder / case.data,
            "-o",
            f"{scratch}/bundle",
            "--json",
        )
    name = case.name
    if done.code == 0:
        report = json.loads(done.stdout)
        got, ok = _converted(case, report)
        operators = ", ".join(f"{count} {one}" for one, count in report["backbone"]["operators"].items())
        return Row(name, case.kind, case.expected, got, ok, operators)
    message = _last_line(done.stderr).replace(str(folder), "CASES")
    right = done.code in case.refused and all(word in message for word in case.says) and ";" in message
    clean = "Traceback" not in done.stderr and "loc(" not in message and "callsite" not in message
    return Row(name, case.kind, case.expected, f"refused {done.code}: {message}", right and clean)


def _converted(case: Case, report: dict[str, Any]) -> tuple[str, bool]:
    provenance, parts, ok = report["provenance"], [], not case.refused or case.either
    agreement, accuracy = provenance["agreement"], provenance["accuracy"]
    if agreement is not None:
        parts.append(f"cosine {agreement['cosine_mean']:.4f}")
        ok &= agreement["cosine_mean"] >= case.cosine
    if accuracy is not None:
        parts.append(f"float {100 * accuracy['float']:.2f} %, int8 {100 * accuracy['int8']:.2f} %")
        ok &= case.points is None or 100 * (accuracy["float"] - accuracy["int8"]) <= case.points + 1e-9
    else:
        parts.append(provenance["head"])
        ok &= case.points is None
    ok &= all(any(word in warning for warning in report["warnings"]) for word in case.warns)
    if floats := report["backbone"]["float_operators"]:
        parts.append(f"float operators {floats}")
        ok = False
    return "; ".join([*parts, *(f"warns: {warning}" for warning in report["warnings"])]), ok


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("firmware-tools convert: ")]
    return lines[-1] if lines else ""


def make(source: Path | None, folder: Path, wanted: set[str]) -> list[Row]:
    """Run the generators that are wanted, handed ones from a copy; a generator that fails is a row."""
    if source is not None:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    own = Path(__file__).parent / "foreign_models"
    commands: dict[str, list[str | Path]] = {
        **{script.parent.name: [script] for script in folder.glob("*/make.py")},
        "E01-more": [own / "make_models.py", "."],
        "E02-data": [own / "make_data.py", ".", "--pictures", "../E01-more/image.npz"],
    }
    failed = []
    for name, command in sorted(commands.items()):
        # A generator that was cut short runs again.
        made = folder / name / ".made"
        if name not in wanted or made.exists() or name == _APPLICATIONS:
            continue
        _say(f"making {name}")
        made.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([sys.executable, *command], cwd=made.parent, capture_output=True, text=True)
        if done.returncode != 0:
            failed.append(Row(name, "generator", "makes its files", _last_line(done.stderr), False))
        else:
            made.touch()
    return failed


def _application(case: Case, folder: Path) -> None:
    """Make one Keras application, where it is not there: each takes as long as all others together."""
    path = folder / case.model
    if case.model.startswith(_APPLICATIONS) and not path.exists():
        script = path.parent / "make.py"
        net = path.stem.rpartition("_")[0]
        _say(f"making {net}")
        subprocess.run([sys.executable, str(script), net], cwd=script.parent, capture_output=True, text=True)


def table(rows: list[Row]) -> str:
    """The rows of models as a table of Markdown."""
    lines = ["| model | kind | outcome | int8 operators |", "|---|---|---|---|"]
    for row in rows:
        mark = "" if row.ok else "**not yet right:** "
        cells = (f"`{row.case}`", row.kind, mark + row.got, row.operators)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Make, run, print, and write what was asked for; exit code 1 when a row is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "cases" / "models_and_data"
    parser.add_argument("--cases", type=Path, default=Path(os.environ.get("EDGEJOULE_CASES") or beside))
    parser.add_argument("--only", action="append", metavar="WORD", help="cases whose name has this word")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make the cases here, or use those that are there")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="conversions at a time (default: 1)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--resume", action="store_true", help="keep the right rows that are in OUT")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="for one case (default: 600)")
    parser.add_argument(
        "--stop-after", type=float, metavar="S", help="begin no case later than this; go on with --resume"
    )
    parser.add_argument("--table", type=Path, metavar="PAGE", help="replace the table of this page")
    options = parser.parse_args()
    own = bool(options.only) and all(text.startswith(("E0", RUNTIME)) for text in options.only)
    if not options.cases.is_dir() and not own:
        parser.error(f"no cases in {options.cases}: name their folder with --cases")
    start_s = time.monotonic()
    rows = _kept(options.json) if options.resume and options.json else []
    known = {(row.case, row.expected) for row in rows if row.kind != "generator"}

    def late() -> bool:
        return options.stop_after is not None and time.monotonic() - start_s > options.stop_after

    with tempfile.TemporaryDirectory(prefix="edgejoule-cases-") as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        chosen = [
            each_case
            for each_case in cases()
            if not options.only or any(word in each_case.model for word in options.only)
        ]
        data = [
            text
            for text in ("D01-images", "D03-arrays", "E02-data", _LABS, RUNTIME)
            if not options.only or text in options.only
        ]
        left = [each_case for each_case in chosen if (each_case.name, each_case.expected) not in known]
        # Data are judged a row at a time, too: those that are known are not shown again.
        if own:
            data = [text for text in data if text in ("E02-data", RUNTIME)]
        wanted = {path.split("/")[0] for each_case in left for path in (each_case.model, each_case.data)} | set(data)
        rows = [row for row in rows if row.kind != "generator"]
        bundles = {"C07-odd", "E01-more"} if set(data) - {_LABS, RUNTIME} else set()
        rows += make(None if own else options.cases, folder, wanted | bundles)
        for row in _run_all(left, folder, options.jobs, options.timeout, late):
            rows.append(row)
            _show(row)
            _keep(options.json, rows)
        cut = late()
        others = chain(
            data_rows(folder, data),
            lab_rows(folder) if _LABS in data else (),
            runtime_rows() if RUNTIME in data else (),
        )
        others = others if not cut else iter(())
        for name, kind, expected, got, ok in others:
            if late():
                cut = True
                break
            rows = [row for row in rows if (row.case, row.expected) != (name, expected)]
            rows.append(Row(name, kind, expected, got, ok))
            _show(rows[-1])
            _keep(options.json, rows)
        models = [
            row for row in rows if not row.case.startswith(("D01-images", "D03-arrays", "E02-data", _LABS, RUNTIME))
        ]
        order = {each_case.name: place for place, each_case in enumerate(cases())}
        models.sort(key=lambda model: order.get(model.case, len(order)))
    if options.table:
        before, _, rest = options.table.read_text().partition(_TABLE_BEGIN)
        after = rest.partition(_TABLE_END)[2]
        options.table.write_text(f"{before}{_TABLE_BEGIN}\n{table(models)}\n{_TABLE_END}{after}")
    good = sum(row.ok for row in rows)
    more = ", and more are left: go on with --resume" if cut else ""
    print(f"{good} of {len(rows)} cases are right ({time.monotonic() - start_s:.0f} s){more}")
    return 0 if good == len(rows) and not cut else 1


def _run_all(chosen: list[Case], folder: Path, jobs: int, timeout_s: float, late: Callable[[], bool]) -> Iterator[Row]:
    """The rows in order; each of ``jobs`` threads has a converting process of its own, and a new one after a case
    that took too long."""
    mine = threading.local()
    opened: list[Converter] = []

    def run(case: Case) -> Row | None:
        if late():
            return None
        if not hasattr(mine, "converter"):
            mine.converter = Converter()
            opened.append(mine.converter)
        _application(case, folder)
        timer = threading.Timer(timeout_s, mine.converter.kill)
        timer.start()
        try:
            return run_case(case, folder, mine.converter)
        except RuntimeError as error:
            opened.remove(mine.converter)
            del mine.converter
            return Row(case.name, case.kind, case.expected, f"{error}, after at most {timeout_s:g} s", False)
        finally:
            timer.cancel()

    try:
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            yield from (row for row in pool.map(run, chosen) if row is not None)
    finally:
        for converter in opened:
            converter.close()


def _kept(path: Path) -> list[Row]:
    """The rows that an earlier run wrote and found right; the others are run again."""
    rows = [Row(**row) for row in json.loads(path.read_text())["rows"]] if path.is_file() else []
    return [row for row in rows if row.ok]


def _keep(path: Path | None, rows: list[Row]) -> None:
    if path is not None:
        values = {"rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _show(row: Row) -> None:
    print(f"{'ok  ' if row.ok else 'FAIL'} {row.case} [{row.kind}]: {row.got}", flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
