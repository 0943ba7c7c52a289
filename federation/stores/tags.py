"""The services' XML of object tags, which is nearly the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from federation.errors import RetryLater
from federation.model import Side, Tags


def tags_body(tags: Mapping[str, str], root: str) -> bytes:
    """The document that replaces all tags of an object; *root* is ``Tags`` on Azure, ``Tagging`` on S3."""
    rows = "".join(f"<Tag><Key>{escape(name)}</Key><Value>{escape(value)}</Value></Tag>" for name, value in tags.items())
    return f'<?xml version="1.0" encoding="utf-8"?><{root}><TagSet>{rows}</TagSet></{root}>'.encode()


def parse_tags(body: bytes, side: Side) -> Tags:
    """The tags of an answer, sorted. Raises RetryLater when it is no such document.

    A server that knows no tags may answer with the object itself, and would take tags that are written for new content.
    """
    fault = RetryLater(f"{side}: the answer holds no tags", reason="bad_answer", side=side)
    try:
        root = ET.fromstring(body)  # noqa: S314 - the configured, authenticated service; bounded by ten tags
    except ET.ParseError:
        raise fault from None
    if "TagSet" not in {element.tag.rpartition("}")[2] for element in root}:
        raise fault
    fields = {"Key": "", "Value": ""}
    found = []
    for tag in root.iter():
        if tag.tag.rpartition("}")[2] == "Tag":
            told = fields | {field.tag.rpartition("}")[2]: field.text or "" for field in tag}
            found.append((told["Key"], told["Value"]))
    return tuple(sorted(found))
