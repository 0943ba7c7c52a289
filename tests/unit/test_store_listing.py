"""List pages and the order of keys on top of the order of names."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import RetryLater
from federation.keys import AZURE_BLOB, VAST_COMMON, NamePolicy
from federation.model import ListEntry, Side, Stamp
from federation.nameless import Ear, Found, heard
from federation.stores import listing, pages
from federation.stores.listing import OrderedListing
from federation.stores.pages import Page, parse_azure_page, parse_s3_page

AZURE_PAGE = b"""<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="c"><Blobs>
<Blob><Name>a&amp;b</Name><Properties><Last-Modified>Sat, 21 Nov 2026 05:10:01 GMT</Last-Modified><Etag>0x8D1</Etag>
<Content-Length>3</Content-Length><Content-MD5>XUFAKrxLKna5cZ2REBfFkg==</Content-MD5></Properties></Blob>
<Blob><Name>dir</Name><Properties><ResourceType>directory</ResourceType><Etag>0x8D3</Etag></Properties></Blob>
<Blob><Name Encoded="true">x%EF%BF%BE</Name><Properties><Last-Modified>Sat, 21 Nov 2026 05:10:02 GMT</Last-Modified>
<Etag>"0x8D2"</Etag><Content-Length>0</Content-Length><Content-MD5 /></Properties></Blob>
</Blobs><NextMarker>more</NextMarker></EnumerationResults>"""

S3_PAGE = b"""<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>
<IsTruncated>true</IsTruncated><NextContinuationToken>t/1=</NextContinuationToken>
<Contents><Key>a+b%2B%0A</Key><LastModified>2026-11-21T05:10:01.987Z</LastModified>
<ETag>&quot;5D41402ABC4B2A76B9719D911017C592&quot;</ETag><Size>5</Size></Contents>
<Contents><Key>big</Key><LastModified>2026-11-21T05:10:02.000Z</LastModified><ETag>"5d41402abc4b2a76b9719d911017c592-2"</ETag>
<Size>6</Size></Contents></ListBucketResult>"""


def entry(name: str) -> ListEntry:
    """An entry under the side's name."""
    return ListEntry(name, "e", 1, Stamp(0))


class Server:
    """Names in the server's order, in pages of two."""

    def __init__(self, names: list[str], order: Callable[[str], bytes] = str.encode) -> None:
        self.names = sorted(names, key=order)
        self.passes = 0
        self.read = 0
        """Pages."""

    async def pages(self, prefix: str, start_after: str) -> AsyncIterator[Page]:
        """As a real one; ``start_after`` in UTF-8 order."""
        self.passes += 1
        wanted = [name for name in self.names if name.startswith(prefix) and name.encode() > start_after.encode()]
        yield Page([], "on")
        for at in range(0, len(wanted), 2):
            self.read += 1
            yield Page([entry(name) for name in wanted[at : at + 2]], "on")


def ordered(server: Server, policy: NamePolicy = VAST_COMMON, prefix: str = "") -> OrderedListing:
    """A listing over the server."""
    return OrderedListing(Side.VAST, policy, prefix, server.pages)


async def read(listed: OrderedListing, prefix: str = "", start_after: str = "") -> list[str]:
    """All keys."""
    return [found.key async for found in listed.entries(prefix, start_after)]


def test_azure_page() -> None:
    """Names are exact, directories are left out, an empty MD5 is unknown, and the marker leads on."""
    page = parse_azure_page(AZURE_PAGE)
    assert page.marker == "more"
    assert [(one.key, one.etag, one.size_bytes) for one in page.entries] == [("a&b", "0x8D1", 3), ("x\ufffe", "0x8D2", 0)]
    assert [one.md5 for one in page.entries] == ["5d41402abc4b2a76b9719d911017c592", None]
    assert page.entries[0].modified == Stamp(1_795_237_801_000_000)


def test_s3_page() -> None:
    """Keys are decoded, times cut to seconds, and only a hash is taken for an MD5."""
    page = parse_s3_page(S3_PAGE)
    assert page.marker == "t/1="
    assert [one.key for one in page.entries] == ["a b+\n", "big"]
    assert [one.md5 for one in page.entries] == ["5d41402abc4b2a76b9719d911017c592", None]
    assert page.entries[0].modified == Stamp(1_795_237_801_000_000)


