"""What may be said about lag: only what is known (rule 9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from federation.event_settings import BlobEventSettings
from federation.model import Base, Change, Mode, Side, Source, Stamp
from federation.progress import GAP_NOTE, UNION_NOTE, DeadLetter, HaltRecord
from federation.rules.parking import REASONS
from federation.settings import BlobSettings, PairSettings, VastEventSettings, VastSettings, WorkerSettings
from federation.state.memory_state import MemoryState
from fedplane.status_text import page
from operations.heartbeat import FRESH_SECONDS, Heartbeat, SideHealth, say
from operations.status import PairStatus, pair_status
from reconciler import wanted
from reconciler.converged import CLOCK_SLACK_US
from reconciler.report import Report
from reconciler.scan import COMPLETE, LAST

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
BLOB_TO_VAST, VAST_TO_BLOB = "blob_to_vast", "vast_to_blob"


class StillClock:
    """Time that stands."""

    def now_us(self) -> int:
        """Wall clock."""
        return NOW

    def monotonic_seconds(self) -> float:
        """The same."""
        return NOW / SECOND

    async def sleep(self, seconds: float) -> None:
        """Nobody sleeps here."""
        raise AssertionError(f"nothing waits {seconds} s for a status")


def ago(seconds: float) -> int:
    """A time before now."""
    return NOW - int(seconds * SECOND)


CONNECTED = {"connected": 1, "behind": 0, "newest_us": ago(300), "last_error": ""}
WELL = SideHealth(answers=True, clock_ahead_us=0)


def beat(process: str = "one", **named: Any) -> Heartbeat:  # noqa: ANN401 - any field of it
    """A process to which all is well, save what is named."""
    fields: dict[str, Any] = {
        "process": process,
        "at_us": ago(1),
        "started_us": ago(900),
        "ready": True,
        "sides": dict.fromkeys(Side, WELL),
        "sources": {"event_grid_queue": CONNECTED, "vast_events": CONNECTED},
        "scan": {},
        "worker": {},
    }
    return Heartbeat(**(fields | named))


def scan(started: float = 600, **named: Any) -> Report:  # noqa: ANN401 - any field of it
    """A whole scan that began so many seconds ago, save what is named."""
    return Report(**({"started_us": ago(started), "finished_us": ago(started - 10), "complete": True} | named))


def settings(*, blob_events: bool = True, vast_events: bool = True, webhook: bool = False) -> PairSettings:
    """A pair with those event sources."""
    return PairSettings(
        name="p",
        mode=Mode.TWO_WAY,
        blob=BlobSettings(
            account_url="https://a.example",
            container="c",
            events=BlobEventSettings(
                queue_url="https://q.example/q" if blob_events and not webhook else "",
                webhook_listen="127.0.0.1:1" if webhook else "",
            ),
        ),
        vast=VastSettings(
            endpoint="https://v.example",
            bucket="b",
            access_key_env="A",
            secret_key_env="S",
            events=VastEventSettings(bootstrap=("k:1",) if vast_events else (), topic="t", canary_seconds=0),
        ),
    )


@dataclass
class Known:
    """All that a pair's state says."""

    beats: list[Heartbeat] = field(default_factory=lambda: [beat()])
    whole: Report | None = field(default_factory=scan)
    last: Report | None = field(default_factory=scan)
    halts: list[str] = field(default_factory=list)
    union: bool = False
    lost: bool = False
    wishes: tuple[str, ...] = ()
    pair: PairSettings = field(default_factory=settings)
    changes: list[Change] = field(default_factory=list)


def change(key: str, side: Side, seconds_ago: float) -> Change:
    """A change not yet applied."""
    return Change(key, side, Source.EVENT_GRID, etag="e", at=Stamp(ago(seconds_ago), 1))


async def build(known: Known) -> MemoryState:
    """The state that says so."""
    state = MemoryState("p", shards=1, clock=StillClock())
    for one in known.beats:
        await say(state, one)
    for name, report in ((COMPLETE, known.whole), (LAST, known.last)):
        if report is not None:
            await state.put_note(name, msgspec.json.encode(report))
    for halt in known.halts:
        await state.halt(HaltRecord(halt, "why", ago(5), self_lifting=False))
    if known.union:
        await state.put_note(UNION_NOTE, b"1")
    if known.lost:
        await state.put_note(GAP_NOTE, str(ago(60)).encode())
    for wish in known.wishes:
        await wanted.ask(state, wish, now_us=ago(60))
    await state.mark(known.changes)
    return state


