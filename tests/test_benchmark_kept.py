"""A benchmark that was cut goes on by what it has kept, and never takes half a file for a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper_methods.rows import Asked, kept


def test_what_was_kept_is_not_made_again(tmp_path: Path) -> None:
    asked, made = Asked(tmp_path, quick=True, seeds=1, keep=tmp_path / "kept"), []

    def once() -> dict[str, Any]:
        made.append(1)
        return {"accuracy": 0.25}

    assert kept(asked, "one", once) == kept(asked, "one", once) == {"accuracy": 0.25}
    assert len(made) == 1
    kept(asked, "other", once)
    assert len(made) == 2
    # Without a folder everything is made anew.
    kept(Asked(tmp_path, quick=True, seeds=1), "one", once)
    assert len(made) == 3


def test_what_could_not_be_written_whole_is_made_again(tmp_path: Path) -> None:
    asked = Asked(tmp_path, quick=True, seeds=1, keep=tmp_path)
    with pytest.raises(TypeError):
        kept(asked, "one", lambda: {"not JSON": object()})
    (tmp_path / "one.part").write_text('{"half')
    assert kept(asked, "one", lambda: [1.0]) == [1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
