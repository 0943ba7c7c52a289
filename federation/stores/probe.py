"""Find out by trying what a server does, with a few one-byte objects under ``.federation/probe/`` (rule 5)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from federation.backoff import backoff_seconds
from federation.capabilities import Capabilities
from federation.errors import NotPresent, Park, Reobserve, RetryLater
from federation.model import PRESERVED_PREFIX, SECOND_US, ETagKind, Present, Side
from federation.ports import Reader
from federation.stores import wire
from federation.stores.lane import Answer, unquote_etag

if TYPE_CHECKING:
    from federation.stores.base import HttpStore

PROBE_PREFIX = f"{PRESERVED_PREFIX}probe/"
WRONG_ETAG = "0" * 32
"""An ETag that no probe object has."""
_ORDERED = ("A", "Z", "_", "a", "\u00e9", "\uff21", "\U0001f600")
"""Ends of names in the order of their UTF-8 bytes: by UTF-16 the last two change places, by a dictionary the first four."""
PROBE_BODY = b"1"
"""Content of every probe object."""
_MD5 = hashlib.md5(PROBE_BODY, usedforsecurity=False).hexdigest()
_NESTED = ("n", "n/m")
_WRONG_MD5 = base64.b64encode(bytes(16)).decode()
_PAGE = re.compile(rb"<Max(?:Keys|Results)>(\d+)</Max(?:Keys|Results)>")
_FRACTION = re.compile(rb"<LastModified>[^<]*\.(\d*[1-9]\d*)Z?</LastModified>")
_ASKED_PAGE = 10_000
_MOST_WRITES = 10
_MILLISECOND_US = 1_000
_TRIES = 4
_LONGEST_PAUSE_SECONDS = 5.0
"""Who asks for more is left alone, and all is tried again later."""
_PASSES = frozenset({"unreachable", "cut_short", "throttled", "server_error"})
"""Not a timeout: who does not answer for a minute would hold up the start for many."""
_DAMAGED = frozenset({"checksum_mismatch"})
_FAILS_ON = frozenset({"server_error", "bad_answer"})
"""What a server over files may say, each time, of a name that it took."""
_T = TypeVar("_T")


class Probe:
    """One probing of one store."""

    def __init__(self, store: HttpStore) -> None:
        self._store = store
        self._key = f"{PROBE_PREFIX}{uuid4().hex}"
        self._versions: list[tuple[str, str]] = []
        """Key and id of every version left behind where versions are kept."""

    async def run(self) -> Capabilities:
        """What was seen. Everything written is removed again, old versions too. Raises as the store's writes."""
        store, found = self._store, self._store.capabilities
        first = await self._put(self._key, {})
        try:
            # Known before parts are sent: they are judged by it.
            store.capabilities = found = replace(found, etag_is_md5=await self._hash_of_content(first))
            found = await self._conditional_put(found, first)
            found = await self._again(partial(store.probe_more, self._key, found), reasons=_PASSES | _DAMAGED, tries=2 * _TRIES)
            found = replace(found, leading_slash=await self._leading_slash(), case_sensitive=await self._case_sensitive())
            found = replace(found, marks=await self._marks())
            found = replace(found, checksums=await self._checksums(), tags=await self._tags())
            found = replace(found, conditional_delete=await self.refuses(self._delete(self._key, wire.condition(WRONG_ETAG))))
            await self._forget(self._key)
            found = await self._listing(replace(found, versioning=await self._versioning(first)))
            return replace(found, nested_names=await self._nested())
        finally:
            await self._clean()

    async def _hash_of_content(self, written: Answer) -> bool:
        etag = unquote_etag(written.headers.get("ETag", ""))
        if wire.s3_kind(etag, written.headers) is not ETagKind.MD5:
            return False
        if etag.lower() == _MD5:
            return True
        await self._require_undamaged(self._key)
        return False

    async def _require_undamaged(self, key: str) -> None:
        """Raise RetryLater where the content is another than was sent: that has another hash too, and proves nothing.

        What is concluded from a hash is believed for as long as capabilities are kept.
        """
        if (await self._again(lambda: self._read(self._store.open(key))))[1] == PROBE_BODY:
            return
        text = "the probe's object is not what was written; something between us and the side changes what is sent"
        raise RetryLater(text, reason="content_mismatch", key=key, side=self._store.side)

    async def _conditional_put(self, found: Capabilities, first: Answer) -> Capabilities:
        refused = [await self.refuses(self._put(self._key, wire.condition(etag))) for etag in (None, WRONG_ETAG)]
        right = [unquote_etag(first.headers.get("ETag", ""))]

        async def taken() -> bool:
            # A repeat after a lost answer has another ETag to name.
            etag = right.pop() if right else (await self._store.head(self._key)).version.etag
            return not await self.refuses(self._put(self._key, wire.condition(etag), tries=1))

        return replace(found, conditional_put=all(refused) and await self._again(taken, reasons=_PASSES | _DAMAGED))

    async def _versioning(self, first: Answer) -> bool:
        """Whether the first version can be read back after it was overwritten and deleted."""
        version_id = wire.version_id(first.headers, self._store.side)
        if version_id is None:
            return False
        try:
            present, data = await self._again(lambda: self._read(self._store.open_version(self._key, version_id)))
        except (NotPresent, Park):
            return False
        # One that does not know versions may give the current object, which stands here where nothing may be deleted.
        return data == PROBE_BODY and present.version.version_id == version_id

    async def _checksums(self) -> bool:
        """Whether damaged content is refused. Raises RetryLater: what is busy has not said no, and what is found is kept."""
        try:
            await self._put(self._key, {"Content-MD5": _WRONG_MD5})
        except RetryLater as error:
            if error.reason != "checksum_mismatch":
                raise
            return True
        except (Park, Reobserve):
            return True
        return False

    async def _tags(self) -> bool:
        try:
            untagged = await self._again(partial(self._store.read_tags, self._key))  # as most objects are
            await self._again(partial(self._store.write_tags, self._key, {"probe": "1"}))
            return (untagged, await self._again(partial(self._store.read_tags, self._key))) == ((), (("probe", "1"),))
        except (Park, NotPresent):
            return False
        except RetryLater as error:
            if error.reason != "bad_answer":  # a server that knows no tags may answer anything
                raise
            return False

    async def _listing(self, found: Capabilities) -> Capabilities:
        names = [f"{self._key}-{end}" for end in _ORDERED]
        for name in reversed(names):
            await self._put(name, {})
        body = await self._again(partial(self._store.list_page, f"{self._key}-", _ASKED_PAGE))
        entries = self._store.parse_page(body).entries
        seen = [entry.key for entry in entries]
        page = _PAGE.search(body)
        written = {self._store.written_name(name): name for name in names}
        unlike = [written[entry.key] for entry in entries if entry.key in written and entry.etag.lower() != _MD5]
        for name in unlike if found.etag_is_md5 else ():
            await self._require_undamaged(name)
        for name in names:
            await self._forget(name)
        return replace(
            found,
            etag_is_md5=found.etag_is_md5 and not unlike,
            list_in_order=seen == list(written),
            page_size=int(page[1]) if page else found.page_size,
            modified_precision_us=_MILLISECOND_US if _FRACTION.search(body) else SECOND_US,
        )

    async def _leading_slash(self) -> bool:
        """Some servers clean the path. Under a policy that never begins a name with a slash, or a prefix, the answer is yes."""
        try:
            return await self._current(f"/{self._key}") is None
        except (Park, Reobserve):
            return True

    async def _case_sensitive(self) -> bool:
        """Where objects are files of a file system for Windows, another spelling is the same one."""
        return await self._current(f"{PROBE_PREFIX}{self._key.removeprefix(PROBE_PREFIX).upper()}") is None

    async def _marks(self) -> bool:
        """A server over files may keep no more than the folder, and say that it keeps all."""
        if self._store.side is not Side.VAST:
            return True
        key = f"{self._key}.mark/"  # not in the list that is looked at for its order: a policy may keep it
        try:
            await self._put(key, {f"{wire.USER_PREFIX[Side.VAST]}probe": "1"})
        except (Park, Reobserve):
            return True
        except RetryLater as error:
            if error.reason != "server_error":
                raise
            return True
        try:
            found = await self._again(partial(self._store.head, key))
        except (NotPresent, Park, Reobserve):
            return False  # taken, and made a directory, or nothing
        except RetryLater as error:
            if error.reason not in _FAILS_ON:
                raise
            return False
        finally:
            await self._forget_failing(key)
        return (found.version.size_bytes, found.metadata.user) == (len(PROBE_BODY), (("probe", "1"),))

    async def _nested(self) -> bool:
        """A server may refuse the second name, fail on it, or take it and leave it out of lists. Raises RetryLater when busy."""
        names = [f"{self._key}-{end}" for end in _NESTED]
        written: list[str] = []  # one that failed on a name may fail on its removal too
        try:
            for name in names:
                await self._put(name, {})
                written.insert(0, name)
            seen = self._store.parse_page(await self._again(partial(self._store.list_page, names[0], _ASKED_PAGE))).entries
        except (Park, Reobserve):
            return False
        except RetryLater as error:
            if error.reason != "server_error":
                raise
            return False
        finally:
            for name in written:
                await self._forget(name)
        return [entry.key for entry in seen] == [self._store.written_name(name) for name in names]

    async def _again(self, step: Callable[[], Awaitable[_T]], *, reasons: frozenset[str] = _PASSES, tries: int = _TRIES) -> _T:
        """Repeat *step* after faults that pass: there are some fifty requests, and without this one fault fails them all.

        For steps that are answered alike when an answer was lost and they are repeated.
        """
        for attempt in range(tries - 1):
            try:
                return await step()
            except RetryLater as error:
                asked = error.after_seconds
                pause = asked if asked is not None else backoff_seconds(attempt, first_seconds=0.2)
                if error.reason not in reasons or pause > _LONGEST_PAUSE_SECONDS:
                    raise
                await self._store.clock.sleep(pause)
        return await step()

    @staticmethod
    async def _read(opening: Awaitable[Reader]) -> tuple[Present, bytes]:
        reader = await opening
        try:
            return reader.present, await reader.read()
        finally:
            await reader.close()

    async def _put(self, key: str, headers: dict[str, str], *, tries: int = _TRIES) -> Answer:
        reasons = _PASSES if "Content-MD5" in headers else _PASSES | _DAMAGED
        answer = await self._again(partial(self._store.put_probe, key, headers), reasons=reasons, tries=tries)
        version_id = wire.version_id(answer.headers, self._store.side)
        if version_id is not None:
            self._versions.append((key, version_id))
        return answer

    async def _delete(self, key: str, headers: dict[str, str], query: dict[str, str] | None = None) -> None:
        answer = await self._again(partial(self._store.delete_probe, key, headers, query))
        version_id = wire.version_id(answer.headers, self._store.side)
        if version_id is not None and not query:
            self._versions.append((key, version_id))

    async def _clean(self) -> None:
        """Remove what is left, the old versions and delete markers by id."""
        for key in (self._key, *(f"{self._key}-{end}" for end in _ORDERED)):
            if await self._current(key) is not None:
                await self._forget(key)
        while self._versions:
            await self._forget(*self._versions.pop())
        # What a server that ignores conditions wrote, and told no id of, is current now.
        for _ in range(_MOST_WRITES):
            version_id = await self._current(self._key)
            if version_id is None:
                return
            await self._forget(self._key, version_id)

    async def _current(self, key: str) -> str | None:
        """Version id of what is there, empty where it has none; None when nothing is."""
        try:
            return (await self._again(partial(self._store.head, key))).version.version_id or ""
        except NotPresent:
            return None

    async def _forget(self, key: str, version_id: str = "") -> None:
        """Delete, unless it is gone already, or a policy (WORM, retention) keeps it: then one byte stays that nothing lists."""
        try:
            await self._delete(key, {}, {self._store.version_parameter: version_id} if version_id else None)
        except (NotPresent, Reobserve, Park):
            return

    async def _forget_failing(self, key: str) -> None:
        """As ``_forget``, of a name that a server may take and then fail on: that ends no probe."""
        try:
            await self._forget(key)
        except RetryLater as error:
            if error.reason not in _FAILS_ON:
                raise

    @staticmethod
    async def refuses(call: Awaitable[object]) -> bool:
        """Whether a precondition made *call* fail; one that cannot, or will not, do it does not count as refusing."""
        try:
            await call
        except Reobserve as error:
            return error.reason == "precondition"
        except (Park, NotPresent):
            pass
        return False
