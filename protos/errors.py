"""The root of the error tree, and the exit code of each kind of mistake.

An error is one line that says where, what, and what to do. Commands print it as
``<command>: <where>: <what>; <fix>`` and leave with ``exit_code``; a script can test the code.
Codes are stable: a number, once given, keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Callable


class EdgejouleError(Exception):
    """Anything a user, a file, a peer or a device got wrong.

    Args:
        what: what is wrong, in one clause.
        where: file, address, key or device it was found in.
        fix: what the reader can do about it, as an imperative.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __reduce__(self) -> tuple[Callable[..., EdgejouleError], tuple[object, ...]]:
        # The default gives every argument by position; a pool of processes must be able to hand an error on.
        return _again, (type(self), self.what, self.where, self.fix)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.fix:
            line = f"{line}; {self.fix}"
        return " ".join(line.split())


def _again(kind: type[EdgejouleError], what: str, where: str | None, fix: str | None) -> EdgejouleError:
    return kind(what, where=where, fix=fix)


class UsageError(EdgejouleError, ValueError):
    """An option or argument that cannot be used as given."""

    exit_code = 2


class CheckFailed(EdgejouleError):
    """A measured figure is on the wrong side of the limit asked for."""

    exit_code = 3


class ConfigError(EdgejouleError, ValueError):
    """A configuration file, variable or flag with a bad key or value."""

    exit_code = 4


class UnreachableError(EdgejouleError, ConnectionError):
    """The other end does not answer."""

    exit_code = 5


class ModelError(EdgejouleError, ValueError):
    """A model, bundle or manifest that cannot be opened or is not what it should be."""

    exit_code = 6


class IntegrityError(EdgejouleError, ValueError):
    """Bytes whose hash or length is not the declared one."""

    exit_code = 7


class ShapeError(EdgejouleError, ValueError):
    """Arrays whose shape or dtype does not fit the model or each other."""

    exit_code = 8


class LabelError(EdgejouleError, ValueError):
    """A label outside the classes of the model."""

    exit_code = 9


class NonFiniteError(EdgejouleError, ValueError):
    """NaN or infinity where a number must be."""

    exit_code = 10


class EmptyShardError(EdgejouleError, ValueError):
    """A device, shard or split without a single example."""

    exit_code = 11


class PlanError(EdgejouleError, ValueError):
    """A run plan that is malformed or contradicts itself."""

    exit_code = 12


class DataError(EdgejouleError, ValueError):
    """A data file that cannot be read."""

    exit_code = 13


class SensorError(EdgejouleError, OSError):
    """A power sensor or serial port that is not there or does not speak the protocol."""

    exit_code = 14


class StoreError(EdgejouleError, OSError):
    """State that cannot be read or written: disk full, locked or damaged database."""

    exit_code = 15


class RefusedError(EdgejouleError, PermissionError):
    """Something that is understood and not allowed: a public address, another protocol version."""

    exit_code = 16


class WaitExpired(EdgejouleError, TimeoutError):
    """What was waited for did not come in time."""

    exit_code = 17


class UnknownRunError(EdgejouleError, LookupError):
    """A run, device or head version that the coordinator does not hold."""

    exit_code = 18


class UpdateError(EdgejouleError, ValueError):
    """An encoded update that is damaged, hostile, or not of the declared shape."""

    exit_code = 19


class FlashError(EdgejouleError, OSError):
    """A board whose flash could not be written or read."""

    exit_code = 20


class MismatchError(EdgejouleError, ValueError):
    """A board that holds or runs another image than the one asked for."""

    exit_code = 21


class UpgradeError(EdgejouleError, RuntimeError):
    """A new version of the service that is not fit, or that the version before came back for."""

    exit_code = 22


class PluginError(EdgejouleError, ImportError):
    """A codec, objective, rule, weight or sensor of an installed package that cannot be used."""

    exit_code = 23
