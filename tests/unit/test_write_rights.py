"""The right to write is lost while lists work: one key alone is parked, a side that takes nothing halts the pair."""

from __future__ import annotations

import pytest
from aiohttp import web

from federation.errors import FederationError, Halt, Park
from federation.model import Metadata, Side
from federation.rules.guards import SELF_LIFTING_HALTS
from tests.unit.store_server import EMPTY, Store, refusal, served

DENIED = {Side.BLOB: "AuthorizationPermissionMismatch", Side.VAST: "AccessDenied"}


async def said_to(store: Store, *keys: str) -> list[tuple[type[FederationError] | None, str]]:
    """What a write of each key met."""
    said: list[tuple[type[FederationError] | None, str]] = []
    for key in keys:
        try:
            await store.put(key, b"", Metadata(), stamp=None, expected_etag=None)
            said.append((None, ""))
        except FederationError as error:
            said.append((type(error), error.reason))
    return said


@pytest.mark.parametrize("side", Side)
async def test_a_side_that_takes_no_write_halts_the_pair(side: Side) -> None:
    """At the third key, once a trial was refused too; not by the same key again, and again only after three more."""

    def answers(request: web.Request) -> web.Response:
        return web.Response() if request.method == "GET" else refusal(403, DENIED[side], side)

    async with served(side, answers) as (store, _):
        parked, halted = (Park, "access_denied"), (Halt, "write_refused")
        assert await said_to(store, "a", "a", "a", "b", "c") == [parked, parked, parked, parked, halted]
        assert await said_to(store, "d", "e", "f") == [parked, parked, halted]
    # The lists by which halts lift themselves say nothing of writes.
    assert "write_refused" not in SELF_LIFTING_HALTS


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("deletes", [True, False])
async def test_objects_that_are_closed_to_us_are_parked_one_by_one(side: Side, *, deletes: bool) -> None:
    """However many: a trial under our own prefix is taken, and nothing of it stays, unless nothing may be deleted."""

    def answers(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.Response()
        ours = "/.federation/probe/" in request.path
        return web.Response(headers=EMPTY) if ours and (deletes or request.method == "PUT") else refusal(403, DENIED[side], side)

    async with served(side, answers) as (store, asked):
        said = await said_to(store, "a", "b", "c", "d", "e")
    assert said == [(Park, "access_denied")] * 5
    assert [one.split()[0] for one in asked if "/.federation/" in one] == ["PUT", "PUT", "DELETE"]


@pytest.mark.parametrize("side", Side)
async def test_a_write_that_is_taken_ends_the_count(side: Side) -> None:
    """Then the right is there: no trial is made."""

    def answers(request: web.Request) -> web.Response:
        if request.method == "GET" or request.path.endswith("/open"):
            return web.Response(headers=EMPTY)
        return refusal(403, DENIED[side], side)

    async with served(side, answers) as (store, asked):
        said = await said_to(store, "a", "b", "open", "c", "d")
    assert [kind for kind, _ in said] == [Park, Park, None, Park, Park]
    assert not [one for one in asked if "/.federation/" in one]
