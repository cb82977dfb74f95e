"""The order in which entries of a state folder were used."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.state import by_use, keep_newest, used


def test_entries_are_ordered_by_their_last_use_and_those_of_no_noted_use_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    for name in "abcd":
        (folder / name).mkdir(parents=True)
    for name in "abcab":
        used(folder / name)
    assert [path.name for path in by_use(folder)] == ["d", "c", "a", "b"]
    (folder / "c").rmdir()
    used(folder / "a")
    assert (tmp_path / ".bundles.order").read_text().split() == ["b", "a"], "what is gone is forgotten"
    keep_newest(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
