"""The one FunctionApp: the functions that the settings ask for, with their bindings.

Everything but the bindings is imported in the first invocation: indexing has a time limit, and an exception at import would leave
an app without functions (facts/functions.md). So settings that cannot be read leave ``health``, which says so.
"""

from __future__ import annotations

import logging

import azure.functions as func

from federation.errors import UsageError
from federation.settings import Settings, load
from function_app import event_functions, web_functions, work_functions


def build(settings: Settings | None) -> func.FunctionApp:
    """The app for *settings*; None: they cannot be read."""
    made = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
    made.register_functions(web_functions.blueprint(settings))
    if settings is not None:
        made.register_functions(event_functions.blueprint(settings))
        made.register_functions(work_functions.blueprint(settings))
    return made


def _settings() -> Settings | None:
    try:
        return load()
    except UsageError as error:
        # The host drops what is logged while it indexes; ``health`` logs it again where it is kept.
        logging.getLogger("fedplane.functions").error("the settings cannot be read: %s", error)  # noqa: TRY400 - it says all
        return None


app = build(_settings())
