"""The stage about bad input: each mistake gets a clear message and a documented exit code, and nothing is lost."""

from __future__ import annotations

import base64
import json
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from azure.storage.queue import QueueClient

from tests.acceptance import verify
from tests.acceptance.lab import Lab, Results, lab
from tests.acceptance.users import BlobUser

_SECRET = "a shared secret of this stage"


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bad_input(results: Results) -> None:
    """Wrong settings, keys, containers and credentials; malformed, foreign and huge events."""
    port = _port()
    settings = {
        "FEDERATION__PAIR__DEMO__BLOB__EVENTS__WEBHOOK_LISTEN": f"127.0.0.1:{port}",
        "FEDERATION__PAIR__DEMO__BLOB__EVENTS__WEBHOOK_SECRET_ENV": "STAGE_SECRET",
        "STAGE_SECRET": _SECRET,
        "FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400",
    }
    with lab(results, "bad_input", settings) as the:
        _settings(the)
        _sides(the)
        _arguments(the)
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 60) is not None)
        _queue_events(the)
        _webhook_events(the, port)
        user = BlobUser(the.info)
        user.put("after/all this.txt", b"still works")
        arrived = the.until("arrival", lambda: verify.read_vast(the.sides, "after/all this.txt") is not None, 20)
        results.check("the engine still works afterwards", arrived is not None)
        user.close()
        log = (the.home / "engine.log").read_text()
        results.check("no secret in the engine's log", _SECRET not in log and the.info["secret_key"] not in log)
        results.check("no traceback in the engine's log", "Traceback" not in log)


def _refused(the: Lab, what: str, words: list[str], code: int, environment: dict[str, str], *names: str) -> None:
    done = the.cli(*words, environment=environment)
    said = done.stderr + done.stdout
    fine = done.returncode == code and all(name in said for name in names) and "Traceback" not in said
    told = f"{done.returncode}: {said.strip()[:300]}" if not fine else ""
    the.results.check(f"{what}: exit {code}, names {', '.join(names)}", fine, told)
    leaked = the.info["secret_key"] in said or the.info["account_key"] in said
    the.results.check(f"{what}: no secret in the message", not leaked)


def _settings(the: Lab) -> None:
    config = ["--config", str(the.config)]
    status = ["status", *config]
    _refused(the, "unknown setting", status, 2, {"FEDERATION__WORKER__CONCURENCY": "3"}, "worker.concurency", "unknown setting")
    _refused(the, "wrong value", status, 2, {"FEDERATION__WORKER__SHARDS": "many"}, "worker.shards")
    _refused(the, "no settings file", ["status", "--config", "/nowhere/federation.toml"], 2, {}, "/nowhere/federation.toml")
    broken = Path(the.home) / "broken.toml"
    broken.write_text("[redis\nurl = 3")
    _refused(the, "broken TOML", ["status", "--config", str(broken)], 2, {}, "broken.toml", "line 1")
    _refused(the, "unset variable", ["explain", "k", *config], 2, {"FEDPLANE_STACK_SECRET_KEY": ""}, "FEDPLANE_STACK_SECRET_KEY")


def _sides(the: Lab) -> None:
    run = ["run", "--config", str(the.config)]
    blob = {"FEDERATION__PAIR__DEMO__BLOB__CONTAINER": "not-there"}
    _refused(the, "missing container", run, 3, blob, "not-there")
    _refused(the, "missing bucket", run, 3, {"FEDERATION__PAIR__DEMO__VAST__BUCKET": "not-there"}, "not-there")
    wrong = base64.b64encode(b"wrong" * 12).decode()
    text = the.environment["FEDPLANE_STACK_BLOB"].replace(the.info["account_key"], wrong)
    _refused(the, "wrong Azure key", run, 3, {"FEDPLANE_STACK_BLOB": text}, "blob", "credentials")
    if the.info["s3_kind"] == "versitygw":  # moto checks no signatures
        _refused(the, "wrong S3 key", run, 3, {"FEDPLANE_STACK_SECRET_KEY": "wrong"}, "vast", "credentials")
    _refused(the, "Redis away", ["status", *run[1:]], 3, {"FEDERATION__REDIS__URL": f"redis://127.0.0.1:{_port()}/0"}, "Redis")
    _refused(the, "doctor with a missing container", ["doctor", *run[1:]], 3, blob, "not-there")


