"""What is installed only with an extra, and the line that installs it into this very Python.

pip takes the distribution that is installed already, from a wheel or a clone, and adds what the extra asks for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import sys
from collections.abc import Iterable, Mapping

from protos.errors import UsageError

# By the name that is imported.
EXTRA_OF: Mapping[str, str] = {
    "sqlalchemy": "coordinator",
    "rich": "coordinator",
    "PIL": "images",
    "pyarrow": "parquet",
    "psycopg": "postgresql",
    "grpc_reflection": "reflection",
    "tensorflow": "workshop",
    "keras": "workshop",
    "sklearn": "workshop",
    "matplotlib": "plot",
    "textual": "watch",
    "starlette": "dashboard",
    "uvicorn": "dashboard",
    "smbus2": "i2c",
    "asyncssh": "testbed",
    "ray": "ray",
    "yaml": "hw",
    "tensorboardX": "tensorboard",
    "mlflow": "mlflow",
    "alembic": "mlflow",
    "trackio": "trackio",
    "wandb": "wandb",
    "opentelemetry": "otel",
    "pyjls": "jls",
    "paho": "mqtt",
    "zeroconf": "mdns",
    "pytest": "hw",
}


def advice(extra: str) -> str:
    """The line that installs an extra.

    >>> advice("plot").endswith("-m pip install 'edgejoule[plot]'")
    True
    """
    python = shlex.quote(sys.executable) if sys.executable else "python3"
    return f"{python} -m pip install 'edgejoule[{extra}]'"


def missing(module: str, extra: str | None = None) -> UsageError:
    """The error for a module that is not installed.

    Args:
        extra: to name instead of the one that brings this module alone.
    """
    return UsageError(f"{module} is not installed", fix=f"install it with: {advice(extra or EXTRA_OF[module])}")


def require(modules: Iterable[str], extra: str) -> None:
    """Find out, before anything is begun, whether all of it can be imported.

    Raises:
        UsageError: the first that is not there, with the line that installs the extra.
    """
    for module in modules:
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(module) is not None:
                continue
        raise missing(module, extra)
