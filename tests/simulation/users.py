"""Users on both sides: what they do, at once and unconditionally, and what they remember of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from federation.model import PRESERVED_PREFIX, Metadata, Side
from federation.stores.memory import _Object
from tests.simulation.script import Act
from tests.simulation.sides import FILE_ETAG, Server
from tests.simulation.values import md5_of, rich_tags, with_header, with_tag, without_big

if TYPE_CHECKING:
    from tests.simulation.world import World

_GROW_STEPS = 3
_LARGE_BYTES = 150


class Users:
    """Carries out acts of users."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._file_serial = count(1)

    def do(self, act: Act) -> None:
        """One act."""
        server = self._world.servers[act.side]
        getattr(self, f"_{act.kind}")(act, server)

    # --------------------------------------------------------------------------------------------------------- remembering

    def supersede(self, side: Side, key: str, held: _Object | None, *, how: str) -> None:
        """A user replaces or removes what is there."""
        base = self._world.box.inner._base.get(key)
        self._world.oracle.superseding(side, key, held, how=how, base=base)

    def _write(self, act: Act, server: Server, key: str, data: bytes, metadata: Metadata) -> None:
        held = server.objects.get(key)
        if held is not None and (held.data, held.metadata) == (data, metadata) and held.etag == md5_of(data):
            server.put_now(key, bytes(bytearray(data)), metadata, held.etag)
            self._world.oracle.again(server.side, key, server.objects[key])
            return  # the same version once more: nothing of it can be told apart
        self.supersede(server.side, key, held, how="overwrite")
        server.put_now(key, bytes(bytearray(data)), metadata, md5_of(data))
        self._acknowledge(act, server, key)

    def _acknowledge(self, act: Act, server: Server, key: str) -> None:
        base = self._world.box.inner._base.get(key)
        self._world.oracle.acknowledged(server.side, key, server.objects[key], act.number, base)

    def _text(self, act: Act) -> bytes:
        return f"#{act.number} {act.side}".encode()

    # ----------------------------------------------------------------------------------------------------- S3 and Blob users

    def _put(self, act: Act, server: Server) -> None:
        tag = f"t{act.number}" if act.number % 3 == 0 else ""
        rich = rich_tags(act.number, server.side) if self._world.script.rich else with_tag(tag)
        self._write(act, server, act.key, self._text(act), rich)

    def _large(self, act: Act, server: Server) -> None:
        data = self._text(act).ljust(_LARGE_BYTES, b".")
        self.supersede(server.side, act.key, server.objects.get(act.key), how="overwrite")
        etag = md5_of(data) + "-2"
        server.put_now(act.key, data, with_tag(""), etag)
        self._acknowledge(act, server, act.key)

    def _upload(self, act: Act, server: Server) -> None:
        """An upload in parts that takes its time: nothing is there before it is completed, and some never are."""
        if act.number % 4:
            asyncio.get_running_loop().call_later(act.amount, self._large, act, server)

    def _empty(self, act: Act, server: Server) -> None:
        self._write(act, server, act.key, b"", with_tag(""))

    def _equal(self, act: Act, server: Server) -> None:
        """The bytes that the other side holds, written by a user who knows nothing of us."""
        there = self._world.servers[server.side.other].objects.get(act.key)
        if there is not None:
            metadata = there.metadata if server.side is Side.BLOB else without_big(there.metadata)
            self._write(act, server, act.key, there.data, metadata)

    def _again(self, act: Act, server: Server) -> None:
        """An old content comes back."""
        past = [one for one in self._world.oracle.writes if one.key == act.key]
        if past:
            data, user = past[act.number % len(past)].value
            self._write(act, server, act.key, data, with_header(user))

    def _delete(self, act: Act, server: Server) -> None:
        self.supersede(server.side, act.key, server.objects.get(act.key), how="delete")
        server.objects.pop(act.key, None)

    def _metadata(self, act: Act, server: Server) -> None:
        """Metadata only; a user who keeps what he does not know keeps our stamp."""
        held = server.objects.get(act.key)
        if held is None:
            return
        self.supersede(server.side, act.key, held, how="metadata")
        stamp = held.stamp if act.number % 2 else None
        server._store(act.key, held.data, with_tag(f"m{act.number}"), stamp, held.etag)
        self._acknowledge(act, server, act.key)

    def _copy(self, act: Act, server: Server) -> None:
        """A copy within the side takes all metadata along, our stamp too."""
        held = server.objects.get(act.key)
        if held is None or act.other == act.key:
            return
        self.supersede(server.side, act.other, server.objects.get(act.other), how="overwrite")
        data = bytes(bytearray(held.data))
        server.put_now(act.other, data, held.metadata, md5_of(data), held.stamp)
        self._acknowledge(act, server, act.other)

    def _rename(self, act: Act, server: Server) -> None:
        if act.key in server.objects and act.key != act.other:
            self._copy(act, server)
            self._delete(act, server)

    # ------------------------------------------------------------------------------------------------------------ NFS users

    def _file(self, act: Act, server: Server) -> None:
        self._write_file(act, server, self._text(act), acknowledged=True)

    def _write_file(self, act: Act, server: Server, data: bytes, *, acknowledged: bool) -> None:
        held = server.objects.get(act.key)
        with server.untold():
            self.supersede(server.side, act.key, held, how="file")
            if not acknowledged:
                self._world.oracle.partial.add((act.key, data))
            server.write_file(act.key, data)
        if acknowledged:
            self._acknowledge(act, server, act.key)

    def _file_grow(self, act: Act, server: Server) -> None:
        """A file that grows for seconds, without any sign of when it is done."""
        whole = self._text(act).ljust(90, b"+")
        loop = asyncio.get_running_loop()
        for step in range(1, _GROW_STEPS):
            part = whole[: 30 * step]
            loop.call_later(act.amount * (step - 1) / _GROW_STEPS, self._grow, act, server, part, False)
        loop.call_later(act.amount, self._grow, act, server, whole, True)

    def _grow(self, act: Act, server: Server, data: bytes, done: bool) -> None:
        self._write_file(act, server, data, acknowledged=done)

    def _file_delete(self, act: Act, server: Server) -> None:
        with server.untold():
            self._delete(act, server)

    def _file_rename(self, act: Act, server: Server) -> None:
        held = server.objects.get(act.key)
        if held is None or act.key == act.other or act.key.startswith(PRESERVED_PREFIX):
            return
        there = server.objects.get(act.other)
        if there is not None and there.etag == held.etag:
            return  # neither ETag nor a later time would tell that metadata changed: no listing sees it (docs/adr/0001)
        with server.untold():
            self.supersede(server.side, act.other, there, how="file")
            self.supersede(server.side, act.key, held, how="delete")
            server.objects.pop(act.key)
            server.place(act.other, held)
        self._acknowledge(act, server, act.other)

    def _file_touch(self, act: Act, server: Server) -> None:
        """Another time and ETag, the same bytes: nobody's write. ``amount``: how far ahead the time is, in seconds."""
        held = server.objects.get(act.key)
        if held is None:
            return
        with server.untold():
            etag = f"{FILE_ETAG}{0xF << 80 | next(self._file_serial):022x}"
            now = server._now()
            server.place(act.key, replace(held, etag=etag, modified=replace(now, at_us=now.at_us + int(act.amount * 1e6))))
        self._world.oracle.again(server.side, act.key, server.objects[act.key])
