"""What both stores share: names, one request and its refusal, the race guard, and finding out what the server honours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus

import aiohttp

from federation import keys
from federation.capabilities import Capabilities
from federation.clock import SystemClock
from federation.errors import FederationError, Halt, NotPresent, Park, Reobserve, RetryLater
from federation.keys import NamePolicy
from federation.model import ClockSkew, ListEntry, Present, Side, Tags
from federation.ports import Clock
from federation.stores import faults, wire
from federation.stores.lane import Answer, HttpLane, HttpReader, wall_us
from federation.stores.listing import OrderedListing
from federation.stores.pages import Page
from federation.stores.probe import Probe
from federation.stores.rights import WriteRights

_READS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Request:
    """One request before it is authorised. ``operation`` is for error texts."""

    method: str
    operation: str
    name: str = ""
    """The side's name of the object; empty: the container or bucket itself."""
    query: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    body: bytes | None = None
    key: str = ""


class HttpStore(ABC):
    """Base of the two real stores; a subclass knows its service's requests and how to authorise them."""

    def __init__(
        self,
        side: Side,
        policy: NamePolicy,
        prefix: str,
        *,
        ca_file: str = "",
        map_tags: bool = False,
        now_us: Callable[[], int] = wall_us,
    ) -> None:
        self.side = side
        self.capabilities = Capabilities()
        self.race_windows = 0
        self.sealed = True
        self._map_tags = map_tags
        self._policy = policy
        self._prefix = prefix
        self._place = ""
        """URL of the container or bucket, for error texts."""
        self._lane = HttpLane(side, ca_file=ca_file, now_us=now_us)
        self._listing = OrderedListing(side, policy, prefix, self._pages)
        self._rights = WriteRights(self)
        self.clock: Clock = SystemClock()
        """For pauses between repeats; tests replace it."""

    checked_bytes = 0
    version_parameter: str
    """Name of the query parameter that names a version."""

    # ------------------------------------------------------------------------------------------------ what services differ in

    @abstractmethod
    async def _authorised(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """The whole URL and all headers of *request*."""

    @abstractmethod
    def _pages(self, prefix: str, start_after: str) -> AsyncIterator[Page]:
        """All list pages of names with *prefix*, in the service's order."""

    @abstractmethod
    async def put_probe(self, key: str, headers: Mapping[str, str]) -> Answer:
        """Write one byte under *key* with the given condition."""

    @abstractmethod
    async def probe_more(self, key: str, found: Capabilities) -> Capabilities:
        """What only this service has to be asked; an object is under *key*."""

    @abstractmethod
    async def list_page(self, prefix: str, count: int) -> bytes:
        """One raw list page of names with the pair's prefix and *prefix*, asked for with *count* entries."""

    @staticmethod
    @abstractmethod
    def parse_page(body: bytes) -> Page:
        """Read a raw list page."""

    @abstractmethod
    async def read_tags(self, key: str, version_id: str = "") -> Tags:
        """The tags of the object, or of an old version of it, sorted. Raises NotPresent."""

    @abstractmethod
    async def write_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Replace all tags of the object; neither service takes an ETag as a condition on that. Raises NotPresent."""

    # ---------------------------------------------------------------------------------------------------------- shared port

    async def check(self) -> None:
        """As in the port; of the pair's prefix, below which alone our identity may be allowed to list."""
        await self.list_page("", 1)

    async def head(self, key: str) -> Present:
        """As in the port."""
        request = Request("HEAD", "HEAD", self._name(key), key=key)
        try:
            answer = await self.call(request)
        except Reobserve:
            try:
                answer = await self.call(request)
            except Reobserve:
                text = "the side goes on refusing a HEAD, and does not refuse a GET"
                raise RetryLater(text, reason="bad_answer", key=key, side=self.side) from None
        return await self.tagged(self._present(answer.headers, key), answer.headers, key)

    async def open(self, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None) -> HttpReader:
        """As in the port; *length* is at least 1."""
        headers = self._ranged(start, length)
        if if_match is not None:
            headers |= wire.condition(if_match)
        request = Request("GET", "GET", self._name(key), headers=headers, key=key)
        response = await self._start(request)
        try:
            self._require_range(response, start, length, key)
            present = await self.tagged(self._present(response.headers, key), response.headers, key)
            # Also where the condition went along: a server may not know it on reads, and a mix of versions would be committed.
            if if_match is not None and present.version.etag != if_match:
                raise Reobserve("the object is another version", reason="precondition", key=key, side=self.side)
            return self._reader(response, present)
        except FederationError:
            response.close()
            raise

    async def open_version(self, key: str, version_id: str, *, start: int = 0, length: int | None = None) -> HttpReader:
        """As in the port."""
        query, headers = {self.version_parameter: version_id}, self._ranged(start, length)
        request = Request("GET", "GET of a version", self._name(key), query, headers, key=key)
        try:
            response = await self._start(request)
        except Reobserve:
            raise NotPresent("this version is no longer kept", reason="not_present", key=key, side=self.side) from None
        try:
            self._require_range(response, start, length, key)
            present = self._present(response.headers, key)
            if present.version.version_id not in (None, version_id):  # a server that keeps none gave the current one
                raise NotPresent("the server gave another version", reason="not_present", key=key, side=self.side)
            return self._reader(response, await self.tagged(present, response.headers, key, version_id))
        except FederationError:
            response.close()
            raise

    async def delete(self, key: str, *, expected_etag: str) -> None:
        """As in the port."""
        conditions = await self.conditions(key, expected_etag, honoured=self.capabilities.conditional_delete, gone_is_fine=True)
        if conditions is None:
            return
        try:
            await self.call(Request("DELETE", "DELETE", self._name(key), headers=conditions, key=key))
        except NotPresent:
            return
        except Reobserve:
            # Some servers answer 412 when there is nothing to match.
            try:
                await self.head(key)
            except NotPresent:
                return
            raise

    async def list(self, *, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        """As in the port. Names that no key can have are left out and told (``federation.nameless``)."""
        async for entry in self._listing.entries(prefix, start_after):
            yield entry

    async def holds_any(self) -> bool:
        """As in the port."""
        return await self._listing.any()

    @property
    def ordered(self) -> bool:
        """As in the port."""
        return self._listing.in_order

    @ordered.setter
    def ordered(self, known: bool) -> None:
        self._listing.in_order = known

    async def clock_skew(self) -> ClockSkew:
        """As in the port."""
        return self._lane.skew.measured

    async def close(self) -> None:
        """As in the port."""
        await self._lane.close()

    async def probe(self) -> Capabilities:
        """As in the port."""
        self.capabilities = await Probe(self).run()
        return self.capabilities

    # ------------------------------------------------------------------------------------------------------ for the probe

    async def delete_probe(self, key: str, headers: Mapping[str, str], query: Mapping[str, str] | None) -> Answer:
        """Delete, conditionally or by version. Raises NotPresent, Reobserve."""
        return await self.call(Request("DELETE", "DELETE", self._name(key), query, headers, key=key))

    # -------------------------------------------------------------------------------------------------------------- inside

    def _name(self, key: str) -> str:
        return keys.encode(key, self._policy, prefix=self._prefix)

    def written_name(self, key: str) -> str:
        """The name of *key*, which is about to be written. Raises Park (unrepresentable)."""
        name = self._name(key)
        if name != self._prefix + key and not keys.excluded(key):
            self._listing.disturb()
        return name

    def of_version(self, version_id: str) -> dict[str, str]:
        """The query that names a version; none for the current one."""
        return {self.version_parameter: version_id} if version_id else {}

    async def tagged(self, present: Present, headers: Mapping[str, str], key: str, version_id: str = "") -> Present:
        """*present* with its tags, where they are mapped: one more request, unless *headers* say that it has none.

        They are read after the version: tags set in between belong to a later moment, and are seen again at the next look.
        """
        if not self._map_tags:
            return present
        tags = () if wire.no_tags(headers, self.side) else await self.read_tags(key, version_id)
        return replace(present, metadata=replace(present.metadata, tags=tags))

    async def set_tags(self, key: str, tags: Tags) -> None:
        """Replace the tags of the version that was just looked at. Raises NotPresent."""
        # RACE: neither service takes an ETag as a condition on this; another version may come in between.
        self.race_windows += 1
        await self.write_tags(key, dict(tags))

    def _present(self, headers: Mapping[str, str], key: str) -> Present:
        try:
            return wire.present(headers, self.side, hashes=self.capabilities.etag_is_md5)
        except (KeyError, ValueError):
            raise RetryLater("the answer does not describe an object", reason="bad_answer", key=key, side=self.side) from None

    def _ranged(self, start: int, length: int | None) -> dict[str, str]:
        """The headers that ask for a range, and for its checksum where the service has such."""
        return wire.byte_range(start, length)

    def _require_range(self, response: aiohttp.ClientResponse, start: int, length: int | None, key: str) -> None:
        if not wire.answers_range(response.status, response.headers, start, length):
            text = "the side answered with another range than was asked for"
            raise RetryLater(text, reason="bad_answer", key=key, side=self.side, answered=True)

    def _reader(self, response: aiohttp.ClientResponse, present: Present) -> HttpReader:
        md5 = wire.range_md5(response.status, response.headers) if self.checked_bytes else None
        return HttpReader(self._lane, response, present, content_md5=md5)

    async def _start(self, request: Request) -> aiohttp.ClientResponse:
        """Send; return when the answer is a success, its body unread. Raises what the refusal means."""
        url, headers = await self._authorised(request)
        response = await self._lane.start(request.method, url, headers, request.body)
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            if request.method not in _READS:
                self._rights.granted()
            return response
        body = await self._lane.read(response)
        refused = faults.refusal(response.status, response.headers, body)
        raise await self.refused(request, refused)

    async def refused(self, request: Request, refused: faults.Refusal) -> FederationError:
        """What a refusal of *request* means. Raises where another request, which has to tell, is refused too."""
        error = await self._fault(request, refused)
        if isinstance(error, Halt) and error.reason == "credentials_refused" and request.name:
            # Of one object only, if the container can be listed: nothing that the whole pair must stop for.
            await self.check()
            if request.method not in _READS:
                await self._rights.refused(request.key)
            return faults.of_one_object(error, refused, key=request.key)
        if isinstance(error, Halt):
            return Halt(f"{error} ({self.side} side, {self._place})", reason=error.reason, side=self.side)
        return error

    async def call(self, request: Request) -> Answer:
        """Send and read the whole answer. Raises what the refusal means."""
        response = await self._start(request)
        return Answer(response.status, response.headers, await self._lane.read(response))

    async def _fault(self, request: Request, refused: faults.Refusal) -> FederationError:
        if refused.status == HTTPStatus.NOT_FOUND and not faults.known(self.side, refused.code):
            if request.name and request.method == "HEAD":
                # It has no body that would say what is missing, or that the service said it and not something between (rule 3).
                await self._why(request)
                # Another's write came between the two, or what is between us and the service answers HEAD by itself.
                return Reobserve("the object came just now", reason="precondition", key=request.key, side=self.side)
            if request.name:
                # Not the service's own words: something between us and it answered.
                text = f"{request.operation}: 404 without a reason that the service would give"
                return RetryLater(text, reason="bad_answer", key=request.key, side=self.side)
            return Halt(f"the container of side {self.side} is not there", reason="container_missing", side=self.side)
        if request.method == "HEAD" and not refused.code and faults.unexplained(refused.status):
            await self._why(request)
            return RetryLater("a HEAD was refused, a GET was not", reason="bad_answer", key=request.key, side=self.side)
        return faults.fault(self.side, refused, operation=request.operation, key=request.key)

    async def _why(self, request: Request) -> None:
        """Raise what a HEAD was refused for: its answer has no body that would say so, the answer to a GET has."""
        headers = {**(request.headers or {}), **wire.byte_range(0, 1)}
        with suppress(Reobserve):  # an object without a byte
            (await self._start(replace(request, method="GET", operation="GET", headers=headers))).close()

    async def write(self, request: Request) -> Answer:
        """As ``call``; an object that is gone is a precondition that failed."""
        try:
            return await self.call(request)
        except NotPresent as error:
            raise Reobserve(str(error), reason="precondition", key=request.key, side=self.side) from None
        except Reobserve:
            await self.require_free(request)
            raise

    async def require_free(self, request: Request) -> None:
        """After a failed precondition: raise Park where it failed for a folder, which no look finds and which would stay."""
        if self.capabilities.nested_names or "If-None-Match" not in (request.headers or {}):
            return
        with suppress(NotPresent):
            await self.head(request.key)
            return
        await self._require_no_folder(request.key)

    async def _require_no_folder(self, key: str) -> None:
        """Raise Park where other names are below a new *key*, and the server cannot hold both.

        Servers over files refuse or fail then, again and again; one that takes no conditions loses sight of what is below.
        """
        below = f"{self._name(key)[len(self._prefix) :]}/"
        if not self.capabilities.nested_names and self.parse_page(await self.list_page(below, 1)).entries:
            text = "the name is a folder of other objects, and the server cannot hold both"
            raise Park(text, reason="name_clash", key=key, side=self.side)

    async def conditions(
        self, key: str, expected_etag: str | None, *, honoured: bool, gone_is_fine: bool = False
    ) -> dict[str, str] | None:
        """Headers that make a write conditional; where the server ignores them, look right now (rule 5).

        Returns None only with *gone_is_fine*, when there is nothing left to delete.
        """
        condition = wire.condition(expected_etag)
        if honoured and (expected_etag is None or not wire.needs_look(expected_etag)):
            return condition
        # RACE: another writer may come between this look and our write; the server offers no condition to close the window.
        self.race_windows += 1
        try:
            found: str | None = (await self.head(key)).version.etag
        except NotPresent:
            found = None
        if found is None and gone_is_fine:
            return None
        if found != expected_etag:
            raise Reobserve("the object is another version", reason="precondition", key=key, side=self.side)
        if found is None:
            await self._require_no_folder(key)
        return condition if honoured else {}
