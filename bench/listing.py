"""CPU of a listing, a microsecond an entry: page bytes to entries in key order, beside the XML parser alone and the SDKs.

python bench/listing.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from xml.etree import ElementTree as ET

from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import create_parser

from federation.keys import AZURE_BLOB, VAST_COMMON, NamePolicy
from federation.model import Side
from federation.stores.listing import OrderedListing
from federation.stores.pages import Page, parse_azure_page, parse_s3_page

ENTRIES, ROUNDS = 5_000, 10
BLOB = (
    "<Blob><Name>dir-{0:05d}/file-{0:09d}.parquet</Name><Properties><Creation-Time>Tue, 14 Nov 2023 22:13:20 GMT</Creation-Time>"
    "<Last-Modified>Tue, 14 Nov 2023 22:{1:02d}:20 GMT</Last-Modified><Etag>0x8DBE55A{0:08X}</Etag>"
    "<Content-Length>4096</Content-Length><Content-Type>application/octet-stream</Content-Type><Content-Encoding />"
    "<Content-Language /><Content-CRC64 /><Content-MD5>XrY7u+Ae7tCTyyK7j1rNww==</Content-MD5><Cache-Control />"
    "<Content-Disposition /><BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier>"
    "<AccessTierInferred>true</AccessTierInferred>"
    "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState><ServerEncrypted>true</ServerEncrypted></Properties>"
    "<OrMetadata /></Blob>"
)
OBJECT = (
    "<Contents><Key>dir-{0:05d}/file-{0:09d}.parquet</Key><LastModified>2023-11-14T22:{1:02d}:20.123Z</LastModified>"
    "<ETag>&#34;5eb63bbbe01eeed093cb22bb{0:08x}&#34;</ETag><Size>4096</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def azure_page() -> bytes:
    """A page as the service sends it, with its byte order mark: read as what it is not, it took the slow parser."""
    rows = "".join(BLOB.format(number, number % 60) for number in range(ENTRIES))
    return (
        '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://a.example/" ContainerName="c">'
        f"<MaxResults>5000</MaxResults><Blobs>{rows}</Blobs><NextMarker /></EnumerationResults>"
    ).encode("utf-8-sig")


def s3_page() -> bytes:
    """A page as S3 sends it, longer than usual."""
    rows = "".join(OBJECT.format(number, number % 60) for number in range(ENTRIES))
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
        f"<Prefix/><KeyCount>{ENTRIES}</KeyCount><MaxKeys>{ENTRIES}</MaxKeys><EncodingType>url</EncodingType>"
        f"<IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
    ).encode()


def cost(what: Callable[[], object]) -> float:
    """Microseconds of CPU an entry, the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        what()
        best = min(best, time.process_time() - start)
    return best / ENTRIES * 1e6


def ordered(side: Side, policy: NamePolicy, parse: Callable[[bytes], Page], body: bytes) -> Callable[[], object]:
    """All of it: parsing, names to keys, order checked, as a scan sees it after its first pass."""

    async def pages(prefix: str, start_after: str) -> AsyncIterator[Page]:
        del prefix, start_after
        yield parse(body)

    listing = OrderedListing(side, policy, "", pages)

    async def walk() -> int:
        return sum([1 async for _ in listing.entries("", "")])

    assert asyncio.run(walk()) == ENTRIES
    return lambda: asyncio.run(walk())


def main() -> None:
    """Print the figures."""
    azure, s3 = azure_page(), s3_page()
    operation = ServiceModel(Loader().load_service_model("s3", "service-2")).operation_model("ListObjectsV2")
    parser = create_parser("rest-xml")
    answer = {"status_code": 200, "headers": {}, "body": s3}
    for name, what in (
        ("Azure: page to ordered entries", ordered(Side.BLOB, AZURE_BLOB, parse_azure_page, azure)),
        ("Azure: parse_azure_page", lambda: parse_azure_page(azure)),
        ("Azure: XML parser alone", lambda: ET.fromstring(azure)),  # noqa: S314 - our own text
        ("S3: page to ordered entries", ordered(Side.VAST, VAST_COMMON, parse_s3_page, s3)),
        ("S3: parse_s3_page", lambda: parse_s3_page(s3)),
        ("S3: XML parser alone", lambda: ET.fromstring(s3)),  # noqa: S314
        ("S3: botocore's parser", lambda: parser.parse(answer, operation.output_shape)),
    ):
        print(f"{name}: {cost(what):.2f} us of CPU an entry")


if __name__ == "__main__":
    main()
