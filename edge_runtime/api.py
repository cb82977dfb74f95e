"""The Python face of a device's metering: joules of a piece of a program, with how wrong they may be.

>>> with Meter("estimate:pi4") as meter:
...     with meter.window("infer") as window:
...         total = sum(range(100_000))
>>> window.energy_j > 0, window.method, window.flags
(True, 'estimated', ())

A window has the joules of the **whole board** from its beginning to its end, whatever the program does meanwhile.
Windows may nest and overlap, in one thread or in several; those that share time share its joules: do not add them up.
Nothing is waited for when a window ends: its figures are settled when they are first read, when the meter is closed, or
along the way. An energy that is not known is None, never 0, and an :class:`EnergyWarning` says why.

docs/python.md is the page of it, with every stable name.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from edge_runtime.power.clock import SystemClock
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.meters.windows import Entry, ModelWindows, NoWindows, SensorWindows, WindowBook
from protos.energy.baseline import Baseline, IdleReading, net_of
from protos.energy.interval import combine
from protos.energy.trace import Method, SampleFlag
from protos.energy.windows import WindowEnergy, WindowSums
from protos.errors import EdgejouleError, SensorError, UsageError

__all__ = ["EdgejouleError", "EnergyWarning", "Meter", "Net", "SensorError", "Total", "UsageError", "Window", "measure"]

P = ParamSpec("P")
R = TypeVar("R")
_QUIET_FLAGS = frozenset({"replayed", "recovered"})
"""Flags that were asked for, or that take nothing from a figure: nobody is warned of them."""


class EnergyWarning(UserWarning):
    """A window's energy is not known, or is known with something odd about it."""


@dataclass(frozen=True, slots=True)
class Net:
    """What a window took beyond the board at rest.

    Attributes:
        energy_j: joules of the window less those of the board at rest for as long; None when one of them is unknown.
        idle_j: what was taken away; None alike.
        uncertainty_j: half width of the 95 % interval; None when it cannot be bounded.
        worst_case_j: sum of the limits of all errors; None alike.
        interval_j: low and high end of the 95 % interval; None alike.
        flags: of the window and of the rests, and ``one-baseline`` without a rest behind.
    """

    energy_j: float | None
    idle_j: float | None
    uncertainty_j: float | None
    worst_case_j: float | None
    flags: tuple[str, ...]

    @property
    def interval_j(self) -> tuple[float, float] | None:
        return _interval(self.energy_j, self.uncertainty_j)


@dataclass(frozen=True, slots=True)
class Total:
    """All windows of one name that ended.

    Errors that are the same in each (the shunt's) add up, and those that are not (noise) add in squares.

    Attributes:
        name: of the windows.
        windows: how many there were.
        unknown: how many of them have no figure.
        energy_j: joules of all of them; None when one is unknown, or when there was none.
        known_j: joules of those that are known.
        uncertainty_j: half width of the 95 % interval of ``energy_j``; None when it cannot be bounded.
        interval_j: low and high end of that interval; None alike.
        duration_s: seconds, added up.
        flags: every flag that one of them had, and ``overlapping`` when two were open at once: their joules are in the
            sum twice.
    """

    name: str
    windows: int
    unknown: int
    energy_j: float | None
    known_j: float
    uncertainty_j: float | None
    duration_s: float
    flags: tuple[str, ...]

    @property
    def interval_j(self) -> tuple[float, float] | None:
        return _interval(self.energy_j, self.uncertainty_j)

    @property
    def mean_j(self) -> float | None:
        """Joules of a window; None when one is unknown."""
        return None if self.energy_j is None else self.energy_j / self.windows

    def as_dict(self) -> dict[str, Any]:
        """JSON values, schema ``edgejoule.total/1``; unknown is None."""
        return {
            "schema": "edgejoule.total/1",
            "name": self.name,
            "windows": self.windows,
            "unknown": self.unknown,
            "energy_j": self.energy_j,
            "known_j": self.known_j,
            "mean_j": self.mean_j,
            "uncertainty_j": self.uncertainty_j,
            "interval_j": self.interval_j and list(self.interval_j),
            "duration_s": self.duration_s,
            "flags": list(self.flags),
        }

    def __str__(self) -> str:
        said = _said(self.energy_j, self.uncertainty_j, self.flags)
        lost = f", {self.unknown} unknown" if self.unknown else ""
        return f"{self.name}: {said} in {self.windows} windows{lost}, {self.duration_s:.3f} s"