async def status(known: Known) -> PairStatus:
    """What is concluded from it."""
    return await pair_status(await build(known), known.pair, NOW)


# ---------------------------------------------------------------------------------------------------------------- known


async def test_all_is_well() -> None:
    """Everything is known and nothing waits: lag is zero and may be called so."""
    found = await status(Known())
    assert found.state == "in_step"
    for direction in found.directions.values():
        assert (direction.lag_seconds, direction.at_least_seconds, direction.unknown_because) == (0.0, 0.0, [])
    assert (found.pair, found.mode, found.at_us, found.union_mode) == ("p", "two_way", NOW, False)
    assert found.sources == {"event_grid_queue": CONNECTED, "vast_events": CONNECTED}


async def test_lag_is_the_age_of_the_oldest_change_of_that_side() -> None:
    """Each direction has its own."""
    changes = [change("a", Side.BLOB, 5), change("b", Side.BLOB, 9), change("c", Side.VAST, 2.5)]
    found = await status(Known(changes=changes))
    assert found.state == "working"
    assert found.dirty == 3
    blob, vast = found.directions[BLOB_TO_VAST], found.directions[VAST_TO_BLOB]
    assert (blob.lag_seconds, blob.backlog) == (9.0, 2)
    assert (vast.lag_seconds, vast.backlog) == (2.5, 1)


async def test_a_change_from_a_clock_ahead_of_ours_is_no_negative_lag() -> None:
    """Never below zero."""
    found = await status(Known(changes=[change("a", Side.BLOB, -30)]))
    assert found.directions[BLOB_TO_VAST].lag_seconds == 0.0


async def test_a_source_that_is_behind_makes_lag_at_least_as_old_as_what_it_read() -> None:
    """Events that wait unread are unapplied changes too; the other direction is not touched by it."""
    behind = CONNECTED | {"behind": 1, "read_to_us": ago(40)}
    found = await status(Known(beats=[beat(sources={"event_grid_queue": behind, "vast_events": CONNECTED})]))
    assert found.directions[BLOB_TO_VAST].lag_seconds == 40.0
    assert found.directions[VAST_TO_BLOB].lag_seconds == 0.0


async def test_of_lag_in_the_state_and_lag_in_the_source_the_greater_counts() -> None:
    """Whichever is older."""
    behind = CONNECTED | {"behind": 1, "read_to_us": ago(40)}
    beats = [beat(sources={"event_grid_queue": behind, "vast_events": behind})]
    found = await status(Known(beats=beats, changes=[change("a", Side.BLOB, 90), change("b", Side.VAST, 7)]))
    assert found.directions[BLOB_TO_VAST].lag_seconds == 90.0
    assert found.directions[VAST_TO_BLOB].lag_seconds == 40.0


async def test_of_two_processes_that_are_behind_the_one_further_behind_counts() -> None:
    """Each reads a part of the events."""
    one, two = (CONNECTED | {"behind": 1, "read_to_us": ago(seconds)} for seconds in (20, 70))
    beats = [
        beat("one", sources={"event_grid_queue": CONNECTED, "vast_events": one}),
        beat("two", sources={"event_grid_queue": CONNECTED, "vast_events": two}),
    ]
    found = await status(Known(beats=beats))
    assert found.directions[VAST_TO_BLOB].lag_seconds == 70.0


async def test_one_working_process_of_two_is_enough() -> None:
    """A process that starts, or that cannot reach a side, does not hide the one that can."""
    dead = SideHealth(answers=False, last_error="refused")
    beats = [beat("one"), beat("two", ready=False), beat("three", sides=dict.fromkeys(Side, dead), sources={})]
    assert (await status(Known(beats=beats))).state == "in_step"


async def test_the_webhook_is_an_event_source_of_blob() -> None:
    """Either way of Event Grid counts."""
    sources = {"event_grid_webhook": CONNECTED, "vast_events": CONNECTED}
    found = await status(Known(pair=settings(webhook=True), beats=[beat(sources=sources)]))
    assert found.state == "in_step"


# -------------------------------------------------------------------------------------------------------------- unknown

BOTH = (BLOB_TO_VAST, VAST_TO_BLOB)
OFF = {"connected": 0, "behind": 0, "newest_us": None, "last_error": ""}


def dead(side: Side, error: str = "") -> dict[Side, SideHealth]:
    """That side does not answer."""
    return dict.fromkeys(Side, WELL) | {side: SideHealth(answers=False, last_error=error)}


