"""What a server was seen to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server was *seen* to do (probed, not assumed; rule 5)."""

    conditional_put: bool = True
    conditional_delete: bool = True
    conditional_complete: bool = True
    conditional_copy: bool = True
    """Whether a server-side copy honours the condition on its source."""
    versioning: bool = False
    """Whether an overwritten version was read back by its id."""
    list_in_order: bool = True
    """Whether lists come in the order of the names' UTF-8 bytes; where not, they are sorted here (``OrderedListing``)."""
    nested_names: bool = True
    """Whether ``a`` and ``a/b`` can both be there and are both listed. Not where objects are kept as files and folders."""
    leading_slash: bool = True
    """Whether ``/a`` is another name than ``a``, or is never sent."""
    case_sensitive: bool = True
    """Whether ``A`` is another name than ``a``."""
    trailing_slash: bool = True
    """Whether ``a/`` is another name than ``a``."""
    marks: bool = True
    """Whether an object whose name ends with a slash keeps its content and metadata, or is refused."""
    checksums: bool = True
    """Whether a body that does not fit its Content-MD5 is refused."""
    etag_is_md5: bool = True
    """Whether the ETag of what was written in one request was the MD5 of its content, there and in lists; where not, no ETag is
    taken for a hash. Not so on Azure, and on S3 not where a KMS key encrypts, nor on gateways with tokens of their own."""
    tags: bool = False
    """Whether tags that were set were read back."""
    page_size: int = 1_000
    """Entries the server admits to in one list page."""
    modified_precision_us: int = 1_000_000
    """Of Last-Modified in lists; HEAD has whole seconds."""
    max_single_put_bytes: int = 256 * 1024 * 1024
    min_part_bytes: int = 5 * 1024 * 1024
    max_part_bytes: int = 5 * 1024 * 1024 * 1024
    max_parts: int = 10_000
