"""What the work of the last rounds cost, kept on disk: the first round after a restart knows it too.

Kept are the metered figures of the last few rounds by bundle; the largest counts. What this device never did itself,
the order's hint says; what nobody knows is None.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from edge_runtime.state import storing
from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import StoreError
from protos.orders import CostHint

_REMEMBERED = 5
_BUNDLES = 8
_MARGIN = 1.2
_FIRST_SHARE = 0.1
_FIRST_RESERVE_S = 1.0
EMBEDDING_J, STEP_J, SENDING_J, SENDING_S, WORK_W = "embedding_j", "step_j", "sending_j", "sending_s", "work_w"
EXCESS_J = "excess_j"
KEYS = (EMBEDDING_J, STEP_J, SENDING_J, SENDING_S, WORK_W, EXCESS_J)


class CostHistory:
    """The figures of one device, by bundle.

    Args:
        path: a JSON file, or None to keep them in memory only. One that is damaged is begun anew.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._figures: dict[str, dict[str, list[float]]] = {} if path is None else _read(path)

    def learn(self, bundle_id: str, key: str, value: float | None) -> None:
        """Note a figure; an unknown one teaches nothing."""
        if value is None or not math.isfinite(value):
            return
        of_bundle = self._figures.pop(bundle_id, {})
        of_bundle[key] = [*of_bundle.get(key, []), max(0.0, value)][-_REMEMBERED:]
        self._figures[bundle_id] = of_bundle
        for oldest in list(self._figures)[:-_BUNDLES]:
            del self._figures[oldest]

    def largest(self, bundle_id: str, key: str) -> float | None:
        """The largest of the last few, or None when there is none."""
        return max(self._figures.get(bundle_id, {}).get(key, []), default=None)

    def smallest(self, bundle_id: str, key: str) -> float | None:
        """The smallest of the last few, or None when there is none."""
        return min(self._figures.get(bundle_id, {}).get(key, []), default=None)

    def at_most(self, bundle_id: str, key: str) -> float | None:
        """What the next one will hardly pass: a fifth more than the largest, and half of their range."""
        known = self._figures.get(bundle_id, {}).get(key, [])
        return _MARGIN * max(known) + (max(known) - min(known)) / 2 if known else None

    def save(self) -> None:
        """Write them; a disk that is full costs only what a restart would know."""
        if self._path is None:
            return
        try:
            with storing(self._path), write_whole(self._path) as file:
                file.write(json.dumps(self._figures).encode())
        except StoreError as error:
            log().debug("%s; the costs of this round are forgotten at the next start", error)


