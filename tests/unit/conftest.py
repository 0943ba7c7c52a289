"""Settings of the unit tests."""

from __future__ import annotations

from hypothesis import settings

# How long one example takes says more about a busy machine than about the rule under test.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
