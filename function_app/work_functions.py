"""Functions that work without having heard of a change: doorbells, scans, and the sweep that forgets nothing."""

from __future__ import annotations

import azure.functions as func

from federation.settings import Settings

SWEEP = "0 * * * * *"
SCANS = "20 * * * * *"


def blueprint(settings: Settings) -> func.Blueprint:
    """All of them: every app has them."""
    made = func.Blueprint()  # type: ignore[no-untyped-call]
    functions = settings.functions
    connection = functions.queue_connection
    made.function_name("doorbell")(made.queue_trigger("message", functions.doorbell_queue, connection)(doorbell))
    made.function_name("sweep")(made.timer_trigger("timer", SWEEP)(sweep))
    made.function_name("reconcile_start")(made.timer_trigger("timer", SCANS)(reconcile_start))
    made.function_name("reconcile_range")(made.queue_trigger("message", functions.reconcile_queue, connection)(reconcile_range))
    return made


async def doorbell(message: func.QueueMessage) -> None:
    """Work on one shard. A call that cannot be read is of another version of the app: the sweep calls for what is due."""
    from function_app.calls import answer  # noqa: PLC0415 - imported in the first invocation (triggers.py)
    from function_app.process import PROCESS  # noqa: PLC0415

    async with PROCESS.work(PROCESS.config.functions.doorbell_seconds) as during:
        await answer(PROCESS, message.get_body(), during)


async def sweep(timer: func.TimerRequest) -> None:
    """Each minute: call for what is due, take back what the host gave up on, publish the lag."""
    from function_app.process import PROCESS  # noqa: PLC0415 - as above
    from function_app.sweeping import sweep as sweep_all  # noqa: PLC0415

    del timer
    async with PROCESS.work(PROCESS.config.functions.drain_seconds, publishes=False):
        await sweep_all(PROCESS)


async def reconcile_start(timer: func.TimerRequest) -> None:
    """Each minute: have scanned what is due, by as many invocations as may help."""
    from function_app.calls import call_for_scans  # noqa: PLC0415 - as above
    from function_app.process import PROCESS  # noqa: PLC0415

    del timer
    async with PROCESS.work(PROCESS.config.functions.drain_seconds):
        await call_for_scans(PROCESS)


async def reconcile_range(message: func.QueueMessage) -> None:
    """Take part in a scan."""
    from function_app.calls import take_part  # noqa: PLC0415 - as above
    from function_app.process import PROCESS  # noqa: PLC0415

    async with PROCESS.work(PROCESS.config.functions.scan_seconds):
        await take_part(PROCESS, message.get_body())
