"""Before a process works on a pair: do both sides answer, what do their servers honour, are they the ones of the records?"""

from __future__ import annotations

from federation.errors import Halt
from federation.progress import HaltRecord
from federation.rules.guards import SELF_LIFTING_HALTS
from federation.sync.identity import check_identity
from federation.wiring import PairRuntime
from operations import capabilities


async def prove(runtime: PairRuntime, *, probe_again: bool) -> None:
    """Raises RetryLater while a side does not answer, and Halt for what waiting cannot cure.

    The halt of a side that is not the container or bucket that the records are of is kept for status. Without *probe_again* what
    the servers were seen to honour within a day is believed.
    """
    for store in runtime.stores.values():
        await store.check()
    await capabilities.know(runtime, probe_again=probe_again)
    try:
        await check_identity(runtime.stores, runtime.state, runtime.settings.name)
    except Halt as error:
        lifts_itself = error.reason in SELF_LIFTING_HALTS
        now_us = runtime.context.clock.now_us()
        await runtime.state.halt(HaltRecord(error.reason, str(error), now_us, self_lifting=lifts_itself))
        raise
