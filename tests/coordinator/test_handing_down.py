"""Heads that a site hands down: asked for again when they came damaged, and kept apart by the fleet they are of."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.server.upstream.site import Site
from protos.errors import EdgejouleError, IntegrityError, UpdateError


def handed(fault: EdgejouleError) -> str:
    """What a site remembers to have dealt with, after the bundle of a head could not be had."""

    async def bundle(bundle_id: str, run_id: str) -> Any:
        raise fault

    site: Any = SimpleNamespace(_bundle=bundle, _published="")
    publication: Any = SimpleNamespace(id="run-1 head", bundle_id="sha256:b", run_id="run-1")
    with contextlib.suppress(IntegrityError):
        asyncio.run(Site._hand_down(site, publication))
    return str(site._published)


def test_a_head_whose_bundle_came_damaged_is_asked_for_again_and_one_that_is_bad_is_not() -> None:
    assert handed(IntegrityError("arrived damaged", where="bundle file head.tflite")) == ""
    assert handed(UpdateError("is of another shape")) == "run-1 head"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("127.0.0.1:1", None), ("127.0.0.1:2", None), False),
        (("a:1", "root"), ("b:1", "root"), True),
        (("a:1", "root"), ("a:1", "of another"), False),
    ],
)
def test_heads_are_kept_by_the_fleet_that_they_come_from(one: Any, other: Any, same: bool) -> None:
    def name(address: str, root: str | None) -> str:
        identity = None if root is None else SimpleNamespace(signing_root_pem=root)
        site: Any = SimpleNamespace(_link=SimpleNamespace(address=address, identity=identity))
        return Site._fleet_above(site)

    assert (name(*one) == name(*other)) == same
