"""What the commands about the change feed do with a feed: read records for people, outside of any pair's progress."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from federation.errors import FederationError, Halt, UsageError
from federation.payloads.change_feed import Record, blob_of, names_pair, time_of
from federation.settings import PairSettings
from federation.sources.build import blob_scope
from federation.sources.change_feed_chunk import Damage, Piece, ReadLimits, Records
from federation.sources.change_feed_index import FeedBlobs
from federation.sources.change_feed_position import FeedPosition, load, start_at
from federation.sources.change_feed_reader import FeedReader, Folded, Lost
from federation.wiring import open_feed
from fedplane.output import complain, plain


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records: times in microseconds since 1970 UTC; *every*: of all containers and not of the pair's part alone."""

    from_us: int = 0
    to_us: int | None = None
    every: bool = False


@asynccontextmanager
async def feed_of(pair: PairSettings) -> AsyncIterator[FeedBlobs]:
    """The feed of the pair's account. Raises UsageError; Halt of a missing container says what to do."""
    credential = None
    if not pair.blob.connection_string_env:
        from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - slow to import, needed here only

        credential = DefaultAzureCredential()
    blobs = open_feed(pair, credential)
    try:
        yield blobs
    except Halt as error:
        if error.reason != "container_missing":
            raise
        raise Halt(
            f"The account of pair {pair.name!r} has no $blobchangefeed: turn the change feed on (it appears some minutes later).",
            reason="container_missing",
        ) from None
    finally:
        await blobs.close()
        if credential is not None:
            await credential.close()


class FeedWindow:
    """Reads in order of segments; ``position`` is behind the last record that was handed over."""

    def __init__(self, blobs: FeedBlobs, pair: PairSettings, wanted: Wanted, position: FeedPosition | None = None) -> None:
        self._blobs = blobs
        self._scope = blob_scope(pair)
        self._wanted = wanted
        self.position = position or start_at(wanted.from_us)

    async def records(self, limit: int | None) -> AsyncIterator[Record]:
        """Those that are there now, no more than *limit*; what cannot be read is said on standard error and passed."""
        # One lane keeps the order of segments; pieces of one record keep limit and position exact.
        limits = ReadLimits(lanes=1, piece_records=1 if limit is not None else 1_000)
        reader = FeedReader(self._blobs, self._chosen, limits)
        left = limit
        try:
            async with aclosing(reader.sweep(self.position, until_us=self._wanted.to_us)) as items:
                async for item in items:
                    for record in self._take(item):
                        yield record
                        left = left - 1 if left is not None else None
                    if left is not None and left <= 0:
                        return
        finally:
            reader.close()

    def _take(self, item: Any) -> Records:  # noqa: ANN401 - any of the reader's items
        match item:
            case Piece():
                self.position = self.position.read({item.chunk: item.position})
                chosen: Records = item.payload
                return chosen
            case Damage():
                self.position = self.position.read({item.chunk: item.position})
                text = f"{item.chunk} cannot be read from {item.offset} on and is passed over: {item.reason}"
                complain(FederationError(text, reason="damaged"), as_json=False)
            case Lost():
                self.position = self.position.without(item.chunks, unseen=item.unseen)
                complain(FederationError(f"records are missing: {item.reason}", reason="gap"), as_json=False)
            case Folded():
                self.position = self.position.folded(item.begin_us)
        return []

    def _chosen(self, records: Records) -> Records:
        return [record for record in records if self._is_wanted(record)]

    def _is_wanted(self, record: Record) -> bool:
        stamp = time_of(record)
        if stamp is not None and not (
            self._wanted.from_us <= stamp.at_us and (self._wanted.to_us is None or stamp.at_us < self._wanted.to_us)
        ):
            return False
        return self._wanted.every or names_pair(record, self._scope)


def line(record: Record, *, as_json: bool) -> str:
    """One record on one line: whole with *as_json*, else time, type, operation, name and ETag."""
    if as_json:
        return msgspec.json.encode(record, enc_hook=str).decode()
    data = record.get("data")
    data = data if isinstance(data, dict) else {}
    container, name = blob_of(record) or ("-", str(record.get("subject") or "-"))
    told = (record.get("eventTime"), record.get("eventType"), data.get("api"), f"{container}/{name}", data.get("etag"))
    return plain("  ".join(str(one or "-") for one in told))


def read_position(file: Path) -> FeedPosition | None:
    """The position kept in *file*; None when it is not there. Raises UsageError."""
    if not file.exists():
        return None
    try:
        return load(msgspec.json.decode(file.read_bytes(), type=dict[str, int]))
    except (OSError, ValueError, msgspec.MsgspecError):
        text = f"{file} holds no position of a change feed; name another file, or remove it to begin anew."
        raise UsageError(text, reason="bad_position") from None


def write_position(file: Path, position: FeedPosition) -> None:
    """Keep *position* for the next time. Raises UsageError."""
    try:
        file.write_bytes(msgspec.json.encode(position.dump()))
    except OSError as error:
        raise UsageError(f"Cannot write the position to {file}: {error.strerror}.", reason="bad_position") from None
