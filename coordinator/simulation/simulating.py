"""A plan over a fleet that does not exist: read, divided, run by one of the engines, and put into rows and arrays."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coordinator.api import outcome_of
from coordinator.lab import plan_keys
from coordinator.lab.shards import device_names, divide
from coordinator.operator.status import RoundStatus
from coordinator.simulation import exact, ray_cluster, vectorised
from coordinator.simulation.fleet import ENGINES, FleetSettings, embedded
from coordinator.simulation.results import Simulated, arrays_of
from protos.catalog import pick
from protos.datafiles import dataset
from protos.errors import PlanError, UsageError
from protos.model.bundle import Bundle, open_bundle
from protos.plan.plan import parse

# What the coordinator evaluates heads on, where the plan names nothing.
HELD_OUT = "held-out.npz"
# Keys of a plan that are paths.
_PATHS = (("evaluate", "data"), ("budget", "harvest"))

PlanSource = str | os.PathLike[str] | Mapping[str, Any]


def simulate(
    plan: PlanSource,
    settings: FleetSettings,
    *,
    bundle: str | os.PathLike[str] | None = None,
    engine: str = "exact",
    keys: Mapping[str, Any] | None = None,
    on_round: Callable[[RoundStatus], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Simulated:
    """Run a plan over the fleet; see :func:`coordinator.api.simulate`.

    Args:
        keys: of a plan, laid over it.
        say: told what is being done, in a line each.
    """
    started_s = time.monotonic()
    pick({name: name for name in ENGINES}, engine, what="engine", where="engine")
    settings.check()
    document, base = _read(plan)
    document = plan_keys.laid_over(document, keys or {})
    opened = _opened(document, base, bundle)
    document = plan_keys.laid_over(document, {"run": {"bundle": str(opened.path.resolve())}})
    document = _absolute(document, base)
    if "devices" not in document.get("round", {}):
        document = plan_keys.laid_over(document, {"round": {"devices": settings.devices}})
    # A mistake in a key is said before anything is made.
    parse(plan_keys.as_toml(document), where=_name(plan))
    say(f"dividing {settings.data} over {settings.devices} devices ({settings.partition})")
    made = divide(
        settings.data,
        opened.manifest,
        devices=settings.devices,
        scheme=settings.partition,
        seed=settings.seed,
        renames=settings.renames,
    )
    say(f"{settings.data}: {made.account}")
    if made.unlike:
        say(f"warning: {settings.data}: {made.unlike}")
    with tempfile.TemporaryDirectory(prefix="edgejoule-held-out-") as folder:
        if "data" not in document.get("evaluate", {}) and len(made.test):
            # Relative to the folder, so that the plan, and with it the name of the run, is the same each time.
            dataset.save(made.test, Path(folder) / HELD_OUT)
            document = plan_keys.laid_over(document, {"evaluate": {"data": HELD_OUT}})
        text = plan_keys.as_toml(document)
        shared, held = embedded(opened, made, say, lambda: None)
        say(f"simulating {settings.devices} devices, {engine} engine")
        place = Path(folder)
        if engine == "vectorised":
            return _vectorised(
                vectorised.run_vectorised(text, place, settings, made, shared, held, on_round),
                settings,
                text,
                started_s,
            )

        def played() -> exact.Ran:
            if engine != "ray":
                return exact.run_exactly(text, place, settings, made, shared, held, on_round)
            with ray_cluster.on_ray(settings, shared, made.parts, say) as cluster:
                return exact.run_exactly(text, place, settings, made, shared, held, on_round, cluster.board)

        ran: exact.Ran = _apart(played)
    names = device_names(settings.devices)
    arrays = arrays_of(ran.status, names)
    arrays["true_j"] = ran.true_j
    arrays["examples"][:] = [len(part) for part in made.parts]
    return Simulated(
        outcome=outcome_of(ran.status),
        head=ran.head,
        arrays=arrays,
        device_ids=names,
        kinds=_kinds(settings),
        engine=engine,
        virtual_s=ran.virtual_s,
        wall_s=time.monotonic() - started_s,
        plan=text,
        notes=ran.notes,
        status=ran.status,
    )


def _vectorised(ran: vectorised.Ran, settings: FleetSettings, plan: str, started_s: float) -> Simulated:
    outcome = outcome_of(ran.status)
    vectorised.filled(outcome.rounds, outcome.run, ran.arrays)
    return Simulated(
        outcome=outcome,
        head=ran.head,
        arrays=ran.arrays,
        device_ids=device_names(settings.devices),
        kinds=_kinds(settings),
        engine="vectorised",
        virtual_s=ran.virtual_s,
        wall_s=time.monotonic() - started_s,
        plan=plan,
        notes=ran.notes,
        status=ran.status,
    )


def _kinds(settings: FleetSettings) -> tuple[str, ...]:
    return tuple(settings.board_of(index) for index in range(settings.devices))


def _absolute(document: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A plan whose paths do not depend on where it stands."""
    made = dict(document)
    for section, key in _PATHS:
        table = made.get(section)
        if isinstance(table, Mapping) and isinstance(table.get(key), str):
            path = str((base / Path(table[key]).expanduser()).resolve())
            made[section] = {**table, key: path}
    return made


def _apart(work: Callable[[], Any]) -> Any:
    """Do it here; in a thread of its own where this one has an event loop that is on, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    made: list[Any] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            made.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body, name="simulation", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _name(plan: PlanSource) -> str:
    return "plan" if isinstance(plan, Mapping) else str(plan)


def _read(plan: PlanSource) -> tuple[dict[str, Any], Path]:
    """A plan as a document, and the folder that its paths are relative to."""
    if isinstance(plan, Mapping):
        return dict(plan), Path.cwd()
    path = Path(plan)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PlanError(f"cannot be read ({reason})", where=str(path), fix="check the path") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"not TOML: {error}", where=str(path)) from error
    return document, path.resolve().parent


def _opened(document: Mapping[str, Any], base: Path, bundle: str | os.PathLike[str] | None) -> Bundle:
    if bundle is not None:
        return open_bundle(Path(bundle))
    named = document.get("run", {}).get("bundle") if isinstance(document.get("run"), dict) else None
    if not isinstance(named, str):
        raise UsageError("the plan names no bundle", where="run.bundle", fix="give --bundle DIR")
    return open_bundle(base / Path(named).expanduser())
