"""MLflow: a run of an experiment named after ours, in a tracking database ``mlflow.db`` in the folder.

`mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db` shows it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from coordinator.results.figures import RunFigures

__all__ = ["write"]

# Of one call: MLflow refuses more.
_METRICS, _SETTINGS, _LONGEST = 1000, 100, 6000
_LONGEST_NAME = 200
_STATES = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def write(found: RunFigures, folder: Path) -> list[Path]:
    """Add a run to the database in ``folder``; the paths that were written."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    # That it makes tables is no news, and would stand on stderr.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    database, artifacts = folder / "mlflow.db", folder / "artifacts"
    client = MlflowClient(tracking_uri=f"sqlite:///{database.resolve()}")
    experiment = client.get_experiment_by_name(found.run.name)
    number = (
        client.create_experiment(found.run.name, artifact_location=artifacts.resolve().as_uri())
        if experiment is None
        else experiment.experiment_id
    )
    made = client.create_run(number, start_time=_ms(found.run.started_unix_s), run_name=found.run.run_id).info.run_id
    metrics = [
        Metric(_named(name), value, _ms(this_round.at_unix_s), this_round.round)
        for this_round in found.rounds
        for name, value in this_round.figures.items()
    ]
    settings = [Param(_named(key), str(value)[:_LONGEST]) for key, value in found.settings.items()]
    for first in range(0, len(metrics), _METRICS):
        client.log_batch(made, metrics=metrics[first : first + _METRICS])
    for first in range(0, len(settings), _SETTINGS):
        client.log_batch(made, params=settings[first : first + _SETTINGS])
    client.log_batch(made, tags=[RunTag("edgejoule.run_id", found.run.run_id)])
    client.log_text(made, found.details.plan_toml, "plan.toml")
    ended = found.run.finished_unix_s
    if ended is not None:
        client.set_terminated(made, _STATES.get(found.run.state, "KILLED"), _ms(ended))
    return [database, artifacts]


def _named(text: str) -> str:
    """A name that MLflow takes, which never is that of another figure.

    >>> _named("spent_j"), _named("budget.device.pi&4")
    ('spent_j', 'budget.device.pi_4_7df62f')
    """
    plain = re.sub(r"[^A-Za-z0-9_. :/-]", "_", text)[:_LONGEST_NAME]
    return text if plain == text else f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _ms(unix_s: float) -> int:
    return round(unix_s * 1000)