def _arguments(the: Lab) -> None:
    config = ["--config", str(the.config)]
    _refused(the, "unknown pair", ["status", "--pair", "other", *config], 2, {}, "other", "demo")
    _refused(the, "unknown command", ["statsu"], 2, {}, "statsu")
    _refused(the, "unknown conflict", ["conflicts", "show", "ffff", *config], 2, {}, "ffff")
    _refused(the, "unknown halt", ["lift", "nothing", *config], 2, {}, "nothing")
    _refused(the, "a key no side can hold", ["explain", "x" * 2000, *config], 0, {}, "1024", "UNKNOWN")


def _event(the: Lab, **changes: Any) -> dict[str, Any]:
    container = changes.pop("container", the.info["container"])
    name = changes.pop("name", "nothing.txt")
    return {
        "topic": the.info["account_id"],
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": "2026-11-21T00:00:00.0000000Z",
        "id": "1",
        "data": {"api": "PutBlob", "eTag": "0x8D", "contentLength": 1, "blobType": "BlockBlob", "url": "", "sequencer": "0"},
        "dataVersion": "",
        "metadataVersion": "1",
    } | changes


def _queue_events(the: Lab) -> None:
    text = the.environment["FEDPLANE_STACK_BLOB"]
    with QueueClient.from_connection_string(text, the.info["queue"]) as queue:
        for body in ("this is not base64 JSON", base64.b64encode(b"{broken").decode(), base64.b64encode(b"[1, 2]").decode()):
            queue.send_message(body)
        for event in (_event(the, topic="/subscriptions/0/somebody/else"), _event(the, container="other")):
            queue.send_message(base64.b64encode(json.dumps(event).encode()).decode())

    def counts() -> dict[str, int]:
        found: dict[str, int] = the.status()["processes"][0]["sources"]["event_grid_queue"]
        return found

    took = the.until("the odd messages are counted", lambda: counts().get("dead_lettered", 0) >= 3, 30)
    the.results.check("malformed messages are counted as dead letters", took is not None, counts())
    refused = {name: count for name, count in counts().items() if name.startswith("refused_")}
    the.results.check("events of another account and container are refused and counted", sum(refused.values()) == 2, refused)
    with QueueClient.from_connection_string(text, f"{the.info['queue']}-poison") as poison:
        kept = [message.content for message in poison.receive_messages(max_messages=10)]
    the.results.check(
        "the malformed ones are kept whole, with their reasons", len(kept) == 3 and all("reason" in one for one in kept)
    )


def _webhook_events(the: Lab, port: int) -> None:
    def post(body: bytes, secret: str = _SECRET) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/events", data=body, headers={"x-fedplane-key": secret})
        for _ in range(40):
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read().decode()
            except urllib.error.URLError as fault:
                if isinstance(fault.reason, ConnectionRefusedError):
                    time.sleep(0.25)
                    continue
                return 0, repr(fault)
        return 0, "not listening"

    malformed = post(b"{broken")
    the.results.check("webhook: malformed body gets 400 and a reason", malformed[0] == 400 and "error" in malformed[1], malformed)
    huge = post(json.dumps([_event(the, name="x" * 5_000_000)]).encode())
    the.results.check("webhook: a 5 MB event gets 413 and a reason", huge[0] == 413 and "error" in huge[1], huge[0])
    foreign = post(json.dumps([_event(the, topic="/subscriptions/0/somebody/else")]).encode())
    the.results.check(
        "webhook: another account's event is refused, not marked", foreign[0] == 200 and '"refused": 1' in foreign[1], foreign
    )
    the.results.check("webhook: a wrong secret gets 401", post(b"[]", "wrong")[0] == 401)
