"""The Azure Functions app as the host finds it: the functions, their bindings, and what is deployed."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import function_app
from federation.function_settings import MOST_SECONDS, FunctionSettings
from federation.settings import Settings
from function_app.event_functions import PUSH_SECONDS
from function_app.visit import GRACE_SECONDS
from operations.exporters import FLUSH_SECONDS
from tests.functions_host.settings import EVERY_SOURCE
from tests.unit.function_index import index

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = {"health", "status", "explain", "doorbell", "sweep", "reconcile_start", "reconcile_range"}
_PIN = re.compile(r"^([a-z0-9.-]+)(?:\[[a-z0-9,]+\])?==(\S+)", re.MULTILINE)
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9]{0,127}")


def _pair(blob: dict[str, Any] | None = None, vast: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": "one",
        "blob": {"account_url": "https://acct.blob.core.windows.net", "container": "c"} | (blob or {}),
        "vast": {"endpoint": "https://vast.example", "bucket": "c", "access_key_env": "A", "secret_key_env": "S"} | (vast or {}),
    }


def _settings(*, blob: dict[str, Any] | None = None, vast: dict[str, Any] | None = None, **more: object) -> Settings:
    """One pair whose sources are as told."""
    return Settings.model_validate({"pair": [_pair(blob, vast)]} | more)


def _triggers(settings: Settings | None) -> dict[str, dict[str, Any]]:
    return {str(one.get_function_name()): json.loads(one.get_function_json())["bindings"][0] for one in index(settings)}


@pytest.mark.parametrize(
    ("settings", "functions"),
    [
        (_settings(), set()),
        (_settings(blob={"events": {"queue_url": "https://acct.queue.core.windows.net/q"}}), {"event_grid_queue"}),
        (_settings(functions={"event_grid": True}), {"event_grid"}),
        (_settings(blob={"events": {"webhook_secret_env": "W"}}), {"events"}),
        (
            _settings(
                blob={
                    "events": {
                        "namespace_endpoint": "https://ns.westus-1.eventgrid.azure.net",
                        "namespace_topic": "t",
                        "namespace_subscription": "s",
                    }
                }
            ),
            {"event_grid_pull"},
        ),
        (_settings(blob={"change_feed": {"enabled": True}}), {"change_feed"}),
        (_settings(vast={"events": {"bootstrap": ["b:9092"], "topic": "t"}}), {"vast_events"}),
    ],
)
def test_a_function_is_there_for_what_is_configured(settings: Settings, functions: set[str]) -> None:
    """And for nothing else; names of bindings are such as the host accepts (no underscore)."""
    triggers = _triggers(settings)
    assert set(triggers) == ALWAYS | functions
    assert all(_NAME.fullmatch(trigger["name"]) for trigger in triggers.values())


def test_each_pair_has_the_function_of_its_queue() -> None:
    """Names tell them apart; queue and connection are those of the settings."""
    queue = "https://acct.queue.core.windows.net/{}"
    one = _pair(blob={"events": {"queue_url": queue.format("a"), "connection_string_env": "OWN"}})
    two = _pair(blob={"container": "d", "events": {"queue_url": queue.format("b")}}) | {"name": "two"}
    triggers = _triggers(Settings.model_validate({"pair": [one, two]}))
    found = {name: (one["queueName"], one["connection"]) for name, one in triggers.items() if "event_grid_queue" in name}
    assert found == {"event_grid_queue_one": ("a", "OWN"), "event_grid_queue_two": ("b", "FEDERATION_QUEUE")}


def test_the_host_may_read_the_topic() -> None:
    """As a member of a group, with the app settings that hold user and password, and again after a failure."""
    events = {
        "bootstrap": ["a:9092", "b:9092"],
        "topic": "t",
        "security_protocol": "SASL_SSL",
        "sasl_username_env": "U",
        "sasl_password_env": "P",
    }
    settings = _settings(vast={"events": events}, functions={"vast_events": "kafka_trigger"})
    [found] = [one for one in index(settings) if one.get_function_name() == "vast_events"]
    trigger = json.loads(found.get_function_json())["bindings"][0]
    told = {name: trigger[name] for name in ("type", "brokerList", "topic", "consumerGroup", "protocol", "username", "password")}
    assert told == {
        "type": "kafkaTrigger",
        "brokerList": "a:9092,b:9092",
        "topic": "t",
        "consumerGroup": "fedplane-one",
        "protocol": "SASLSSL",
        "username": "%U%",
        "password": "%P%",
    }
    assert (found.get_settings_dict("retry_policy") or {})["max_retry_count"] == "-1"


def test_who_may_ask_is_said_by_the_bindings() -> None:
    """Health and the webhook, which asks for its own secret, are open; what shows names of objects needs a key."""
    levels = {
        name: trigger["authLevel"]
        for name, trigger in _triggers(_settings(blob={"events": {"webhook_secret_env": "W"}})).items()
        if trigger["type"] == "httpTrigger"
    }
    assert levels == {"health": "ANONYMOUS", "events": "ANONYMOUS", "status": "FUNCTION", "explain": "FUNCTION"}


def test_settings_that_cannot_be_read_leave_health() -> None:
    """An exception would leave no function at all, and nobody to ask why."""
    assert set(_triggers(None)) == {"health"}


def indexed(tmp_path: Path, code: str, python: str = sys.executable) -> list[str]:
    """What *code* prints in *python* after the app was indexed as the worker does, with settings that name every source."""
    file = tmp_path / "federation.toml"
    file.write_text(EVERY_SOURCE)
    begin = """
