"""An object that we write now and then on the VAST side, because a silent topic is suspicious: its event must come back.

A trigger that reports itself ready may never fire (facts/vast.md 1, Delivery): only traffic proves the way from a write to us.
Two notes of the pair hold what is known: one written with the object, one when its event was read, by whatever process.
"""

from __future__ import annotations

import msgspec

from federation.backoff import backoff_seconds
from federation.errors import FederationError, NotPresent, Reobserve
from federation.model import Metadata
from federation.payloads.vast import CANARY_KEY, CanaryEvent
from federation.ports import Clock, ObjectStore, State
from federation.record_ports import Records
from federation.sources.common import Tell
from federation.telemetry import logger

RETURN_SECONDS = 60.0
"""An event that takes longer is overdue (published latencies are below a tenth of a second), and the canary is written again."""
_CHECK_SECONDS = 10.0
_TTL_SECONDS = 30.0
_TASK = "vast_canary"
_SENT, _BACK = "canary:sent", "canary:back"
_BACK_AT_MOST = 8
_log = logger("fedplane.sources")


class Sent(msgspec.Struct, frozen=True):
    """The last canary written. ``proved_us``: when the last one whose event came back before it was written; 0: none."""

    etag: str
    sent_us: int
    proved_us: int = 0


class Back(msgspec.Struct, frozen=True):
    """The last events of canaries, the newest last: another pair may write its own to the same bucket and prefix.

    An ETag is empty where the event tells none.
    """

    etags: tuple[str, ...]
    seen_us: int
    spellings: tuple[str, ...] = ()


class Proof(msgspec.Struct, kw_only=True):
    """What the canary says of the way from a write on VAST to us. Times in microseconds since 1970 UTC, None: never."""

    sent_us: int | None = None
    proved_us: int | None = None
    """When the newest canary was written whose event came back."""
    age_seconds: float | None = None
    """So old is the proof."""
    doubt: str = ""
    """Why events may be lost unnoticed; empty: the proof is fresh."""


async def proof(state: Records, every_seconds: float, now_us: int) -> Proof:
    """Read both notes and conclude. Raises RetryLater."""
    return conclude(await _sent(state), await back(state), every_seconds, now_us)


def conclude(sent: Sent | None, seen: Back | None, every_seconds: float, now_us: int) -> Proof:
    """Pure: whether the way is proved. Unknown is a doubt (rule 9)."""
    if sent is None:
        return Proof(doubt="no canary was written to VAST yet, so it is not known whether its events arrive")
    proved_us = _proved_us(sent, seen)
    waited = (now_us - sent.sent_us) / 1_000_000
    found = Proof(sent_us=sent.sent_us, proved_us=proved_us or None)
    if proved_us:
        found.age_seconds = max(0.0, (now_us - proved_us) / 1_000_000)
    if not proved_us:
        found.doubt = "no event of the canary has come back yet: check the event notification of the bucket and its topic"
    elif proved_us != sent.sent_us and waited > RETURN_SECONDS:
        found.doubt = f"the canary written {waited:.0f} s ago brought no event: events of vast are late or lost"
    elif found.age_seconds is not None and found.age_seconds > 2 * every_seconds + RETURN_SECONDS:
        found.doubt = f"no canary was written for {waited:.0f} s, so it is not known whether events of vast still arrive"
    return found


def _proved_us(sent: Sent, seen: Back | None) -> int:
    if seen is not None and (sent.etag in seen.etags or ("" in seen.etags[-1:] and seen.seen_us >= sent.sent_us)):
        return sent.sent_us
    return sent.proved_us


async def note_back(state: Records, event: CanaryEvent, now_us: int) -> None:
    """The canary's event was read. Raises RetryLater."""
    before = await back(state)
    etags = (*(before.etags if before is not None else ()), event.etag)[-_BACK_AT_MOST:]
    await state.put_note(_BACK, msgspec.json.encode(Back(etags, now_us, tuple(sorted(event.spellings)))))


async def back(state: Records) -> Back | None:
    """The last event of a canary. Raises RetryLater."""
    kept = await state.note(_BACK)
    return msgspec.json.decode(kept, type=Back) if kept else None


async def _sent(state: Records) -> Sent | None:
    kept = await state.note(_SENT)
    return msgspec.json.decode(kept, type=Sent) if kept else None


class Canary:
    """``ports.Source`` that writes it; of all processes of a pair, one does."""

    name = _TASK

    def __init__(self, store: ObjectStore, state: State, clock: Clock, *, owner: str, every_seconds: float) -> None:
        self._store = store
        self._state = state
        self._clock = clock
        self._owner = owner
        self._every_seconds = every_seconds
        self._tell = Tell(self.name)
        self._told_of_versions = False

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port."""
        return self._tell.as_dict()

    async def run(self) -> None:
        """As in the port."""
        failures = 0
        while True:
            pause = min(_CHECK_SECONDS, self._every_seconds)
            try:
                if await self._state.own(_TASK, owner=self._owner, ttl_seconds=_TTL_SECONDS):
                    await self.write_when_due()
                self._tell.up()
                failures = 0
            except FederationError as error:  # whatever it is, the pair's work goes on; status tells that the proof grows old
                self._tell.down(f"{CANARY_KEY} cannot be written: {error}")
                pause = min(_TTL_SECONDS, backoff_seconds(failures))
                failures += 1
            await self._clock.sleep(pause)

    async def write_when_due(self) -> None:
        """Write it, if it is time to and the pair is not halted. Raises what writing raises."""
        if await self._state.halts():
            return  # nothing is written to a side of a halted pair
        sent, now_us = await _sent(self._state), self._clock.now_us()
        if sent is None:
            await self._write(None, 0)
            return
        proved_us = _proved_us(sent, await back(self._state))
        every = self._every_seconds if proved_us == sent.sent_us else min(self._every_seconds, RETURN_SECONDS)
        if now_us - sent.sent_us >= every * 1_000_000 or now_us < sent.sent_us:
            await self._write(sent.etag, proved_us)

    async def _write(self, etag: str | None, proved_us: int) -> None:
        """One small object, conditional on the one before (rule 5), then the note."""
        now_us = self._clock.now_us()
        body = msgspec.json.encode({"written_us": now_us, "by": self._owner})
        try:
            written = await self._put(body, etag)
        except Reobserve:
            written = await self._put(body, await self._there())
        await self._state.put_note(_SENT, msgspec.json.encode(Sent(written, now_us, proved_us)))
        self._tell.counts["written"] += 1
        if self._store.capabilities.versioning and not self._told_of_versions:
            self._told_of_versions = True
            _log.warning("the bucket keeps versions: let a lifecycle rule end those of the canary", key=CANARY_KEY)

    async def _put(self, body: bytes, etag: str | None) -> str:
        result = await self._store.put(CANARY_KEY, body, Metadata("application/json"), stamp=None, expected_etag=etag)
        return result.etag

    async def _there(self) -> str | None:
        try:
            return (await self._store.head(CANARY_KEY)).version.etag
        except NotPresent:
            return None