class Reserve:
    """What rounds with one bundle cost: learnt from each, asked for in the next.

    Args:
        hint: the order's, for what is not known yet.
    """

    def __init__(self, history: CostHistory | None = None, bundle_id: str = "", hint: CostHint | None = None) -> None:
        self._history = history or CostHistory(None)
        self._bundle_id, self._hint = bundle_id, hint
        self._encode_j: float | None = None
        self._encode_s = 0.0
        self._sums = False

    def told(self, hint: CostHint | None, *, sums: bool = False) -> None:
        """Take the hint of a new order.

        Args:
            sums: it asks for statistics: their sending is no measure of that of updates, nor the other way round.
        """
        self._hint, self._sums = hint, sums

    @property
    def embedding_j(self) -> float | None:
        """Joules of one example."""
        return self._known(EMBEDDING_J)

    @property
    def step_j(self) -> float | None:
        """Joules of one step."""
        return self._known(STEP_J)

    @property
    def calm_step_j(self) -> float | None:
        """Joules of one step in the calmest of the last rounds; None when this device has done none."""
        return self._history.smallest(self._bundle_id, STEP_J)

    @property
    def calm_embedding_j(self) -> float | None:
        """Joules of one example, likewise."""
        return self._history.smallest(self._bundle_id, EMBEDDING_J)

    @property
    def excess_j(self) -> float:
        """Joules by which a piece of the last rounds cost more than it was allowed at, as where others use the machine
        and hold one up. 0 when nobody knows."""
        return self._history.largest(self._bundle_id, EXCESS_J) or 0.0

    @property
    def work_w(self) -> float | None:
        """Watts at work, on the high side: a machine that was shared draws less than one that is not."""
        known = [self._history.largest(self._bundle_id, WORK_W), self._hint.work_w if self._hint else None]
        return max((value for value in known if value is not None), default=None)

    def _known(self, key: str) -> float | None:
        own = self._history.largest(self._bundle_id, key)
        return own if own is not None or self._hint is None else float(getattr(self._hint, key)) or None

    def joules(self, budget_j: float, slowdown: float = 1.0) -> float:
        """Joules to keep back out of ``budget_j`` for coding and sending, at most all of it.

        Args:
            slowdown: how many times dearer work is now than on a calm machine, from 1. The calmest of the last rounds
                is taken that many times; the others may have been slow themselves.
        """
        own = None if self._sums and self._hint else self._history.at_most(self._bundle_id, SENDING_J)
        calm = self._history.smallest(self._bundle_id, SENDING_J)
        if own is not None and calm is not None:
            return min(max(own, _MARGIN * slowdown * calm), budget_j)
        return min(_FIRST_SHARE * budget_j if self._hint is None else self._hint.sending_j, budget_j)

    def seconds(self, deadline_s: float) -> float:
        """Seconds to keep back before the deadline, at most half of it."""
        own = self._history.at_most(self._bundle_id, SENDING_S)
        return min(_FIRST_RESERVE_S if own is None else own, deadline_s / 2)

    def worked(
        self,
        energy: tuple[PhaseEnergy, ...],
        embedded: int,
        steps: int,
        encode_s: float,
        *,
        typical: bool = True,
        excess_j: float = 0.0,
    ) -> None:
        """Note what a round cost up to the end of coding.

        Args:
            excess_j: by how much a piece cost more than it was allowed at.
            typical: False when the clock was held down or the supply sagged: what such work costs is not learnt.
        """
        known = {phase_energy.phase: phase_energy for phase_energy in energy if phase_energy.energy_j is not None}
        if typical:
            self._learn_prices(known, embedded, steps)
        if steps or embedded:
            self._history.learn(self._bundle_id, EXCESS_J, excess_j)
        self._encode_j = known[Phase.ENCODE].energy_j if Phase.ENCODE in known else None
        self._encode_s = encode_s

    def _learn_prices(self, known: dict[Phase, PhaseEnergy], embedded: int, steps: int) -> None:
        for phase, key, count in ((Phase.EMBED, EMBEDDING_J, embedded), (Phase.TRAIN, STEP_J, steps)):
            if phase in known and count:
                self._history.learn(self._bundle_id, key, (known[phase].energy_j or 0.0) / count)
        busy = [known[phase] for phase in (Phase.EMBED, Phase.TRAIN) if phase in known]
        watts = [
            (phase_energy.energy_j or 0.0) / phase_energy.covered_s
            for phase_energy in busy
            if phase_energy.covered_s > 0
        ]
        self._history.learn(self._bundle_id, WORK_W, max(watts, default=None))

    def sent(self, energy_j: float | None, seconds: float) -> None:
        """Note what sending cost, and keep the round; an unknown energy teaches nothing about joules."""
        if self._sums:
            self._history.save()
            return
        if energy_j is not None and self._encode_j is not None:
            whole_j = max(0.0, self._encode_j) + max(0.0, energy_j)
            self._history.learn(self._bundle_id, SENDING_J, whole_j)
        self._history.learn(self._bundle_id, SENDING_S, self._encode_s + max(0.0, seconds))
        self._history.save()


def _read(path: Path) -> dict[str, dict[str, list[float]]]:
    try:
        found = json.loads(path.read_bytes())
        return {
            str(bundle_id): {key: [float(one) for one in of_bundle.get(key, [])][-_REMEMBERED:] for key in KEYS}
            for bundle_id, of_bundle in found.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log().warning("%s: unreadable, costs are learnt anew (%s)", path, error)
        return {}
