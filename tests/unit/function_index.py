"""The functions of the app, for every test of them: azure-functions makes the list once a process only."""

from __future__ import annotations

from functools import cache

import azure.functions as func

import function_app


@cache
def index() -> list[func.Function]:
    """What the host gets."""
    found: list[func.Function] = function_app.app.get_functions()
    return found
