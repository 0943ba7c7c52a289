"""Names as rclone's tests of its encoder try them (lib/encoder/encoder_test.go, the masks of its azureblob and s3 backends).

One made-up name for each class of its tables; docs/names.md says where the two schemes part.
"""

from __future__ import annotations

import pytest

from federation import keys
from federation.errors import Park
from federation.keys import AZURE_BLOB, QUOTE, VAST_COMMON, VAST_NATIVE, NamePolicy

Q = QUOTE
WIN = {'"': "\uff02", ":": "\uff1a", "|": "\uff5c", "<": "\uff1c", ">": "\uff1e", "*": "\uff0a", "?": "\uff1f", "\\": "\uff3c"}
CONTROLS = {chr(code): chr(0x2400 + code) for code in range(0x20)} | {"\x7f": "\u2421"}
REPLACED = [
    *((AZURE_BLOB, char, wide) for char, wide in {**CONTROLS, "\\": WIN["\\"]}.items()),
    *((VAST_COMMON, char, wide) for char, wide in {**WIN, "\0": "\u2400"}.items()),
    (VAST_NATIVE, "\0", "\u2400"),
]


@pytest.mark.parametrize(("policy", "char", "wide"), REPLACED, ids=lambda one: one if isinstance(one, str) else one.name)
def test_a_class_of_characters_is_replaced_as_rclone_does(policy: NamePolicy, char: str, wide: str) -> None:
    """The character by its picture, the picture by itself with a quote, quotes before either doubled; and back."""
    rows = {f"a{char}b": f"a{wide}b", f"a{wide}b": f"a{Q}{wide}b", f"{char}{char}": f"{wide}{wide}"}
    rows |= {f"{wide}{char}": f"{Q}{wide}{wide}", f"a{Q}{char}": f"a{Q}{Q}{wide}", f"a{Q}{wide}": f"a{Q}{Q}{Q}{wide}"}
    assert {key: keys.encode(key, policy) for key in rows} == rows
    assert {keys.decode(name, policy): name for name in rows.values()} == rows


@pytest.mark.parametrize(
    ("policy", "key", "name"),
    [
        (VAST_COMMON, ".", "\uff0e"),
        (VAST_COMMON, "..", "\uff0e\uff0e"),
        (VAST_COMMON, "...", "..."),
        (VAST_COMMON, ". .", ". ."),
        (VAST_NATIVE, "..", ".."),
        (AZURE_BLOB, "a.", "a\uff0e"),
        (AZURE_BLOB, "a..", "a.\uff0e"),
        (AZURE_BLOB, "a\uff0e", f"a{Q}\uff0e"),
        (AZURE_BLOB, ".a", ".a"),
        (AZURE_BLOB, "a./b./c", "a\uff0e/b\uff0e/c"),
        (AZURE_BLOB, " leading, trailing ", " leading, trailing "),
        (AZURE_BLOB, "~tilde#hash%20percent", "~tilde#hash%20percent"),
        (VAST_COMMON, "[a]{b}'c'`d`;!$", "[a]{b}'c'`d`;!$"),
        (VAST_COMMON, "line\r\nfeed\t", "line\r\nfeed\t"),
        (VAST_COMMON, "dir/", "dir/"),
        (AZURE_BLOB, "dir_$folder$", "dir_$folder$"),
        (AZURE_BLOB, "\u00e9 and e\u0301", "\u00e9 and e\u0301"),
        (AZURE_BLOB, f"{Q}BF", f"{Q}BF"),
        (AZURE_BLOB, Q + Q, Q + Q),
    ],
)
def test_a_name_at_an_edge_of_rclone_s_tables(policy: NamePolicy, key: str, name: str) -> None:
    """Dots, blanks, what is special to neither side, folder markers of S3A, and quotes before nothing, which stay."""
    assert keys.encode(key, policy) == name
    assert keys.decode(name, policy) == key


@pytest.mark.parametrize("policy", [AZURE_BLOB, VAST_COMMON, VAST_NATIVE], ids=lambda policy: policy.name)
@pytest.mark.parametrize("raw", [b"\xbf", b"\xbf\xfe", b"a\xbf\xce\xbe\xfeb"])
def test_bytes_that_are_no_unicode_are_parked_where_rclone_spells_them_out(policy: NamePolicy, raw: bytes) -> None:
    """They are reported, and never taken for another object."""
    with pytest.raises(Park) as parked:
        keys.encode(raw.decode(errors="surrogateescape"), policy)
    assert parked.value.reason == "unrepresentable"