def test_a_folder_of_which_a_gateway_tells_the_name_alone_does_not_hide_the_rest() -> None:
    """As s3proxy lists it (jclouds); a name that is no folder's must have its size and time, else the page counts as cut."""
    folder = b"<Contents><Key>dir%2F</Key><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
    page = parse_s3_page(S3_PAGE.replace(b"</ListBucketResult>", folder))
    assert [(one.key, one.size_bytes, one.md5) for one in page.entries[1:]] == [("big", 6, None), ("dir/", 0, None)]
    assert page.entries[:2] == parse_s3_page(S3_PAGE).entries
    with pytest.raises(RetryLater):
        parse_s3_page(S3_PAGE.replace(b"</ListBucketResult>", folder.replace(b"%2F", b"")))


@pytest.mark.parametrize(("page", "parse"), [(AZURE_PAGE, parse_azure_page), (S3_PAGE, parse_s3_page)])
def test_a_cut_page_is_never_short(page: bytes, parse: Callable[[bytes], Page]) -> None:
    """A page cut at any byte raises: it can never look like a shorter listing (rule 3)."""
    for end in range(len(page)):
        with pytest.raises(RetryLater):
            parse(page[:end])


Parser = Callable[[bytes], Page]
AS_SENT: dict[Parser, bytes] = {
    parse_azure_page: (
        b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://a/" ContainerName="c">'
        b"<Blobs>ROWS</Blobs><NextMarker>m&amp;n</NextMarker></EnumerationResults>"
    ),
    parse_s3_page: (
        b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
        b"<KeyCount>2</KeyCount><IsTruncated>false</IsTruncated>ROWS</ListBucketResult>"
    ),
}
ROWS: dict[Callable[[bytes], Page], str] = {
    parse_azure_page: (
        "<Blob><Name>{0}</Name><Properties><Last-Modified>Sat, 21 Nov 2026 05:10:01 GMT</Last-Modified><Etag>0x8D1</Etag>"
        "<ResourceType>file</ResourceType><Content-Length>3</Content-Length><Content-Type>a</Content-Type>"
        "<Content-MD5>XUFAKrxLKna5cZ2REBfFkg==</Content-MD5><BlobType>BlockBlob</BlobType></Properties><OrMetadata /></Blob>"
    ),
    parse_s3_page: (
        "<Contents><Key>{0}</Key><LastModified>2026-11-21T05:10:01.987Z</LastModified><ETag>&quot;5d41402abc4b2a76b9719d911017c592"
        "&quot;</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>"
    ),
}
TREE: dict[Parser, Parser] = {parse_azure_page: pages._azure_tree, parse_s3_page: pages._s3_tree}
TEXT: dict[Parser, Callable[[bytes], Page | None]] = {parse_azure_page: pages._azure_text, parse_s3_page: pages._s3_text}
PARSERS: list[Parser] = [parse_azure_page, parse_s3_page]


def as_sent(parse: Callable[[bytes], Page], names: list[str]) -> bytes:
    """A page as the service writes it."""
    return AS_SENT[parse].replace(b"ROWS", "".join(ROWS[parse].format(escape(name)) for name in names).encode())


@pytest.mark.parametrize("parse", PARSERS)
@settings(max_examples=200)
@given(
    names=st.lists(
        st.text(alphabet="ab/&;<>\"'#x%+\u00e9\uff0e\U0001f600 ]\n\t-!", min_size=1, max_size=12), min_size=1, max_size=5
    )
)
def test_cutting_text_is_parsing(parse: Callable[[bytes], Page], names: list[str]) -> None:
    """A page as the service writes it is read by text search, and gives what the XML parser gives, whatever the names.

    Azure's begins with a byte order mark, the emulator's does not.
    """
    body = as_sent(parse, names)
    found = TEXT[parse](body)
    assert found == TREE[parse](body) == parse(body) == TEXT[parse](body.removeprefix(BOM_UTF8))
    assert found is not None
    assert [one.key for one in found.entries] == names


@pytest.mark.parametrize("parse", PARSERS)
def test_a_damaged_byte_never_loses_an_entry(parse: Callable[[bytes], Page]) -> None:
    """Whichever byte arrives as another one, the page raises or still has all its entries (rule 3)."""
    body = as_sent(parse, ["one", "two", "three"])
    for at in range(len(body)):
        damaged = body[:at] + bytes([body[at] ^ 0x04]) + body[at + 1 :]
        try:
            found = parse(damaged)
        except RetryLater:
            continue
        assert len(found.entries) == 3, body[at - 10 : at + 10]