UNKNOWN = [
    ("nobody works", Known(beats=[]), BOTH, "no heartbeat"),
    ("the process went silent", Known(beats=[beat(at_us=ago(FRESH_SECONDS))]), BOTH, "no heartbeat"),
    ("the process starts", Known(beats=[beat(ready=False)]), BOTH, "is starting"),
    ("never scanned", Known(whole=None, last=None), BOTH, "no whole scan was ever completed"),
    ("only part was ever scanned", Known(whole=None, last=scan(prefix="a/")), BOTH, "no whole scan was ever completed"),
    ("never scanned and lost", Known(whole=None, last=None, union=True), BOTH, "no whole scan was ever completed"),
    ("the state was lost", Known(union=True), BOTH, "the state was lost"),
    ("marks were lost", Known(lost=True), BOTH, "marks were lost with the state"),
    ("a source has a gap", Known(wishes=("a/", "")), BOTH, "a source missed something: the scan it asked for has not ended"),
    (
        "directories were renamed",
        Known(wishes=("a/", "b/", "c/", "d/")),
        BOTH,
        "something below 'a/', 'b/', 'c/' and 1 more: the scan",
    ),
    (
        "the last scan broke off",
        Known(last=scan(5, complete=False, error="503")),
        BOTH,
        "scan of the whole pair did not finish: 503",
    ),
    (
        "the last scan was halted",
        Known(last=scan(5, complete=False, halted="side_emptied")),
        BOTH,
        "did not finish: side_emptied",
    ),
    ("the last small scan broke off", Known(last=scan(5, prefix="a/", complete=False)), BOTH, "the last scan did not finish"),
    ("the last scan was stopped", Known(last=scan(5, complete=False)), BOTH, "did not finish: stopped"),
    ("halted", Known(halts=["side_emptied"]), BOTH, "the pair is halted: side_emptied"),
    (
        "blob does not answer",
        Known(beats=[beat(sides=dead(Side.BLOB, "refused"))]),
        BOTH,
        "the blob side does not answer: refused",
    ),
    ("vast has not answered yet", Known(beats=[beat(sides=dead(Side.VAST))]), BOTH, "does not answer: no reason known yet"),
    ("no events of blob", Known(pair=settings(blob_events=False)), (BLOB_TO_VAST,), "no event source is set up for blob"),
    ("no events of vast", Known(pair=settings(vast_events=False)), (VAST_TO_BLOB,), "no event source is set up for vast"),
    (
        "the queue is refused",
        Known(beats=[beat(sources={"event_grid_queue": OFF | {"last_error": "403"}, "vast_events": CONNECTED})]),
        (BLOB_TO_VAST,),
        "the events of blob cannot be read: 403",
    ),
    (
        "the brokers are not reached yet",
        Known(beats=[beat(sources={"event_grid_queue": CONNECTED, "vast_events": OFF})]),
        (VAST_TO_BLOB,),
        "the events of vast cannot be read: not connected yet",
    ),
    (
        "nobody says anything of the brokers",
        Known(beats=[beat(sources={"event_grid_queue": CONNECTED})]),
        (VAST_TO_BLOB,),
        "the events of vast cannot be read: not connected yet",
    ),
    (
        "events wait, and those that were read do not tell of what age",
        Known(beats=[beat(sources={"event_grid_queue": CONNECTED | {"behind": 1}, "vast_events": CONNECTED})]),
        (BLOB_TO_VAST,),
        "events of blob wait to be read, of an age that is not known",
    ),
]


@pytest.mark.parametrize(("known", "directions", "why"), [one[1:] for one in UNKNOWN], ids=[one[0] for one in UNKNOWN])
async def test_what_cannot_be_known_is_called_unknown_with_its_reason(
    known: Known, directions: tuple[str, ...], why: str
) -> None:
    """No lag is reported for these directions, one reason is given, and the others stay known."""
    found = await status(known)
    for name, direction in found.directions.items():
        if name in directions:
            assert direction.lag_seconds is None
            [reason] = direction.unknown_because
            assert why in reason
        else:
            assert direction.lag_seconds is not None
            assert direction.unknown_because == []
    assert found.state == ("halted" if known.halts else "unknown")


async def test_all_reasons_are_given_and_what_is_known_all_the_same() -> None:
    """An unknown lag still is at least the age of what is known to wait."""
    known = Known(beats=[], whole=None, halts=["side_emptied", "bad_options"], changes=[change("a", Side.BLOB, 33)])
    direction = (await status(known)).directions[BLOB_TO_VAST]
    assert (direction.lag_seconds, direction.at_least_seconds) == (None, 33.0)
    assert [reason.partition(" (")[0] for reason in direction.unknown_because] == [
        "the pair is halted: bad_options",
        "the pair is halted: side_emptied",
        "no process works on this pair",
        "no whole scan was ever completed",
        "how far the clock of blob is from ours was not measured yet",
    ]