import importlib, socket, sys
socket.socket.connect = lambda *_: sys.exit("the network was asked for")
module = importlib.import_module('function_app')
functions = module.app.get_functions()
"""
    done = subprocess.run(  # noqa: S603 - an interpreter that we chose
        [python, "-c", begin + code],
        cwd=ROOT,
        env={"FEDERATION_CONFIG": str(file), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().split("|")


def test_the_worker_finds_one_app_with_light_imports(tmp_path: Path) -> None:
    """From the app's root: the package wins over the shim, holds one FunctionApp; indexing imports no SDK and asks no network."""
    file, apps, count, heavy = indexed(
        tmp_path,
        """
import azure.functions as func
apps = [name for name, value in vars(module).items() if isinstance(value, func.FunctionApp)]
names = {"redis", "fastavro", "boto3", "obstore", "aiohttp", "kafka", "azure.storage.queue", "azure.identity"}
print(module.__file__, apps, len(functions), sorted(names & set(sys.modules)), sep="|")
""",
    )
    assert Path(file) == ROOT / "function_app" / "__init__.py"
    assert (apps, count, heavy) == ("['app']", str(len(ALWAYS) + 3), "[]")


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


def test_no_decision_line_is_sampled_away() -> None:
    """The host drops nothing of what it logs of the functions, nor of their failures."""
    sampling = json.loads((ROOT / "host.json").read_text())["logging"]["applicationInsights"]["samplingSettings"]
    assert {"Trace", "Exception", "Request"} <= set(sampling["excludedTypes"].split(";"))


def test_what_is_not_deployed_holds_nothing_that_is() -> None:
    """.funcignore leaves in what the app imports."""
    lines = [line for line in (ROOT / ".funcignore").read_text().splitlines() if line and not line.startswith("#")]
    needed = {
        "function_app",
        "function_app.py",
        "federation",
        "operations",
        "reconciler",
        "host.json",
        "requirements.txt",
        "federation.toml",
    }
    assert not needed & set(lines)
    assert {"tests", ".venv", "local.settings.json", "infra", "fedplane"} <= set(lines)


def test_a_deployment_installs_what_was_tested() -> None:
    """requirements.txt, which the remote build reads, pins the versions of the lock, each by its hashes, and names no host."""
    pinned = {name: dict(_PIN.findall((ROOT / name).read_text())) for name in ("requirements.txt", "requirements/lock.txt")}
    deployed, tested = pinned["requirements.txt"], pinned["requirements/lock.txt"]
    assert {"azure-functions", "redis", "msgspec", "azure-monitor-opentelemetry-exporter"} <= deployed.keys()
    assert {name: tested.get(name) for name in deployed} == deployed
    assert "://" not in (ROOT / "requirements.txt").read_text()
    assert not {"pytest", "moto", "confluent-kafka"} & deployed.keys()


def test_every_function_ends_before_the_host_ends_it() -> None:
    """With what it does after its own time was over; a function that the host ends takes all others of its worker along."""
    hours, minutes, seconds = map(int, json.loads((ROOT / "host.json").read_text())["functionTimeout"].split(":"))
    times = FunctionSettings()
    longest = max(times.drain_seconds, times.doorbell_seconds, times.reading_seconds, times.scan_seconds)
    timeout_seconds = hours * 3600 + minutes * 60 + seconds
    assert 2 * longest < timeout_seconds
    for name in ("doorbell_seconds", "reading_seconds", "scan_seconds"):
        assert getattr(_settings(functions={name: MOST_SECONDS}).functions, name) == MOST_SECONDS
        with pytest.raises(ValidationError, match=f"functions.{name}"):
            _settings(functions={name: MOST_SECONDS + 1})
    assert timeout_seconds > MOST_SECONDS + GRACE_SECONDS + FLUSH_SECONDS + 30
    assert times.drain_seconds < PUSH_SECONDS < 30, "Event Grid waits 30 s"
