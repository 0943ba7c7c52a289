"""The worker of one process for one pair: takes shards by lease, claims due keys, works on many at once, records the outcome.

Per key only the lease holder works, and a key is never handed out twice at a time; storage writes are conditional anyway, so
a stale worker can do no harm (design 4).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from federation.backoff import backoff_seconds
from federation.errors import FederationError, LeaseLost, RetryLater
from federation.model import Change, Side, Source
from federation.progress import SCAN_BEHIND_US, Claim, HaltRecord, Held, Lease
from federation.rules.decision import Action
from federation.sync.apply import DeleteHeld
from federation.sync.blame import Blame
from federation.sync.budget import flow
from federation.sync.bulk import Slot, give_way
from federation.sync.context import PairContext
from federation.sync.journal import sweep
from federation.sync.leases import Leases
from federation.sync.outcome import Deferred, Ending, ToHalt, ToHold, ToPark, ending
from federation.sync.paced_store import Tally, fence, tally
from federation.sync.pacing import Gate
from federation.sync.ready import Portion, ReadyShards
from federation.sync.stats import DecisionLine, WorkerStats
from federation.sync.stopping import end, together
from federation.sync.sync_key import NotQuiet, Synced, only_echoes, sync_key
from federation.telemetry import DECISION_LOGGER, logger

_T = TypeVar("_T")
_log = logger("fedplane.worker")
_SWEEP_SECONDS = 600.0
"""How often what is left of large transfers is looked for."""
_APPLIED = frozenset({Action.COPY, Action.METADATA, Action.DELETE})
_IDLE_POLL_SECONDS = _HALT_POLL_SECONDS = 1.0
_RECLAIM_SECONDS = 60.0
"""How often a shard is asked for keys whose end a failover of the state forgot."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """See ``settings.WorkerSettings``."""

    concurrency: int
    lease_seconds: float
    drain_seconds: float
    max_attempts: int


class Worker:
    """Runs until cancelled; then drains within ``drain_seconds`` and gives its leases back."""

    def __init__(self, ctx: PairContext, gates: dict[Side, Gate], limits: WorkerLimits, *, owner: str) -> None:
        self._ctx = ctx
        self._gates = gates
        self._limits = limits
        self._leases = Leases(
            ctx.state, owner=owner, ttl_seconds=limits.lease_seconds, clock=ctx.clock, on_new=self.wake, busy=self._busy
        )
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._ready = ReadyShards()
        self._rung = asyncio.Event()
        self._work: dict[asyncio.Task[None], str] = {}
        self._claiming: dict[int, bool] = {}
        self._portion = Portion()
        self._blame = Blame(ctx.stores, ctx.clock)
        self._reclaimed: dict[Lease, float] = {}
        self._halts: tuple[float, list[HaltRecord]] = (float("-inf"), [])
        self._log = logger(DECISION_LOGGER).bind(pair=ctx.name)
        self.stats = WorkerStats()

    @property
    def in_flight(self) -> int:
        """Keys at work now."""
        return len(self._work)

    @property
    def shards_held(self) -> int:
        """Shards this worker holds."""
        return len(self._leases.held)

    def wake(self, shard: int, *, announced: bool = False) -> None:
        """Something may be due in *shard*."""
        self._ready.add(shard, announced=announced)
        self._rung.set()

    def wake_changes(self, changes: Sequence[Change]) -> None:
        """These were just marked. What was announced goes before what a scan found; shards of others are theirs to look at."""
        for change in changes:
            shard = self._ctx.state.shard_of(change.key)
            if shard in self._leases.held:
                self.wake(shard, announced=change.source is not Source.RECONCILER)

    async def run(self) -> None:
        """Work until cancelled."""
        keeping = asyncio.create_task(self._leases.keep())
        parts = [asyncio.create_task(part) for part in (self._poll(), self._claim_for_ever(), self._sweep_for_ever())]
        try:
            done, _ = await asyncio.wait([keeping, *parts], return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            await end(parts)
            with contextlib.suppress(RetryLater):
                await self._leases.leave()
            await self._finish_work()
            await end([keeping])
            with contextlib.suppress(RetryLater):  # Redis away: the leases expire by themselves
                await self._leases.release_all()

    async def _finish_work(self) -> None:
        if self._work:
            _, late = await asyncio.wait(list(self._work), timeout=self._limits.drain_seconds)
            await end(late)

    async def _poll(self) -> None:
        """Look at every held shard now and then: other processes mark too, and deferred keys come due."""
        while True:
            for shard in list(self._leases.held):
                if shard in self._ready:  # still: there is a backlog, and what another process was told of shall not wait for it
                    self.wake(shard, announced=True)
                self.wake(shard)
            await self._ctx.clock.sleep(_IDLE_POLL_SECONDS)

    async def _sweep_for_ever(self) -> None:
        """Clear away what is left of large transfers that nobody goes on with."""
        ctx = self._ctx
        while True:
            await ctx.clock.sleep(_SWEEP_SECONDS)
            for lease in list(self._leases.held.values()):
                try:
                    at_work = list(self._work.values())
                    swept = await sweep(ctx.state, ctx.stores, lease, at_work=at_work, now_us=ctx.clock.now_us())
                except LeaseLost:
                    self._leases.lost(lease)
                except RetryLater as error:
                    _log.warning("the sweep of large transfers waits", shard=lease.shard, error=str(error))
                else:
                    if swept:
                        _log.info("large transfers that nobody went on with were cleared away", shard=lease.shard, count=swept)

    async def _claim_for_ever(self) -> None:
        while True:
            await self._rung.wait()
            if await self._must_rest():
                continue
            self._claiming = self._ready.take()
            if not self._claiming:
                self._rung.clear()
                continue
            mine = self._leases.held.keys() - self._leases.yielding.keys()
            fresh_of = {self._leases.held[shard]: fresh for shard, fresh in self._claiming.items() if shard in mine}
            try:
                await together(self._claim_from(lease, fresh=fresh) for lease, fresh in fresh_of.items())
            finally:
                self._claiming = {}

    def _busy(self, shard: int) -> bool:
        return shard in self._claiming or any(self._ctx.state.shard_of(key) == shard for key in self._work.values())

    async def _must_rest(self) -> bool:
        """Whether to leave the dirty set alone for a moment: a side asked for rest, or the pair is halted."""
        pause = max(gate.closed_for_seconds() for gate in self._gates.values())
        if pause <= 0 and not await self._halted():
            return False
        await self._ctx.clock.sleep(min(max(pause, 0.05), _HALT_POLL_SECONDS) if pause > 0 else _HALT_POLL_SECONDS)
        return True

    async def _halted(self) -> bool:
        checked, halts = self._halts
        now = self._ctx.clock.monotonic_seconds()
        if now - checked < _HALT_POLL_SECONDS:
            return bool(halts)
        try:
            halts = await self._ctx.state.halts()
            if any(record.self_lifting for record in halts) and await self._sides_answer():
                for record in [record for record in halts if record.self_lifting]:
                    await self._ctx.state.lift(record.name)
                halts = [record for record in halts if not record.self_lifting]
        except RetryLater:
            return True  # not known: nothing may be written (rule 9)
        self._halts = (now, halts)
        return bool(halts)

    async def _sides_answer(self) -> bool:
        try:
            for store in self._ctx.stores.values():
                await store.check()
        except FederationError:
            return False
        return True

    async def _claim_from(self, lease: Lease, *, fresh: bool = False) -> None:
        """*fresh*: only what was announced not long ago."""
        await self._slots.acquire()  # one free place is enough for a portion
        self._slots.release()
        limit, newest = self._portion.keys, self._portion.newest
        now_us = self._ctx.clock.now_us()
        try:
            await self._reclaim(lease)
            from_us = now_us - SCAN_BEHIND_US if fresh else 0
            claims = await self._ctx.state.claim(lease, limit=limit, now_us=now_us, newest=newest, from_us=from_us)
        except LeaseLost:
            self._leases.lost(lease)
            return
        except RetryLater as error:
            # Keys may have been handed out in an answer that was lost: they are looked for before the next claim. The
            # shard is not given back for that, since others of its keys are at work.
            self._reclaimed[lease] = float("-inf")
            await self._ctx.clock.sleep(error.after_seconds or 0.2)
            self.wake(lease.shard, announced=fresh)
            return
        if len(claims) == limit:
            self.wake(lease.shard, announced=fresh)
        begun = self._ctx.clock.monotonic_seconds()
        for claim in reversed(claims):  # the newest first
            await self._slots.acquire()
            slot = Slot(self._slots)
            task = asyncio.create_task(self._work_on(lease, claim, slot))
            self._work[task] = claim.hint.key
            task.add_done_callback(partial(self._worked, slot))
        self._portion.placed(len(claims), self._ctx.clock.monotonic_seconds() - begun)

    async def _reclaim(self, lease: Lease) -> None:
        """Now and then, between two claims of its shard: no key can be on its way to us then."""
        now = self._ctx.clock.monotonic_seconds()
        if now - self._reclaimed.setdefault(lease, now) < _RECLAIM_SECONDS:
            return
        lost = await self._ctx.state.reclaim(lease, at_work=list(self._work.values()), now_us=self._ctx.clock.now_us())
        self._reclaimed = {held: self._reclaimed.get(held, now) for held in self._leases.held.values()} | {lease: now}
        if lost:
            _log.warning("claims forgotten by the state taken up again", shard=lease.shard, keys=lost)

    def _worked(self, slot: Slot, task: asyncio.Task[None]) -> None:
        del self._work[task]
        slot.end()

    # --------------------------------------------------------------------------------------------------------- one key

    async def _work_on(self, lease: Lease, claim: Claim, slot: Slot) -> None:
        cost = Tally()
        tally.set(cost)
        trace = self._ctx.traces.begin(claim.hint.key)
        flow.set(self._ctx.name)
        give_way.set(slot.give_way)
        fence.set(partial(self._leases.require, lease))
        started = self._ctx.clock.monotonic_seconds()
        synced: Synced | None = None
        error: Exception | None = None
        try:
            async with self._leases.while_held(lease):
                self._require_alone(claim.hint.key)
                synced = await sync_key(self._ctx, lease, claim)
        except Exception as caught:  # noqa: BLE001 - every error has an ending; see outcome.ending
            error = caught
        try:
            outcome = await self._record(lease, claim, synced, error)
        except LeaseLost:
            self._leases.lost(lease)
            outcome = "lease_lost"
        except Exception as caught:  # noqa: BLE001 - a record that cannot be written is a bug; the key must not vanish with it
            error = caught
            outcome = await self._park_bug(lease, claim, caught)
        if outcome != "deferred":
            self._blame.acquit(claim.hint.key)
        self._report(claim, synced, error, _Spent(outcome, cost, trace.trace_id, self._ctx.clock.monotonic_seconds() - started))

    def _require_alone(self, key: str) -> None:
        if list(self._work.values()).count(key) > 1:  # handed out anew by a state that went back
            raise RetryLater("the key is at work here already", reason="at_work", after_seconds=1.0)

    async def _record(self, lease: Lease, claim: Claim, synced: Synced | None, error: Exception | None) -> str:
        key, generation, state = claim.hint.key, claim.hint.generation, self._ctx.state
        if isinstance(error, LeaseLost):
            raise error
        if error is None and synced is not None:
            base = synced.base
            if not await self._persist(lambda: state.settle(lease, key, generation, base)):
                self.wake(lease.shard, announced=True)
                return "settled_dirty_again"
            return "settled"
        now = self._ctx.clock.now_us()
        failure = error if error is not None else AssertionError("no outcome")
        alone = await self._blame.lies_with(key, failure)
        most = self._limits.max_attempts
        what = ending(failure, attempts=claim.hint.attempts, max_attempts=most, now_us=now, alone=alone)
        return await self._end(lease, claim, what, now)

    async def _park_bug(self, lease: Lease, claim: Claim, error: Exception) -> str:
        try:
            await self._end(lease, claim, ToPark("internal_error", repr(error)), self._ctx.clock.now_us())
        except LeaseLost:
            self._leases.lost(lease)
        return "parked"

    async def _end(self, lease: Lease, claim: Claim, what: Ending, now: int) -> str:
        key, generation, state = claim.hint.key, claim.hint.generation, self._ctx.state
        match what:
            case Deferred():
                await self._defer(lease, claim, what)
                return "deferred"
            case ToPark():
                await self._persist(
                    lambda: state.park(lease, key, generation, reason=what.reason, detail=what.detail, now_us=now)
                )
                return "parked"
            case ToHold():
                since_us = claim.held.since_us if claim.held is not None else now
                held = Held(key, what.delete_on, "delete_budget", since_us, deleted=what.deleted)
                await self._persist(lambda: state.hold(lease, key, generation, held))
                return "held"
            case ToHalt():
                record = HaltRecord(name=what.name, detail=what.detail, since_us=now, self_lifting=what.self_lifting)
                await self._persist(lambda: state.halt(record))
                self._halts = (float("-inf"), [])
                await self._defer(lease, claim, what.deferred)
                return "halted"

    async def _defer(self, lease: Lease, claim: Claim, what: Deferred) -> None:
        await self._persist(
            lambda: self._ctx.state.defer(
                lease,
                claim.hint.key,
                claim.hint.generation,
                not_before_us=what.at_us,
                error=what.error,
                count_attempt=what.count_attempt,
            )
        )
        wait = max(0.0, (what.at_us - self._ctx.clock.now_us()) / 1_000_000)
        announced = any(source is not Source.RECONCILER for source in claim.hint.sources)
        asyncio.get_running_loop().call_later(wait, partial(self.wake, lease.shard, announced=announced))

    async def _persist(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a state step while Redis is away: what was done to storage must not be forgotten by the one who knows it.

        Ends with LeaseLost when somebody else took over, who will find the same by looking.
        """
        attempts = 0
        while True:
            try:
                return await step()
            except RetryLater as error:
                await self._ctx.clock.sleep(min(5.0, error.after_seconds or backoff_seconds(attempts, first_seconds=0.1)))
                attempts += 1

    def _report(self, claim: Claim, synced: Synced | None, error: Exception | None, spent: _Spent) -> None:
        decision = synced.decision if synced is not None else None
        if decision is not None and only_echoes(claim.hint, claim.base):
            self.stats.echoes += 1
            self.stats.echo_requests += spent.cost.requests
        now = self._ctx.clock.now_us()
        delay = _apply_delay_seconds(claim, decision.source if decision else None, now)
        line = DecisionLine(
            key=claim.hint.key,
            action=decision.action.value if decision else "none",
            reason=decision.reason.value if decision else (getattr(error, "reason", "") or type(error).__name__),
            source=(decision.source or "") if decision else "",
            outcome=spent.outcome,
            requests=spent.cost.requests,
            read_bytes=spent.cost.read_bytes,
            written_bytes=spent.cost.written_bytes,
            seconds=round(spent.seconds, 6),
            apply_delay_seconds=delay
            if decision and decision.action in _APPLIED and spent.outcome.startswith("settled")
            else None,
            attempt=claim.hint.attempts,
            heard_from=",".join(claim.hint.sources),
            at_us=now,
            error=str(error) if error is not None else "",
            requests_by_side=dict(spent.cost.requests_by_side),
            trace_id=spent.trace_id,
        )
        self.stats.add(line)
        bug = error is not None and not isinstance(error, FederationError | NotQuiet | DeleteHeld)
        self._log.log(logging.ERROR if bug else logging.INFO, "decision", **line.fields(), exc_info=error if bug else None)


@dataclass(frozen=True, slots=True)
class _Spent:
    outcome: str
    cost: Tally
    trace_id: str
    seconds: float


def _apply_delay_seconds(claim: Claim, source: Side | None, now_us: int) -> float | None:
    sides = [source] if source is not None else list(Side)
    times = [entry.at.at_us for side in sides for entry in claim.hint.entries(side) if entry.at is not None]
    return round((now_us - min(times)) / 1_000_000, 6) if times else None