@pytest.mark.parametrize(
    ("parse", "unusual"),
    [
        (parse_azure_page, lambda body: body.replace(b"<Blobs>", b"<Blobs><!-- <Blob> -->")),
        (parse_azure_page, lambda body: body.replace(b"<Name>one</Name>", b"<Name><![CDATA[one]]></Name>")),
        (parse_azure_page, lambda body: body.replace(b"<Name>one</Name>", b"<Name>one</Name >")),
        (parse_azure_page, lambda body: body.replace(b"<BlobType>", b"<BlobType\r\n>")),
        (parse_s3_page, lambda body: body.replace(b"<Key>one</Key><Last", b"<Key>one</Key ><Last")),
        (parse_s3_page, lambda body: body.replace(b"<Size>5</Size>", b"<Size>5</Size ><Owner/>")),
    ],
)
def test_an_unusual_page_goes_to_the_parser(parse: Callable[[bytes], Page], unusual: Callable[[bytes], bytes]) -> None:
    """Text search gives up, the XML parser reads it, and the entries are the same."""
    body = unusual(as_sent(parse, ["one", "two"]))
    assert TEXT[parse](body) is None
    assert [one.key for one in parse(body).entries] == ["one", "two"]


@pytest.mark.parametrize(
    ("page", "parse"),
    [
        (as_sent(parse_azure_page, ["a"]).replace(b"<Name>a", b"<Name>&nbsp;"), parse_azure_page),
        (b"<html/>", parse_azure_page),
        (b"<Error><Code>X</Code></Error>", parse_s3_page),
        (AZURE_PAGE.replace(b"<NextMarker>more</NextMarker>", b""), parse_azure_page),
        (AZURE_PAGE.replace(b"<Etag>0x8D1</Etag>", b""), parse_azure_page),
        (S3_PAGE.replace(b"<IsTruncated>true</IsTruncated>", b""), parse_s3_page),
        (S3_PAGE.replace(b"<NextContinuationToken>t/1=</NextContinuationToken>", b""), parse_s3_page),
        (S3_PAGE.replace(b"<Size>5</Size>", b""), parse_s3_page),
    ],
)
def test_an_answer_that_is_no_list_page_raises(page: bytes, parse: Callable[[bytes], Page]) -> None:
    """Another document, or one that lacks what a page must have, raises."""
    with pytest.raises(RetryLater):
        parse(page)


names_of_all_kinds = st.lists(
    st.text(alphabet="ab./:\u201b\uff0e\uff1a\uffee\U0001f600", min_size=1, max_size=6), unique=True, max_size=12
)


@settings(max_examples=300)
@given(
    names=names_of_all_kinds,
    utf16=st.booleans(),
    prefix=st.sampled_from(["", "a", "a:", "./"]),
    start=st.sampled_from(["", "a", "a:b", "\uff1a"]),
)
async def test_keys_come_in_order_whatever_the_names(names: list[str], utf16: bool, prefix: str, start: str) -> None:
    """Every addressable key once, ascending in UTF-8, cut exactly by prefix and start, however the server sorts names."""
    keys_there = [name for name in names if VAST_COMMON.unescape(VAST_COMMON.escape(name)) == name]
    server = Server([VAST_COMMON.escape(key) for key in keys_there], lambda name: name.encode("utf-16-be" if utf16 else "utf-8"))
    expected = sorted((key for key in keys_there if key.startswith(prefix) and key.encode() > start.encode()), key=str.encode)
    listed = ordered(server)
    assert await read(listed, prefix, start) == expected
    await read(listed)
    assert await read(listed, prefix, start) == expected


async def test_plain_names_cost_one_pass_after_the_first() -> None:
    """The pass that looks for late entries is not repeated while there are none, and the start is left to the server."""
    server = Server(["a", "b/c", "d"])
    listed = ordered(server)
    assert await read(listed) == ["a", "b/c", "d"]
    assert server.passes == 2
    assert await read(listed, "", "a") == ["b/c", "d"]
    assert server.passes == 3
    listed.disturb()
    await read(listed)
    assert server.passes == 5


async def test_a_late_name_that_appears_later_asks_to_be_repeated() -> None:
    """An escaped name of another writer, out of order in a one-pass listing, is RetryLater once and then right."""
    server = Server(["a", "b"])
    listed = ordered(server)
    await read(listed)
    server.names = sorted(["a", "ab", VAST_COMMON.escape("a:")], key=str.encode)
    with pytest.raises(RetryLater) as error:
        await read(listed)
    assert error.value.reason == "listing_order"
    assert await read(listed) == ["a", "a:", "ab"]


