"""The Azure Functions app as the host finds it: the functions, their bindings, and what is deployed."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import function_app
from tests.unit.function_index import index

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = {
    "event_grid": [("eventGridTrigger", "event")],
    "event_grid_queue": [("queueTrigger", "message")],
    "events": [("httpTrigger", "req"), ("http", "$return")],
    "health": [("httpTrigger", "req"), ("http", "$return")],
}


def test_the_index_lists_exactly_the_functions() -> None:
    """Each function once, with its bindings, and their names are such as the host accepts (no underscore)."""
    found = {one.get_function_name(): [(binding.type, binding.name) for binding in one.get_bindings()] for one in index()}
    assert found == FUNCTIONS
    for bindings in found.values():
        assert all(name == "$return" or re.fullmatch(r"[a-zA-Z][a-zA-Z0-9]{0,127}", name) for _, name in bindings)


def test_the_bindings_say_what_the_host_needs() -> None:
    """Queue and connection come from app settings; the webhook takes deliveries and handshakes; nobody needs a host key."""
    first = {one.get_function_name(): json.loads(one.get_function_json())["bindings"][0] for one in index()}
    queue, events, health = first["event_grid_queue"], first["events"], first["health"]
    assert (queue["queueName"], queue["connection"]) == ("%FEDERATION_QUEUE_NAME%", "FEDERATION_QUEUE")
    assert (events["route"], sorted(events["methods"]), events["authLevel"]) == ("events", ["OPTIONS", "POST"], "ANONYMOUS")
    assert (health["route"], health["methods"], health["authLevel"]) == ("health", ["GET"], "ANONYMOUS")


def test_the_worker_finds_one_app_with_light_imports() -> None:
    """From the app's root: the package wins over the shim, holds one FunctionApp, and indexing imports no SDK of a service."""
    code = """
import importlib, sys
module = importlib.import_module("function_app")
import azure.functions as func
apps = [name for name, value in vars(module).items() if isinstance(value, func.FunctionApp)]
functions = sorted(one.get_function_name() for one in module.app.get_functions())
heavy = sorted({"redis", "boto3", "obstore", "aiohttp", "kafka", "azure.storage.queue", "azure.identity"} & set(sys.modules))
print(module.__file__, apps, functions, heavy, sep="|")
"""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    file, apps, functions, heavy = done.stdout.strip().split("|")
    assert Path(file) == ROOT / "function_app" / "__init__.py"
    assert (apps, functions, heavy) == ("['app']", str(sorted(FUNCTIONS)), "[]")


def test_the_root_shim_offers_the_same_app() -> None:
    """The file the host looks for is there, and whoever does run it gets the same app."""
    spec = importlib.util.spec_from_file_location("shim", ROOT / "function_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.app is function_app.app


def test_host_settings_keep_messages_while_redis_is_away() -> None:
    """A message whose mark failed comes back for days, not five times; an idle queue is looked at within seconds."""
    host = json.loads((ROOT / "host.json").read_text())
    queues = host["extensions"]["queues"]
    assert (host["version"], host["extensionBundle"]["version"]) == ("2.0", "[4.*, 5.0.0)")
    assert queues["visibilityTimeout"] == "00:00:30"
    assert queues["maxDequeueCount"] * 30 > 3 * 86_400
    assert queues["batchSize"] <= 32
    assert queues["messageEncoding"] == "none", "decode_queue_text reads both base64 and plain text"
    assert queues["maxPollingInterval"] == "00:00:02"


def test_what_is_not_deployed_holds_nothing_that_is() -> None:
    """.funcignore leaves in what the app imports."""
    lines = [line for line in (ROOT / ".funcignore").read_text().splitlines() if line and not line.startswith("#")]
    needed = {"function_app", "function_app.py", "federation", "reconciler", "host.json", "requirements.txt", "federation.toml"}
    assert not needed & set(lines)
    assert {"tests", ".venv", "local.settings.json", "infra", "fedplane"} <= set(lines)
