"""Scripts and pipelines over one Redis or over a cluster, alike. What fails is told by ``faults``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from federation.state.faults import redis_faults
from federation.state.gathered import Gathered

Client = Redis | RedisCluster
AT_ONCE = 64
"""Round trips under way at a time, and so connections to a server."""


@dataclass(frozen=True, slots=True)
class Script:
    """One of ``scripts/*.lua`` and the name Redis has for it."""

    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """``scripts/<name>.lua``."""
    from hashlib import sha1  # noqa: PLC0415 - Redis names scripts so

    text = resources.files("federation.state").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


Call = tuple[list[str], list[Any]]
"""Keys and arguments of one run of a script. All keys are of one hash tag."""


class Calls:
    """What failed raises after everything else of the same round trip ran; so it may have run or not (``RetryLater``)."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._free = asyncio.Semaphore(AT_ONCE)
        # Not over a cluster: one of its nodes that is away would fail what the others are asked.
        self._gathered = None if isinstance(client, RedisCluster) else Gathered(self._send)

    async def run(self, name: str, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401 - Redis' own reply types
        """The reply of one script."""
        wanted = script(name)
        with redis_faults():
            reply = await self._reply("EVALSHA", wanted.sha, len(keys), *keys, *args)
            if isinstance(reply, NoScriptError):  # a server that was restarted, replaced or flushed; the text loads it again
                reply = await self._reply("EVAL", wanted.text, len(keys), *keys, *args)
            return _checked([reply])[0]

    async def run_all(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """The replies of one script run with each of *calls*, in one round trip a server."""
        wanted = script(name)
        with redis_faults():
            replies = await self._send([("EVALSHA", wanted.sha, len(keys), *keys, *args) for keys, args in calls])
            missing = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if missing:
                commands = [("EVAL", wanted.text, len(calls[at][0]), *calls[at][0], *calls[at][1]) for at in missing]
                for at, reply in zip(missing, await self._send(commands), strict=True):
                    replies[at] = reply
            return _checked(replies)

    async def pipe(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies of *commands*, in one round trip a server."""
        with redis_faults():
            return _checked(await self._send(commands))

    async def _reply(self, *words: Any) -> Any:  # noqa: ANN401
        """The reply of one command, also an error that the server answers with."""
        if self._gathered is not None:
            return await self._gathered.reply(words)
        async with self._free:
            try:
                return await self.client.execute_command(*words)
            except NoScriptError as error:
                return error

    async def _send(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        if not commands:
            return []
        async with self._free:
            try:
                async with self.client.pipeline(transaction=False) as pipe:
                    for command in commands:
                        # Not pipe.evalsha, which a cluster's pipeline refuses; the words themselves it routes by their keys.
                        pipe.execute_command(*command)
                    replies = list(await pipe.execute(raise_on_error=False))
            except (RedisConnectionError, RedisTimeoutError, ClusterDownError, OSError):
                await self._look_again()
                raise
        if isinstance(self.client, Redis) and any(map(_read_only, replies)):
            # After a failover behind one name or address, connections that stayed open lead to what is a replica now.
            await connect_anew(self.client.connection_pool)
        return replies

    async def _look_again(self) -> None:
        """A cluster's pipeline does not learn of a failover by itself: ask who serves what, before the next attempt."""
        if isinstance(self.client, RedisCluster):
            try:
                await self.client.nodes_manager.initialize()
            except Exception as error:  # noqa: BLE001 - the fault that led here is the one to tell
                del error


def _read_only(reply: object) -> bool:
    """From a script of Redis 6 the refusal comes inside the script's own error."""
    return isinstance(reply, ReadOnlyError) or (isinstance(reply, Exception) and "READONLY" in str(reply))


async def connect_anew(pool: ConnectionPool) -> None:
    """Have every connection of *pool* made anew: at once, or when whoever uses it gives it back."""
    idle, pool._available_connections[:] = list(pool._available_connections), []  # noqa: SLF001 - out of reach before the first await
    for connection in pool._in_use_connections:  # noqa: SLF001
        connection.mark_for_reconnect()  # type: ignore[no-untyped-call]  # redis-py
    await asyncio.gather(*(connection.disconnect() for connection in idle))


def _checked(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