class Window:
    """A named stretch of time and its energy; made by :meth:`Meter.window`, used in a ``with`` statement or by hand.

    Figures are there when it has ended. The first that is read waits for the last samples, up to two seconds for a
    sensor that fell silent.
    """

    def __init__(self, meter: Meter, name: str) -> None:
        self.name = name
        self._meter = meter
        self._entry: Entry | None = None

    def begin(self) -> Window:
        """Begin now; what ``with`` does. Returns itself.

        Raises:
            UsageError: it has begun, or its meter is not open.
        """
        if self._entry is not None:
            raise UsageError("has begun before", where=f"window {self.name!r}", fix="make another: meter.window(name)")
        self._entry = self._meter._begin(self)
        return self

    def end(self) -> Window:
        """End now; what leaving ``with`` does, also when the work failed. Harmless when repeated. Returns itself."""
        if self._entry is None:
            raise UsageError("has not begun", where=f"window {self.name!r}", fix="use it in a with statement")
        self._meter._end(self, self._entry)
        return self

    def __enter__(self) -> Window:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def energy_j(self) -> float | None:
        """Joules of the board in the covered seconds; None when there is no figure."""
        return self._figure().gross_j

    @property
    def uncertainty_j(self) -> float | None:
        """Half width of the 95 % interval of ``energy_j``; None when it cannot be bounded."""
        return self._figure().uncertainty_j

    @property
    def interval_j(self) -> tuple[float, float] | None:
        """Low and high end of the 95 % interval; None when it cannot be bounded."""
        figure = self._figure()
        return _interval(figure.gross_j, figure.uncertainty_j)

    @property
    def worst_case_j(self) -> float | None:
        """Sum of the limits of all errors; None alike."""
        return self._figure().worst_case_j

    @property
    def mean_w(self) -> float | None:
        """Mean power of the covered seconds; None without a figure."""
        return self._figure().mean_w

    @property
    def peak_w(self) -> float | None:
        """The largest sample that touches it; None without samples."""
        figure = self._figure()
        return figure.max_w if figure.method == "measured" else None

    @property
    def duration_s(self) -> float:
        """Seconds from beginning to end; of a recording, those of the recording."""
        return self._figure().duration_s

    @property
    def coverage(self) -> float:
        """Share of the time that samples cover, 0 to 1. Below 0.9 there is no figure."""
        return self._figure().coverage

    @property
    def method(self) -> Method:
        """``measured``, ``estimated`` or ``unknown``."""
        return self._figure().method

    @property
    def flags(self) -> tuple[str, ...]:
        """What is odd about it, such as ``degraded``, ``clipped`` or ``reconnected``; empty when all is well."""
        return self._figure().flags

    @property
    def sensor(self) -> str:
        """Who measured, such as ``ina219:/dev/ttyUSB0#0``."""
        return self._meter.identity.sensor

    def net(self, before: Window, after: Window | None = None) -> Net:
        """The energy less that of the board at rest, as windows in which the program slept.

        Errors that are the same in all of them, such as the sensor's zero, go out.

        Args:
            before: the board at rest before; of the same meter.
            after: the same after; between both, idle power is a straight line.
        """
        rests = [window._figure() for window in (before, after) if window is not None]
        mine = self._figure()
        flags = dict.fromkeys([*mine.flags, *(flag for rest in rests for flag in rest.flags)])
        words = (*flags, *(() if after is not None else ("one-baseline",)))
        readings = [
            IdleReading(rest.start_s, rest.stop_s, rest.gross_j, rest.covered_s, rest.budget)
            for rest in rests
            if rest.gross_j is not None and rest.covered_s > 0
        ]
        if mine.gross_j is None or len(readings) < len(rests):
            return Net(None, None, None, None, words)
        left = net_of(
            mine.gross_j, mine.budget, Baseline(*readings), mine.start_s, mine.stop_s, covered_s=mine.covered_s
        )  # fmt: skip
        bounded = all(window_energy.uncertainty_j is not None for window_energy in (mine, *rests))
        spread = left.interval if bounded else None
        return Net(
            left.energy_j,
            left.idle_j,
            spread.expanded_j if spread else None,
            spread.worst_case_j if spread else None,
            words,
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON values, schema ``edgejoule.window/1``, with the keys of ``edge-runtime measure``; unknown is None."""
        figure, identity = self._figure(), self._meter.identity
        interval = self.interval_j
        return {
            "schema": "edgejoule.window/1",
            "name": self.name,
            "energy_j": figure.gross_j,
            "uncertainty_j": figure.uncertainty_j,
            "interval_j": None if interval is None else list(interval),
            "coverage_factor": figure.coverage_factor,
            "worst_case_j": figure.worst_case_j,
            "mean_w": figure.mean_w,
            "peak_w": self.peak_w,
            "duration_s": figure.duration_s,
            "covered_s": figure.covered_s,
            "uncovered_s": figure.uncovered_s,
            "coverage": figure.coverage,
            "method": figure.method,
            "sensor": identity.sensor,
            "calibration_id": identity.calibration_id,
            "quality": identity.quality,
            "flags": list(figure.flags),
            "budget": {term.name: term.standard_j for term in figure.budget},
        }

    def __str__(self) -> str:
        if self._entry is None or self._entry.stop_s is None:
            return f"{self.name}: {'not begun' if self._entry is None else 'open'}"
        figure = self._figure()
        said = _said(figure.gross_j, figure.uncertainty_j, figure.flags)
        return f"{self.name}: {said} in {figure.duration_s:.3f} s, {figure.method}"

    def _figure(self) -> WindowEnergy:
        if self._entry is None or self._entry.stop_s is None:
            state = "has not begun" if self._entry is None else "is still open"
            raise UsageError(state, where=f"window {self.name!r}", fix="read its figures when it has ended")
        return self._meter._figure(self._entry)


class Meter:
    """A sensor held open, and windows over it; used in a ``with`` statement, or opened and closed by hand.

    Every method may be called by any thread. A meter does not go through a fork: open it in the child.

    Args:
        sensor: as in the device's settings, such as ``serial:/dev/ttyUSB0`` (docs/sensors.md), or ``estimate:BOARD``,
            ``none``, or ``replay:FILE`` for the windows of a recording again. None: EDGEJOULE_SENSOR, else the sensor
            of the device's settings; where there is neither, energies are unknown and a warning says so.
        record: file to write every sample and window to; it must be new.
    """

    def __init__(self, sensor: str | None = None, *, record: str | os.PathLike[str] | None = None) -> None:
        self._spec, self._record = sensor, None if record is None else Path(record)
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._book: WindowBook | None = None
        self._let_go: list[Callable[[], None]] = []
        self._closed = False
        self._stopped: Callable[[], str | None] = lambda: None
        self._open_windows: dict[Window, Entry] = {}
        self._sums: dict[str, _Sums] = {}
        self._last: dict[str, Window] = {}
        self._said: set[tuple[str, tuple[str, ...]]] = set()
        self._clock = SystemClock()

    def open(self) -> Meter:
        """Open the sensor; its first sample is there. Returns itself.

        Raises:
            UsageError: the text names no sensor, or the meter was open before.
            SensorError: the sensor is not there, not ours, busy, silent, or not what was asked for.
            DataError: the recording to replay cannot be read.
            StoreError: the file to record to is there already, or cannot be made.
        """
        if self._book is not None or self._closed:
            raise UsageError("was opened before", where="meter", fix="make another: Meter(...)")
        spec = self._spec if self._spec is not None else _configured()
        self._book = self._opened(spec)
        return self

    def close(self) -> None:
        """Settle every window and let go of the sensor. Windows keep their figures. Harmless when repeated.

        Windows that are still open end here, with the flag ``meter-closed``.
        """
        if self._book is None or self._closed:
            return
        with self._lock:
            self._closed, waiting = True, dict(self._open_windows)
        for window, entry in waiting.items():
            entry.words.append("meter-closed")
            self._end(window, entry)
        self._book.close()
        for let_go in reversed(self._let_go):
            let_go()
        if (stopped := self._stopped()) is not None:
            _warn(stopped)

    def __enter__(self) -> Meter:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def identity(self) -> MeterIdentity:
        """Who measures: ``method``, ``sensor``, ``calibration_id``, ``quality``.

        Raises:
            UsageError: the meter was never opened.
        """
        return self._opened_book().identity

    def window(self, name: str) -> Window:
        """A window, not begun yet: ``with meter.window("infer") as window: ...``. Names may repeat."""
        return Window(self, name)

    def total(self, name: str) -> Total:
        """All windows of a name that have ended; it waits for the samples of the last."""
        book = self._opened_book()
        with self._lock:
            sums = self._sums.get(name) or _Sums()
            waiting = [entry for entry in sums.unsettled if entry.stop_s is not None]
        book.settle(waiting)
        with self._lock:
            return sums.total(name)

    def totals(self) -> dict[str, Total]:
        """:meth:`total` of every name."""
        return {name: self.total(name) for name in list(self._sums)}

    def last(self, name: str) -> Window | None:
        """The window of this name that ended last; None when there was none."""
        return self._last.get(name)

    def recorded(self) -> tuple[Window, ...]:
        """Every window of the recording that is replayed, in the order in which they began; empty without one."""
        from edge_runtime.measure.replayed_windows import ReplayedWindows

        found = []
        if isinstance(book := self._opened_book(), ReplayedWindows):
            for entry in book.entries:
                found.append(Window(self, entry.name))
                found[-1]._entry = entry
        return tuple(found)

    def _opened(self, spec: str) -> WindowBook:
        kind, _, rest = spec.partition(":")
        unsampled = kind in ("none", "estimate", "replay")
        if unsampled and self._record is not None:
            raise UsageError("has no samples to record", where=spec, fix="leave out record=, or name a sensor")
        if spec == "none":
            return NoWindows(self._clock, self._settled)
        if kind == "estimate":
            from protos.energy.boards import board

            return ModelWindows(board(rest), self._clock, self._settled)
        if kind == "replay":
            from edge_runtime.measure.replayed_windows import ReplayedWindows

            return ReplayedWindows(Path(rest), self._clock)
        return self._over_sensor(spec)

    def _over_sensor(self, spec: str) -> WindowBook:
        from edge_runtime.power.sensor_factory import make_sensor

        sensor = make_sensor(spec, clock=self._clock)
        noted = None
        recorder = None
        if self._record is not None:
            from edge_runtime.power.recording.writer import Recorder

            # Before the sensor is opened, so that the recording has everything.
            recorder = Recorder(self._record, sensor)
            noted = recorder.note
        try:
            sensor.open()
            self._let_go.append(sensor.close)
            if recorder is not None:
                recorder.begin(self._clock.monotonic())
                self._let_go.append(recorder.close)
                self._stopped = lambda: recorder.stopped
        except BaseException:
            sensor.close()
            raise
        return SensorWindows(sensor, self._clock, noted, self._settled)

    def _opened_book(self) -> WindowBook:
        if self._book is None:
            raise UsageError("is not open", where="meter", fix='use it in a with statement: with Meter("...") as meter')
        if os.getpid() != self._pid:
            raise UsageError("does not go through a fork", where="meter", fix="open another one in this process")
        return self._book

    def _begin(self, window: Window) -> Entry:
        book = self._opened_book()
        with self._lock:
            if self._closed:
                raise UsageError("is closed", where="meter", fix="begin windows while it is open")
            sums = self._sums.setdefault(window.name, _Sums())
            sums.overlapping |= sums.open > 0
            sums.open += 1
            entry = book.begin(window.name)
            sums.unsettled.add(entry)
            self._open_windows[window] = entry
        return entry

    def _end(self, window: Window, entry: Entry) -> None:
        book = self._opened_book()
        if (stopped := self._stopped()) is not None and "recording-incomplete" not in entry.words:
            entry.words.append("recording-incomplete")
            self._say("recording-incomplete", (), stopped)
        book.end(entry)
        with self._lock:
            if self._open_windows.pop(window, None) is None:
                return
            self._sums[window.name].open -= 1
            self._last[window.name] = window
        if entry.settled is not None:
            # A model's, or a recording's; those have told nobody.
            self._settled(entry)

    def _figure(self, entry: Entry) -> WindowEnergy:
        if entry.settled is None:
            self._opened_book().settle([entry])
        figure = entry.settled
        assert figure is not None
        odd = tuple(flag for flag in figure.flags if flag not in _QUIET_FLAGS)
        if self.identity.method == "unknown":
            # Nobody is to measure, and that was said when the meter was opened.
            return figure
        if figure.gross_j is None:
            why = ", ".join(odd) or f"{figure.coverage:.0%} covered"
            self._say(figure.name, odd, f"window {figure.name!r}: energy unknown ({why})")
        elif odd:
            self._say(figure.name, odd, f"window {figure.name!r}: {', '.join(odd)}")
        return figure

    def _say(self, name: str, words: tuple[str, ...], what: str) -> None:
        """Warn once of one kind of trouble with one name."""
        if (name, words) not in self._said:
            self._said.add((name, words))
            _warn(what)

    def _settled(self, entry: Entry) -> None:
        with self._lock:
            self._sums.setdefault(entry.name, _Sums()).add(entry)


class _Sums:
    """What all settled windows of one name come to."""

    def __init__(self) -> None:
        self.open = 0
        self.overlapping = False
        self.unsettled: set[Entry] = set()
        self._windows = self._unknown = 0
        self._known: WindowSums | None = None
        self._duration_s = 0.0
        self._flags: dict[str, None] = {}
        self._bounded = True

    def add(self, entry: Entry) -> None:
        if entry not in self.unsettled:
            return
        self.unsettled.remove(entry)
        figure = entry.settled
        assert figure is not None
        assert entry.sums is not None
        self._windows += 1
        self._duration_s += figure.duration_s
        self._flags |= dict.fromkeys(figure.flags)
        if figure.gross_j is None:
            self._unknown += 1
            return
        self._bounded &= figure.uncertainty_j is not None
        self._known = entry.sums if self._known is None else self._known + entry.sums

    def total(self, name: str) -> Total:
        known = self._known
        all_known = known is not None and not self._unknown
        bits = known.bits if known is not None else 0
        bounded = all_known and self._bounded and not bits & (SampleFlag.CLIPPED | SampleFlag.OVERFLOW)
        flags = (*self._flags, *(("overlapping",) if self.overlapping else ()))
        return Total(
            name,
            self._windows,
            self._unknown,
            known.energy_j if known is not None and all_known else None,
            0.0 if known is None else known.energy_j,
            combine(known.terms).expanded_j if known is not None and bounded else None,
            self._duration_s,
            flags,
        )


class Measured(Protocol):
    """What :func:`measure` gives: a ``with`` statement for a block, or a decorator of a function."""

    def __enter__(self) -> Window: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]: ...


def measure(
    meter: Meter | str | None = None, name: str | None = None, *, on_window: Callable[[Window], None] | None = None
) -> Measured:
    """Measure a block, or every call of a function.

    ``with measure("serial:/dev/ttyUSB0") as window: ...`` opens the sensor, measures the block and lets go of it.
    ``@measure(meter)`` above a function, or a coroutine function, makes each call a window of an open meter, named as
    the function unless ``name`` says otherwise: ``meter.last(name)`` and ``meter.total(name)`` have the figures.

    Args:
        meter: an open one; or, for a block, the text of a sensor as of :class:`Meter`.
        name: of the window.
        on_window: called with each window when it has ended.

    Raises:
        UsageError: a decorator was given no meter, or a generator, whose work is done after its call.
        EdgejouleError: as :meth:`Meter.open`.
    """
    return cast(Measured, _Measure(meter, name, on_window))


class _Measure:
    def __init__(self, meter: Meter | str | None, name: str | None, on_window: Callable[[Window], None] | None) -> None:
        self._given, self._name, self._on_window = meter, name, on_window
        self._own: Meter | None = None
        self._window: Window | None = None

    def __enter__(self) -> Window:
        if self._window is not None:
            raise UsageError("is for one block", where="measure", fix="write measure(...) at each with")
        meter = self._given
        if not isinstance(meter, Meter):
            meter = self._own = Meter(meter).open()
        try:
            self._window = meter.window(self._name or "block").begin()
        except BaseException:
            if self._own is not None:
                self._own.close()
            raise
        return self._window

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._window is not None
        self._window.end()
        if self._own is not None:
            self._own.close()
        if self._on_window is not None:
            self._on_window(self._window)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        meter, on_window = self._given, self._on_window
        what = getattr(function, "__qualname__", repr(function))
        if not isinstance(meter, Meter):
            fix = "write meter = Meter(...), @measure(meter), and open it where the program begins: with meter: ..."
            raise UsageError("a decorator needs a meter that outlives the call", where=what, fix=fix)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            fix = "open a window within it, or around the loop that uses it"
            raise UsageError("a generator works after its call has returned", where=what, fix=fix)
        name = self._name or what

        def block() -> _Measure:
            return _Measure(meter, name, on_window)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def measured_later(*args: Any, **words: Any) -> Any:
                with block():
                    return await function(*args, **words)

            return measured_later

        @functools.wraps(function)
        def measured(*args: Any, **words: Any) -> Any:
            with block():
                return function(*args, **words)

        return measured


def _configured() -> str:
    """The sensor that the environment or the device's settings name; ``none``, with a warning, without any."""
    from edge_runtime.config import configured_sensor

    spec = configured_sensor(os.environ)
    if spec is None:
        what = 'no sensor is named: energies are unknown; give one, as in Meter("serial:/dev/ttyUSB0")'
        _warn(what)
    return spec or "none"


def _warn(what: str) -> None:
    """Warn at the line that called into this module."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame, level = frame.f_back, level + 1
    warnings.warn(what, EnergyWarning, stacklevel=level)


def _interval(energy_j: float | None, uncertainty_j: float | None) -> tuple[float, float] | None:
    if energy_j is None or uncertainty_j is None:
        return None
    return energy_j - uncertainty_j, energy_j + uncertainty_j


def _said(energy_j: float | None, uncertainty_j: float | None, flags: tuple[str, ...]) -> str:
    odd = f" ({', '.join(flags)})" if flags else ""
    if energy_j is None:
        return f"energy unknown{odd}"
    spread = "?" if uncertainty_j is None else f"{uncertainty_j:.2g}"
    return f"{energy_j:.4g} J ± {spread} J (95 %){odd}"
