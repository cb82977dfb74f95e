"""Which state folder and sensor a command of the model means, when nothing else says it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from edge_runtime.config import SERVICE_CONFIG, Settings, resolve
from edge_runtime.model.current import Model, open_current
from edge_runtime.model.limits import SOCKET
from protos.errors import UsageError

__all__ = ["model_at", "settings_from", "socket_of"]


def settings_from(given: argparse.Namespace) -> Settings:
    """The settings that a command works with.

    Raises:
        ConfigError: they cannot be read.
    """
    config = given.config or (Path(os.environ["EDGEJOULE_CONFIG"]) if os.environ.get("EDGEJOULE_CONFIG") else None)
    if config is None and SERVICE_CONFIG.is_file():
        config = SERVICE_CONFIG
    return resolve({} if given.state is None else {"state": given.state}, os.environ, config).settings


def socket_of(settings: Settings) -> Path:
    """Where a daemon with these settings answers, if it does."""
    named = settings.model_socket
    return Path(named) if named and named != "off" else settings.state / SOCKET


def model_at(settings: Settings) -> Model:
    """The model at work.

    Raises:
        UsageError: there is none; IntegrityError: it is damaged.
    """
    model = open_current(settings.state)
    if model is None:
        raise UsageError(
            "no model is at work here yet",
            where=str(settings.state),
            fix="name the device's folder with --state; a model comes when a run has finished",
        )
    return model
