"""What an Event Grid event may name, and how what it names becomes a key or a beginning of keys (facts/azure.md 1.2). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from federation import keys
from federation.errors import Park
from federation.payloads import Malformed

_CONTAINERS, _BLOBS = "/containers/", "/blobs/"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_DOUBTFUL = re.compile(f"[%?#{_REPLACEMENT}]")
"""No page says whether an event's URL is percent-encoded: from the first of these on, it may be read in two ways."""


class Elsewhere(Exception):
    """What is named is not this pair's; the text is the reason to count it under."""


@dataclass(frozen=True, slots=True)
class Named:
    """A blob or directory of our container by its whole name; not ``exact``: only the name's beginning is known."""

    name: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class BlobScope:
    """What an event may name. ``account_id``: ARM id, compared without case; empty: not checked."""

    account_id: str
    container: str
    prefix: str
    decode: Callable[[str], str]
    """Side name (without the prefix) to key."""

    @property
    def account_name(self) -> str:
        """The storage account's name; empty when it is not set."""
        return self.account_id.rstrip("/").rpartition("/")[2]

    def require_account(self, topic: object) -> None:
        """Raises Elsewhere when *topic* (or ``source``) is not the pair's account."""
        if self.account_id and str(topic).rstrip("/").lower() != self.account_id.rstrip("/").lower():
            raise Elsewhere("foreign_account")

    def subject(self, subject: str) -> Named:
        """What a subject names. A name may itself hold ``/containers/`` or ``/blobs/``.

        Raises:
            Malformed: it names no blob.
            Elsewhere: another container's.
        """
        _, found, rest = subject.partition(_CONTAINERS)
        container, found_blob, name = rest.partition(_BLOBS)
        if not found or not found_blob or not name:
            raise Malformed("a storage event's subject names no blob")
        if container != self.container:
            raise Elsewhere("foreign_container")
        # Names outside the BMP may arrive mangled.
        readable, mangled, _ = name.partition(_REPLACEMENT)
        return Named(readable, exact=not mangled)

    def url(self, url: str) -> Named:
        """What ``sourceUrl`` or ``destinationUrl`` of a rename names. Raises Elsewhere for another account's or container's."""
        host, _, path = url.partition("://")[2].partition("/")
        container, _, name = path.partition("/")
        if self.account_name and host.partition(".")[0].lower() != self.account_name.lower():
            raise Elsewhere("foreign_account")
        if container != self.container:
            raise Elsewhere("foreign_container")
        doubtful = _DOUBTFUL.search(name)
        return Named(name[: doubtful.start()], exact=False) if doubtful else Named(name, exact=bool(name))

    def key(self, name: str) -> str:
        """The key of a blob by its whole name. Raises Elsewhere."""
        if not name.startswith(self.prefix) or name == self.prefix:
            raise Elsewhere("outside_prefix")
        try:
            return self.decode(name[len(self.prefix) :])
        except Park:
            raise Elsewhere("unrepresentable") from None

    def beginning(self, text: str) -> str:
        """The beginning of the keys of all blobs whose whole names begin with *text*; shorter where it is not sure.

        Raises:
            Elsewhere: no key of this pair has such a name.
        """
        if self.prefix.startswith(text):
            return ""
        if not text.startswith(self.prefix):
            raise Elsewhere("outside_prefix")
        rest = text[len(self.prefix) :]
        while rest:
            # Within a segment only plain text begins a key as it begins a name; whole segments translate by themselves.
            whole = rest.endswith("/")
            try:
                found = self.decode(rest)
            except Park:
                found = ""
            if found and (whole or (found == rest and not rest.endswith(keys.QUOTE))):
                return found
            rest = rest[: rest.rstrip("/").rfind("/") + 1] if whole else rest[: rest.rfind("/") + 1]
        return ""
