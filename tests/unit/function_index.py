"""The functions of the app, for every test of them."""

from __future__ import annotations

import azure.functions as func

from federation.settings import Settings
from function_app.triggers import build


def index(settings: Settings | None) -> list[func.Function]:
    """What the host gets."""
    found: list[func.Function] = build(settings).get_functions()
    return found
