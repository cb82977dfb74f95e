"""Whatever happens to an outbox in whatever order, what was not answered is there, as it was, also after a restart."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from walks import lengths, walk

from edge_runtime.daemon.outbox import Outbox
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import StoreError
from protos.orders import SettledEnergy

RUNS = st.sampled_from(["run-a", "run-b"])
NUMBERS = st.integers(1, 3)
ATTEMPTS = st.sampled_from([None, 1, 2])
PHASES = st.sampled_from([Phase.SEND, Phase.IDLE, Phase.TRAIN])
JOULES = st.sampled_from([None, 0.25, 1.5])
Key = tuple[str, int, int | None]


class OutboxWalk(RuleBasedStateMachine):
    """The model: letters by run and round, those that are aside, energy by order; what is on disk of that."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="outbox-"))
        self.folder = self.root / "outbox"
        self.folder.mkdir()
        self.outbox = Outbox(self.folder)
        self.letters: dict[tuple[int, str], tuple[str, bytes, int | None]] = {}
        self.aside: set[str] = set()
        self.energy: dict[Key, dict[Phase, PhaseEnergy]] = {}
        self.saved: dict[Key, dict[Phase, PhaseEnergy]] = {}
        self.full = False

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    @staticmethod
    def name(number: int, run_id: str) -> str:
        return f"{number:08d}-{hashlib.sha256(run_id.encode()).hexdigest()[:12]}.report"

    def note(self) -> None:
        if not self.full:
            self.saved = {key: dict(mapping) for key, mapping in self.energy.items()}

    def told_of(self, key: Key) -> SettledEnergy:
        return SettledEnergy(key[0], key[1], tuple(self.energy[key].values()), key[2])

    @rule(run_id=RUNS, number=NUMBERS, data=st.binary(max_size=20), attempt=ATTEMPTS)
    def put(self, run_id: str, number: int, data: bytes, attempt: int | None) -> None:
        try:
            self.outbox.put(run_id, number, data, attempt)
        except StoreError:
            assert self.full
            return
        assert not self.full
        self.letters[number, self.name(number, run_id)] = (run_id, data, attempt)

    @precondition(lambda self: not self.full)
    @rule(at=st.integers(0, 9), again=st.booleans())
    def answer(self, at: int, again: bool) -> None:
        pending = self.outbox.pending()
        if pending:
            letter = pending[at % len(pending)]
            for _ in range(1 + again):
                self.outbox.answered(letter)
            del self.letters[letter.round, self.name(letter.round, letter.run_id)]

    @precondition(lambda self: not self.full)
    @rule(at=st.integers(0, 9))
    def refuse(self, at: int) -> None:
        pending = self.outbox.pending()
        if pending:
            letter = pending[at % len(pending)]
            self.outbox.set_aside(letter, "refused")
            self.aside.add(self.name(letter.round, letter.run_id))
            del self.letters[letter.round, self.name(letter.round, letter.run_id)]

    @precondition(lambda self: not self.full)
    @rule(at=st.integers(0, 9), byte=st.integers(0, 10**6))
    def damage(self, at: int, byte: int) -> None:
        """One bit of what is sent is another, or the file is cut."""
        paths = sorted(self.folder.glob("*.report"))
        if paths:
            path = paths[at % len(paths)]
            data = bytearray(path.read_bytes())
            start = data.index(b"\n") + 1
            if start == len(data):
                data = data[: start - 2]
            else:
                data[start + byte % (len(data) - start)] ^= 1 << byte % 8
            path.write_bytes(bytes(data))
            self.aside.add(path.name)
            self.letters = {key: letter for key, letter in self.letters.items() if key[1] != path.name}
            self.outbox.pending()

    @rule(run_id=RUNS, number=NUMBERS, attempt=ATTEMPTS, phase=PHASES, joules=JOULES)
    def add_energy(self, run_id: str, number: int, attempt: int | None, phase: Phase, joules: float | None) -> None:
        method = "unknown" if joules is None else "measured"
        record = PhaseEnergy(phase, joules, 1.0, 0.0, method, "s", None, ("x",))  # type: ignore[arg-type]
        self.outbox.add_settled(SettledEnergy(run_id, number, (record,), attempt))
        self.energy.setdefault((run_id, number, attempt), {})[phase] = record
        self.note()

    @rule(at=st.integers(0, 9), stale=st.booleans())
    def tell(self, at: int, stale: bool) -> None:
        """The coordinator answered for one order; stale: for figures that were replaced meanwhile, which stay."""
        if self.energy:
            key = list(self.energy)[at % len(self.energy)]
            told = self.told_of(key)
            if stale:
                told = SettledEnergy(told.run_id, told.round, (*told.energy, told.energy[0]), told.attempt)
            else:
                del self.energy[key]
            self.outbox.told([told])
            self.note()

    @precondition(lambda self: not self.full)
    @rule()
    def fill_the_disk(self) -> None:
        self.folder.rename(self.root / "kept")
        # A path through a file cannot be written, not even by root.
        self.folder.write_text("in the way")
        self.full = True

    @precondition(lambda self: self.full)
    @rule(restart=st.booleans())
    def free_the_disk(self, restart: bool) -> None:
        """A restart before anything could be written loses what was in memory, and nothing else."""
        self.folder.unlink()
        (self.root / "kept").rename(self.folder)
        self.full = False
        if restart:
            self.outbox = Outbox(self.folder)
            self.energy = {key: dict(mapping) for key, mapping in self.saved.items()}

    @precondition(lambda self: not self.full and self.energy == self.saved)
    @rule()
    def restart(self) -> None:
        self.outbox = Outbox(self.folder)

    @precondition(lambda self: not self.full)
    @invariant()
    def every_letter_is_there_as_it_was_oldest_first(self) -> None:
        found = [(letter.round, letter.run_id, letter.data, letter.attempt) for letter in self.outbox.pending()]
        assert found == [(key[0], *self.letters[key]) for key in sorted(self.letters)]

    @precondition(lambda self: not self.full)
    @invariant()
    def what_is_not_sent_is_aside_and_nothing_else_is_there(self) -> None:
        aside = self.folder / "aside"
        assert {path.name for path in aside.iterdir()} == self.aside if aside.exists() else not self.aside
        names = {path.name for path in self.folder.iterdir()} - {"aside"}
        assert names == {key[1] for key in self.letters} | ({"settled.json"} if self.saved else set())

    @invariant()
    def the_energy_is_there_as_it_was_added(self) -> None:
        assert self.outbox.settled() == tuple(map(self.told_of, self.energy))


@lengths
def test_an_outbox_keeps_what_was_not_answered(length: str) -> None:
    walk(OutboxWalk, length)
