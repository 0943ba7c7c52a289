"""Secrets are named in settings and read from variables; an error never shows one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.settings import secret


def test_a_secret_is_read_from_the_variable_it_names() -> None:
    """The setting holds a name, never a value."""
    assert secret("VAST_SECRET_KEY", "pair.vast.secret_key_env", {"VAST_SECRET_KEY": "hunter2"}) == "hunter2"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_end_of_a_secret_s_line_is_no_part_of_it(end: str) -> None:
    """As of one made with ``echo``: every request would fail, by a wrong signature or on a header that cannot be sent."""
    assert secret("VAST_ACCESS_KEY", "pair.vast.access_key_env", {"VAST_ACCESS_KEY": f" hunter 2 {end}"}) == " hunter 2 "


@pytest.mark.parametrize("environment", [{}, {"VAST_SECRET_KEY": ""}, {"OTHER": "hunter2"}], ids=["unset", "empty", "other"])
def test_a_missing_secret_names_setting_and_variable(environment: dict[str, str]) -> None:
    """And no value of the environment."""
    with pytest.raises(UsageError) as caught:
        secret("VAST_SECRET_KEY", "pair.vast.secret_key_env", environment)
    text = str(caught.value)
    assert caught.value.reason == "missing_secret"
    assert all(name in text for name in ("VAST_SECRET_KEY", "pair.vast.secret_key_env"))
    assert "hunter2" not in text


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=60).filter(lambda text: not text.isupper())
)
def test_a_secret_typed_in_place_of_its_variable_s_name_is_not_shown(typed: str) -> None:
    """The commonest mistake must not print the key."""
    with pytest.raises(UsageError) as caught:
        secret(typed, "pair.vast.secret_key_env", {})
    assert "pair.vast.secret_key_env" in str(caught.value)
    assert typed not in str(caught.value)
