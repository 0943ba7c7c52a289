"""From the settings file to the stores: tiers, tags and the way to authorise."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import UsageError
from federation.settings import PairSettings, load
from federation.stores.azure_auth import DelegationAuth, SasAuth, TokenAuth
from federation.stores.azure_blob import AzureBlobStore
from federation.stores.change_feed import AzureChangeFeed
from federation.wiring import _blob_store, open_feed

TEXT = """
[[pair]]
name = "p"
[pair.blob]
account_url = "https://acct.blob.core.windows.net"
container = "c"
{blob}
[pair.vast]
endpoint = "https://v.example"
bucket = "b"
access_key_env = "A"
secret_key_env = "S"
[pair.rules]
tags = true
"""
TIERS = """
[[pair.blob.tiers]]
prefix = "cold/"
tier = "Cool"
[[pair.blob.tiers]]
prefix = "cold/deep/"
tier = "Cold"
"""


def pair(tmp_path: Path, blob: str) -> PairSettings:
    """The pair of a file with that in its Blob section."""
    file = tmp_path / "federation.toml"
    file.write_text(TEXT.format(blob=blob), encoding="utf-8")
    return load(file, {}).pair[0]


def store(tmp_path: Path, blob: str) -> AzureBlobStore:
    """Its Blob store."""
    made = _blob_store(pair(tmp_path, blob), object())
    assert isinstance(made, AzureBlobStore)
    return made


def test_the_longest_prefix_names_the_tier(tmp_path: Path) -> None:
    """Of keys below it, and of no other; never of the plane's own objects."""
    made = store(tmp_path, TIERS)
    tiers = [made.tier(key).get("x-ms-access-tier") for key in ("cold/a", "cold/deep/a", "cold", "warm", ".federation/x")]
    assert tiers == ["Cool", "Cold", None, None, None]
    assert made._map_tags


@pytest.mark.parametrize(
    ("blob", "word"),
    [
        (TIERS + '[[pair.blob.tiers]]\nprefix = "cold/"\ntier = "Hot"', "same prefix"),
        (TIERS.replace("Cool", "Archive"), "pair.p.blob.tiers.0.tier"),
        ('sas_env = "X"\nuser_delegation_sas = true', "sas_env and user_delegation_sas"),
    ],
    ids=["twice", "archive", "two ways"],
)
def test_a_wrong_section_is_named(tmp_path: Path, blob: str, word: str) -> None:
    """The error says which setting and what is wrong with it."""
    with pytest.raises(UsageError, match=word):
        pair(tmp_path, blob)


@pytest.mark.parametrize(
    ("blob", "auth"),
    [('sas_env = "GIVEN_SAS"', SasAuth), ("user_delegation_sas = true", DelegationAuth), ("", TokenAuth)],
    ids=["sas", "delegation", "token"],
)
def test_each_way_to_authorise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blob: str, auth: type) -> None:
    """What is set is what requests carry."""
    monkeypatch.setenv("GIVEN_SAS", "?sv=1&sig=x")
    assert type(store(tmp_path, blob)._auth) is auth


async def test_the_change_feed_is_read_with_the_same_sas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is set there is no other credential; one that the events need is not the Blob side's."""
    monkeypatch.setenv("GIVEN_SAS", "?sv=1&sig=x")
    for credential in (None, object()):
        feed = open_feed(pair(tmp_path, 'sas_env = "GIVEN_SAS"\nchange_feed.enabled = true'), credential)
        assert isinstance(feed, AzureChangeFeed)
        assert await feed._auth.query() == "sv=1&sig=x"
        await feed.close()


def test_a_sas_that_is_not_there_names_its_variable(tmp_path: Path) -> None:
    """And says which setting names it."""
    with pytest.raises(UsageError, match=r"pair.blob.sas_env .*'NO_SUCH_SAS'"):
        store(tmp_path, 'sas_env = "NO_SUCH_SAS"')