async def test_a_heartbeat_counts_until_it_is_too_old() -> None:
    """Just before the limit the process is alive."""
    assert (await status(Known(beats=[beat(at_us=ago(FRESH_SECONDS) + 1)]))).state == "in_step"


async def test_what_a_silent_process_said_of_its_sources_is_not_believed() -> None:
    """An old word of being connected is not a connection."""
    silent = beat("old", at_us=ago(60))
    alive = beat("new", sources={"event_grid_queue": OFF, "vast_events": CONNECTED})
    found = await status(Known(beats=[silent, alive]))
    assert found.directions[BLOB_TO_VAST].lag_seconds is None
    assert [one.process for one in found.processes] == ["new", "old"]


# ------------------------------------------------------------------------------------------------------ the word for it


async def test_parked_and_held_keys_want_attention() -> None:
    """Nothing moves and nothing is unknown, but a person is needed; the page says why and what to do."""
    state = await build(Known(changes=[change("a", Side.BLOB, 5)]))
    lease = await state.acquire(0, owner="t", ttl_seconds=60)
    assert lease is not None
    [claim] = await state.claim(lease, limit=1, now_us=NOW)
    await state.park(lease, "a", claim.hint.generation, reason="archived", detail="", now_us=NOW)
    found = await pair_status(state, settings(), NOW)
    assert (found.state, found.parked, found.dirty) == ("attention", 1, 0)
    assert found.parked_by_reason == {"archived": 1}
    assert REASONS["archived"].way_back in page(found)


async def test_a_halt_is_the_first_thing_to_say() -> None:
    """Whatever else is unknown or waits."""
    found = await status(Known(beats=[], halts=["side_emptied"], changes=[change("a", Side.BLOB, 5)]))
    assert found.state == "halted"
    assert [halt.name for halt in found.halts] == ["side_emptied"]


async def test_counts_are_passed_on() -> None:
    """Objects of the base and records that could not be read."""
    state = await build(Known(changes=[change("a", Side.BLOB, 5), change("b", Side.BLOB, 5)]))
    lease = await state.acquire(0, owner="t", ttl_seconds=60)
    assert lease is not None
    for claim in await state.claim(lease, limit=9, now_us=NOW):
        await state.settle(lease, claim.hint.key, claim.hint.generation, Base("b", "v"))
    await state.bury(DeadLetter("vast_events", "no JSON", b"x", scan().started_us - CLOCK_SLACK_US))
    found = await pair_status(state, settings(), NOW)
    assert (found.objects, found.dead_letters, found.state) == (2, 1, "in_step")


async def test_a_layout_without_room_is_said_with_what_to_do() -> None:
    """More objects than its hashes keep compact; nothing is said while there is room."""
    found = await pair_status(await build(Known()), settings(), NOW, worker=WorkerSettings(shards=1, buckets=1))
    assert found.room == 400
    assert "NO ROOM" not in page(msgspec.structs.replace(found, objects=400))
    assert "more worker.buckets" in page(msgspec.structs.replace(found, objects=401))


@pytest.mark.parametrize(("source", "side"), [("event_grid_pull", Side.BLOB), ("vast_events", Side.VAST)])
async def test_a_record_nobody_could_read_is_a_doubt_until_a_whole_scan(source: str, side: Side) -> None:
    """Of the side whose events they are: what it told of is not known. One that began later by whoever's clock."""
    state = await build(Known())
    await state.bury(DeadLetter(source, "no JSON", b"x", scan().started_us - CLOCK_SLACK_US + 1))
    found = (await pair_status(state, settings(), NOW)).directions
    assert (found[f"{side}_to_{side.other}"].lag_seconds, found[f"{side.other}_to_{side}"].lag_seconds) == (None, 0.0)
    assert "fedplane events dead" in found[f"{side}_to_{side.other}"].unknown_because[0]


@pytest.mark.parametrize(
    ("detail", "lifting", "end"),
    [("why", True, " (ends by itself)"), ("why", False, "; then: fedplane lift h"), ("If so: fedplane lift h", False, "")],
)
async def test_what_ends_a_halt_is_said_once(detail: str, lifting: bool, end: str) -> None:
    """By the halt's own words where they say it."""
    state = await build(Known())
    await state.halt(HaltRecord("h", detail, ago(5), self_lifting=lifting))
    assert f": {detail}{end}\n" in page(await pair_status(state, settings(), NOW))
