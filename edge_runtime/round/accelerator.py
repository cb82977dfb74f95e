"""Which engine runs the backbone: the Edge TPU where it works, else the CPU, and never the CPU without a word.

Rules kept here:

* Nothing of the Edge TPU is opened in this process before a child process has done the same: a mismatched library kills
  the process that loads it.
* ``auto``: one warning says why a twin runs on the CPU after all, and how to mend it. A bundle without a twin is no
  reason to warn.
* ``require``: the reason is an error instead. ``off``: not a word.
* What failed once is not tried again before the next start, so that a loose plug does not change the engine at each
  round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge_runtime.config import Settings
from edge_runtime.round.inputs.embeddings import EmbeddingCache
from edge_runtime.systemd.logging_setup import log
from protos.errors import RefusedError
from protos.model.bundle import Bundle
from protos.model.edge_tpu import ACCELERATOR, EdgeTpu, EdgeTpuError, is_installed
from protos.model.edge_tpu_trial import TIMEOUT_S, try_edge_tpu
from protos.orders import Engine

Mode = Literal["auto", "off", "require"]
_FIX = 'edge-runtime doctor says how to mend it; edgetpu = "off" is for a device that has none'


@dataclass
class TwinWork:
    """What a round needs to run the twin.

    Attributes:
        edge_tpu: what runs it.
        lost: told when it fails at its work; gives the cache and the engine to go on with.
    """

    edge_tpu: EdgeTpu
    lost: Callable[[EdgeTpuError], tuple[EmbeddingCache, Engine]]


class Accelerator:
    """The Edge TPU of this device, as far as it works.

    Args:
        mode: the setting ``edgetpu``.
        edge_tpu: which one.
        timeout_s: most time for each trial in a child process.

    Attributes:
        available: it loads, and nothing has failed since.
        runtime: version of its library, or None.
    """

    def __init__(self, mode: Mode, edge_tpu: EdgeTpu, *, timeout_s: float = TIMEOUT_S) -> None:
        self._mode, self.edge_tpu, self._timeout_s = mode, edge_tpu, timeout_s
        self.available = False
        self.runtime: int | None = None
        self._why = ""
        self._warned = False

    @classmethod
    def of(cls, settings: Settings) -> Accelerator:
        """The one that the settings name, not looked for yet."""
        return cls(settings.edgetpu, EdgeTpu(settings.edgetpu_library, settings.edgetpu_device))

    @property
    def name(self) -> str:
        """For the card of the device: ``edgetpu``, or empty."""
        return ACCELERATOR if self.available else ""

    @property
    def identity(self) -> str:
        """What else may change its answers, for the name of a cache."""
        return f"runtime {self.runtime if self.runtime is not None else 'unknown'}"

    def look(self) -> None:
        """See whether it loads. A machine without the library costs nothing.

        Raises:
            RefusedError: it does not, and is required.
        """
        if self._mode == "off":
            return
        try:
            if not is_installed(self.edge_tpu.library):
                raise EdgeTpuError("is not installed", where=self.edge_tpu.library)
            self.runtime = try_edge_tpu(self.edge_tpu, timeout_s=self._timeout_s).runtime
            self.available = True
        except EdgeTpuError as error:
            self._refuse_if_required(error)
            self._why = str(error)

    def takes(self, bundle: Bundle) -> bool:
        """Whether the twin of a bundle is to run here; it has run in a child process by then.

        Raises:
            RefusedError: it is required, and there is no twin, or it does not run.
        """
        if self._mode == "off":
            return False
        if bundle.manifest.edge_tpu is None:
            if self._mode == "require":
                raise RefusedError(
                    "has no Edge TPU twin, and one is required",
                    where=f"bundle {bundle.manifest.name}",
                    fix='add one with: firmware-tools compile BUNDLE --into-bundle; or set edgetpu = "auto"',
                )
            return False
        if not self.available:
            self._warn(f"the backbone runs on the CPU, although the bundle has an Edge TPU twin: {self._why}")
            return False
        try:
            if bundle.twin_path is None:
                raise EdgeTpuError("this copy of the bundle lacks its twin", where=str(bundle.path))
            self.runtime = try_edge_tpu(self.edge_tpu, bundle, timeout_s=self._timeout_s).runtime
        except EdgeTpuError as error:
            self._refuse_if_required(error)
            self._give_up(error, "the backbone runs on the CPU, although the bundle has an Edge TPU twin")
            return False
        log().info("the backbone runs on the Edge TPU (%s, %s)", self.edge_tpu.library, self.identity)
        return True

    def lost(self, error: EdgeTpuError) -> None:
        """It failed at its work.

        Raises:
            RefusedError: it is required.
        """
        self._refuse_if_required(error)
        self._give_up(error, "the Edge TPU is lost, and all embeddings are made anew on the CPU")

    def _give_up(self, error: EdgeTpuError, what: str) -> None:
        self.available, self._why = False, str(error)
        self._warn(f"{what}: {error}")

    def _warn(self, what: str) -> None:
        if not self._warned:
            log().warning("%s; %s", what, _FIX)
        self._warned = True

    def _refuse_if_required(self, error: EdgeTpuError) -> None:
        if self._mode == "require":
            raise RefusedError(
                f"the Edge TPU is required and does not work: {error.what}",
                where=error.where,
                fix='edge-runtime doctor says how to mend it; or set edgetpu = "auto"',
            ) from error