async def test_names_without_a_key_are_counted() -> None:
    """A name that is illegal under the policy belongs to no key: left out and counted, never another object's key."""
    names = ["a:b", "fine", VAST_COMMON.escape("a:b")]
    listed = ordered(Server([f"p/{name}" for name in ("", *names, ".federation/conflicts/a:")]), prefix="p/")
    with _listening() as found:
        assert await read(listed) == ["a:b", "fine"]
        assert await read(listed) == ["a:b", "fine"]
        assert await read(listed, ".federation/conflicts/") == []
    assert (found[Side.VAST].count, found[Side.VAST].examples) == (1, ["a:b"])


async def test_a_name_that_is_no_utf8_is_counted_and_is_no_other_key() -> None:
    """NFS takes any bytes as a name. Such a name is left out; it is not taken for one that holds U+FFFD."""
    page = S3_PAGE.replace(b"a+b%2B%0A", b"caf%E9")
    [odd, _] = parse_s3_page(page).entries
    listed = ordered(Server([]))
    listed._pages = lambda *_: _one_page(Page([odd, entry("caf\ufffd")], ""))
    with _listening() as found:
        assert await read(listed) == ["caf\ufffd"]
    assert (found[Side.VAST].count, found[Side.VAST].examples) == (1, ["caf\\udce9"])


@contextmanager
def _listening() -> Iterator[Found]:
    found: Found = {}
    token = heard.set(Ear(found))
    yield found
    heard.reset(token)


async def _one_page(page: Page) -> AsyncIterator[Page]:
    yield page


async def test_the_planes_own_names_do_not_disturb() -> None:
    """Escaped names under an excluded prefix cost no second pass."""
    server = Server([".federation/conflicts/x\uff1ay", "a"])
    listed = ordered(server)
    await read(listed)
    await read(listed)
    assert server.passes == 3


@pytest.mark.parametrize("names", [[], ["a:b\uff1a"]], ids=["one pass", "two passes"])
async def test_a_prefix_that_also_begins_names_of_the_plane_lists_the_users_only(names: list[str]) -> None:
    """However short; ``.snapshot`` begins ``.snapshots``, which is a user's."""
    hidden = [".federation/conflicts/x", ".snapshot", ".snapshot/s/x", ".vast_audit_dir/x"]
    listed = ordered(Server([*hidden, ".federated", ".snapshots/x", ".vague", *names]))
    for prefix in ("", ".", ".fed", ".federation", ".snap", ".snapshot", ".va"):
        users = [".federated", ".snapshots/x", ".vague"]
        for _ in range(2):
            assert [key for key in await read(listed, prefix) if key < "a"] == [key for key in users if key.startswith(prefix)]
    assert await read(listed, ".vas") == []


async def test_a_listing_in_no_order_at_all_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """More late entries than memory may hold: the listing is sorted on disk, and may not be started in its middle."""
    monkeypatch.setattr(listing, "LATE_LIMIT", 3)
    server = Server([])
    server.names = ["z", "a", "b", "c", "d"]
    listed = ordered(server)
    assert await read(listed) == ["a", "b", "c", "d", "z"]
    assert not listed.in_order
    assert await read(listed, start_after="b") == ["c", "d", "z"]


async def test_a_failing_page_raises_through() -> None:
    """A listing that fails midway raises: what came before is never taken for the whole."""

    async def pages(prefix: str, start_after: str) -> AsyncIterator[Page]:
        yield Page([entry(f"{prefix}a{start_after}")], "on")
        raise RetryLater("gone", reason="unreachable")

    with pytest.raises(RetryLater):
        await read(OrderedListing(Side.BLOB, AZURE_BLOB, "", pages))


@pytest.mark.parametrize(
    ("names", "holds", "pages"),
    [
        ([f"k{number}" for number in range(100)], True, 1),
        (["a//b", *(f"k{number}" for number in range(100))], True, 1),
        ([f".federation/conflicts/{number}" for number in range(9)], False, 5),
        ([*(f".federation/conflicts/{number}" for number in range(9)), "k"], True, 5),
        ([], False, 0),
    ],
    ids=["keys", "names without a key", "ours", "ours and a key", "nothing"],
)
async def test_whether_a_side_holds_anything_is_seen_on_its_first_page(names: list[str], *, holds: bool, pages: int) -> None:
    """Also while its order is not known: to learn that, all of it would be read."""
    server = Server(names)
    listed = ordered(server)
    assert (await listed.any(), server.read, listed.in_order) == (holds, pages, False)
