"""Stages about moving bytes: resume, memory, faults, fairness."""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from azure.storage.blob import BlobBlock, ContentSettings

from tests.acceptance import verify
from tests.acceptance.lab import Lab, Results, lab

KIB, MIB, GIB = 1024, 1024**2, 1024**3
PART_BYTES = 8 * MIB
ONCE = {
    "FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400",
    "FEDERATION__RECONCILE__QUIET_SECONDS": "0.5",
}
_SENDS = {"blob": ("put", "put_block"), "vast": ("put", "upload_part")}
_PARTS = {"blob": "put_block", "vast": "upload_part"}
_EVERY_SECONDS = 0.1
"""Between the small changes beside a load."""
_LOST_SECONDS = 120.0
"""What has not come by then, after the last, never comes."""


def content(key: str, size_bytes: int) -> bytes:
    """The bytes of *key*: repeatable, and no two places alike."""
    chance = random.Random(key)
    return b"".join(chance.randbytes(min(16 * MIB, size_bytes - at)) for at in range(0, size_bytes, 16 * MIB))


def seed(the: Lab, side: str, key: str, data: bytes) -> None:
    """Write past the proxies, with a hash of the content where the side keeps one."""
    if side == "blob":
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        settings = ContentSettings(content_type="application/octet-stream", content_md5=bytearray(md5))
        the.sides.container.upload_blob(key, data, overwrite=True, content_settings=settings)
    else:
        the.sides.s3.put_object(Bucket=the.sides.bucket, Key=key, Body=data, ContentType="application/octet-stream")


def seed_without_a_hash(the: Lab, side: str, key: str, data: bytes) -> None:
    """Write past the proxies in parts, as many tools do: then neither side says what the content hashes to."""
    parts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    if side == "blob":
        blob = the.sides.container.get_blob_client(key)
        names = [f"{number:08d}" for number in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            blob.stage_block(name, part)
        blob.commit_block_list(
            [BlobBlock(name) for name in names], content_settings=ContentSettings(content_type="application/octet-stream")
        )
        return
    s3, where = the.sides.s3, {"Bucket": the.sides.bucket, "Key": key}
    upload = {**where, "UploadId": s3.create_multipart_upload(**where, ContentType="application/octet-stream")["UploadId"]}
    tags = [s3.upload_part(**upload, PartNumber=number, Body=part)["ETag"] for number, part in enumerate(parts, 1)]
    told = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": told})


def calls(the: Lab, side: str, *operations: str) -> int:
    """Requests of the engine on *side* that the server confirmed."""
    rows = the.control("/stats")[side]["requests"]
    return sum(
        row["count"]
        for row in rows
        if (row["client"], row["status"]) == ("fedplane", "2xx") and (not operations or row["operation"] in operations)
    )


def sent_bytes(the: Lab) -> int:
    """Bytes of content that the engine sent, arrived or not."""
    found = the.control("/stats")
    return sum(
        row["bytes"]
        for side, operations in _SENDS.items()
        for row in found[side]["bytes"]
        if (row["client"], row["of"]) == ("fedplane", "request") and row["operation"] in operations
    )


def said(the: Lab, event: str) -> list[dict[str, Any]]:
    """Lines of the engine's log of one event."""
    lines = (json.loads(line) for line in (the.home / "engine.log").read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]


def leases_kept(the: Lab) -> None:
    """Whether every lease was renewed in time, and how late the engine got to it at most."""
    lost = said(the, "lease lost") + said(the, "leases lost")
    held_up = [float(line["late_seconds"]) for line in said(the, "this process was held up: leases are looked after late")]
    the.results.check("no lease was lost", not lost, f"{len(lost)} lost, held up for {max(held_up, default=0.0)} s at most")


def finished(the: Lab, seconds: float) -> bool:
    """Whether status comes to say that nothing is left to do."""
    return the.until("in step", the.settled, seconds, every=0.5) is not None


def finished_anew(the: Lab, seconds: float) -> bool:
    """As ``finished``, of an engine that was stopped while users wrote: until it has listed, what it said before still holds."""
    listed = the.until("equal listings", lambda: not verify.differ_by_name(the.sides), seconds, every=0.5)
    return listed is not None and finished(the, seconds)


# ----------------------------------------------------------------------------------------------------------------- resume


def resumed(results: Results) -> None:
    """SIGKILL in the middle of one large object each way: parts that arrived are not sent again."""
    size = 64 * MIB if results.quick else 256 * MIB
    for side, other in (("blob", "vast"), ("vast", "blob")):
        with lab(results, f"resumed_{side}", ONCE) as the:
            data = content(side, size)
            seed(the, side, "large", data)
            (the.home / "engine.log").unlink(missing_ok=True)
            the.control(f"/faults/{other}", "PUT", {"requests": {"latency_ms": 150, "client": "fedplane"}})
            parts = size // PART_BYTES
            the.start_engine()
            half = the.until("half of the parts", partial(_sent_at_least, the, other, parts // 2), 120, every=0.02)
            the.kill_engine()
            results.check(f"{side}: killed midway", half is not None and calls(the, other, _PARTS[other]) < parts)
            _drained(the, other)
            before = calls(the, other, _PARTS[other])
            the.control(f"/faults/{other}", "PUT", {})
            the.start_engine()
            results.check(f"{side}: in step after the restart", finished(the, 240))
            after = calls(the, other, _PARTS[other]) - before
            recorded = _recorded_parts(the)
            results.figure(f"{side}_to_{other}_parts_before_recorded_after_of", [before, recorded, after, parts])
            results.check(f"{side}: parts that were recorded are not sent again", 0 < recorded == parts - after, after)
            # Those under way when it was killed may have arrived without a record.
            results.check(f"{side}: nearly all that arrived were recorded", before - recorded <= 6, before - recorded)
            _intact(the, {"large": hashlib.md5(data, usedforsecurity=False).hexdigest()})


def _recorded_parts(the: Lab) -> int:
    """As the engine told when it went on."""
    return sum(int(line["parts"]) for line in said(the, "going on with a transfer"))


def _drained(the: Lab, side: str) -> None:
    """What the proxy had received of the dead process goes on to the server: wait until nothing more arrives."""
    seen: list[int] = []

    def quiet() -> bool:
        seen.append(calls(the, side, _PARTS[side]))
        return len(seen) > 6 and len(set(seen[-6:])) == 1

    the.until("nothing more arrives", quiet, 60, every=0.5)


def _sent_at_least(the: Lab, side: str, parts: int) -> bool:
    return calls(the, side, _PARTS[side]) >= parts


def _intact(the: Lab, expected: dict[str, str]) -> None:
    wrong = []
    for key, md5 in expected.items():
        held = (verify.read_blob(the.sides, key), verify.read_vast(the.sides, key))
        wrong += [key for one in held if one is None or one.md5 != md5]
    the.results.check("every object is what its user wrote, on both sides", not wrong, wrong[:3] or len(expected))


# ----------------------------------------------------------------------------------------------------------------- memory


def parallel(results: Results) -> None:
    """200 transfers of mixed sizes at once within a budget of 64 MiB: the engine's resident memory."""
    budget = 64 * MIB
    count = 50 if results.quick else 200
    settings = ONCE | {
        "FEDERATION__WORKER__CONCURRENCY": "200",
        "FEDERATION__TRANSFER__PARALLEL_LARGE": "32",
        "FEDERATION__TRANSFER__MEMORY_BYTES": str(budget),
    }
    with lab(results, "parallel", settings) as the:
        the.start_engine()
        results.check("starts", finished(the, 60))
        idle = the.rss_bytes()
        sizes = [(1 + number % 24) * MIB for number in range(count)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: seed(the, "vast" if n % 2 else "blob", f"o{n}", content(f"o{n}", sizes[n])), range(count)))
        the.stop_engine()
        the.start_engine()
        results.check("all in step", finished_anew(the, 300))
        results.figure("bytes_moved", sum(sizes))
        peak = the.rss_bytes("VmHWM")
        results.figure("rss_mib_idle_peak", [idle // MIB, peak // MIB])
        # Beside the budget: one part being joined, what sockets hold of each answer, and the allocator's slack.
        results.check("resident memory stays near the budget", peak - idle < 2 * budget, f"{(peak - idle) / budget:.2f} x")
        results.check("equal", not verify.differ(the.sides))
        leases_kept(the)


# ----------------------------------------------------------------------------------------------------------------- faults


def _mixed_sizes(results: Results, rng: random.Random) -> list[int]:
    """500 sizes from 0 B to 256 MiB, most of them small, with the borders of a part among them."""
    borders = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 2 * PART_BYTES + 1]
    large = [64 * MIB, 64 * MIB + 1] if results.quick else [256 * MIB, 256 * MIB - 1, 128 * MIB, 64 * MIB, 64 * MIB + 1]
    count = 100 if results.quick else 500
    rest = [int(math.exp(rng.uniform(0, math.log(12 * MIB)))) for _ in range(count - len(borders) - len(large))]
    return [*borders, *large, *rest]


def faulty(results: Results) -> None:
    """500 transfers of 0 B to 256 MiB through proxies that cut, refuse and corrupt: equal, no damaged byte committed.

    Of a third of them the source knows no hash.
    """
    rng = random.Random(6)
    sizes = _mixed_sizes(results, rng)
    with lab(results, "faulty", ONCE) as the:
        md5s = {}
        for number, size in enumerate(sizes):
            key = f"{number:03d}-{size}"
            data = content(key, size)
            md5s[key] = hashlib.md5(data, usedforsecurity=False).hexdigest()
            without = size > 0 and number % 6 in (2, 5)
            (seed_without_a_hash if without else seed)(the, ("blob", "vast")[number % 2], key, data)
        knobs = {"cut": 0.01, "cut_midway": 0.03, "corrupt": 0.02, "error": 0.01, "retry_after_seconds": 1, "client": "fedplane"}
        for side, status in (("blob", 503), ("vast", 429)):
            the.control(f"/faults/{side}", "PUT", {"requests": {**knobs, "status": status}})
        started = time.monotonic()
        the.start_engine()
        results.check("in step although the faults go on", finished(the, 1800))
        results.figure("seconds", round(time.monotonic() - started, 1))
        _tell_faults(the, sum(sizes))
        for side in ("blob", "vast"):
            the.control(f"/faults/{side}", "PUT", {})
        _intact(the, md5s)
        leases_kept(the)
        results.check("no false conflict", the.ask("conflicts", "--limit", "0") == [])
        results.check("nothing parked", the.ask("parked") == [])


def _tell_faults(the: Lab, whole_bytes: int) -> None:
    found = the.control("/stats")
    injected: Counter[str] = Counter()
    for side in ("blob", "vast"):
        injected.update(found[side]["injected"])
    sent = sent_bytes(the)
    decisions = [json.loads(line) for line in the.log.read_text().splitlines()]
    the.results.figure("injected", dict(injected))
    the.results.figure("content_bytes", whole_bytes)
    the.results.figure("sent_again_bytes", sent - whole_bytes)
    the.results.figure("sent_again_share", round((sent - whole_bytes) / whole_bytes, 3))
    the.results.figure("keys_tried_again", sum(line.get("outcome") == "deferred" for line in decisions))
    the.results.check("bytes were corrupted", injected["corrupted"] > 0, injected["corrupted"])
    the.results.check("streams were cut midway", injected["cuts_midway"] > 0, injected["cuts_midway"])


# --------------------------------------------------------------------------------------------------------------- fairness


def bulk(results: Results) -> None:
    """Small changes beside a bulk load of large objects and many old keys: how long they take, and without it."""
    count, large, enough = (2_000, 4, 10) if results.quick else (20_000, 16, 200)
    with lab(results, "bulk", ONCE) as the:
        the.start_engine()
        results.check("starts", finished(the, 60))
        quiet = _small_changes(the, "quiet", max(40, enough), lambda: True)
        the.stop_engine()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: seed(the, "blob", f"old/{n}", content(str(n), 2 * KIB)), range(count)))
            list(pool.map(lambda n: seed(the, "vast", f"large/{n}", content(str(n), 64 * MIB)), range(large)))
        before = calls(the, "vast", "put")
        the.start_engine()
        the.until("the load begins", lambda: calls(the, "vast", "put") > before + 10, 60, every=0.05)
        loaded = _small_changes(the, "loaded", 2 * enough, lambda: calls(the, "vast", "put") < before + 0.9 * count)
        results.check("enough small changes fell into the load", len(loaded[0]) >= enough, len(loaded[0]))
        for name, (puts, delays) in (("alone", quiet), ("beside the load", loaded)):
            results.figure(f"small_change_p50_p95_p99_max_seconds_{name}_of_{len(delays)}", _spread(delays))
            results.figure(f"the_users_own_write_p50_p95_p99_max_seconds_{name}", _spread(puts))
        results.check("all in step in the end", finished(the, 300))
        leases_kept(the)


def _spread(seconds: list[float]) -> list[float]:
    """The least times within which half, 95 % and 99 % of the changes came, and all."""
    ordered = sorted(seconds)
    return [round(ordered[math.ceil(len(ordered) * share) - 1], 2) for share in (0.5, 0.95, 0.99, 1)]


def _small_changes(the: Lab, prefix: str, count: int, goes_on: Callable[[], bool]) -> tuple[list[float], list[float]]:
    """Write small blobs through the event proxy, ten a second: seconds of each write, and then until it is on the other side.

    The next write does not wait for the one before, or slow changes would be counted less often than quick ones.
    """
    from tests.acceptance.users import BlobUser  # noqa: PLC0415 - one user, here only

    user, waiting = BlobUser(the.info), dict[str, float]()
    puts: list[float] = []
    delays: list[float] = []
    due = last = time.monotonic()
    more = True
    while more or (waiting and time.monotonic() - last < _LOST_SECONDS):
        if more and time.monotonic() >= due:
            begun = time.monotonic()
            user.put(f"{prefix}/{len(puts)}", b"small")
            last = waiting[f"{prefix}/{len(puts)}"] = time.monotonic()
            puts.append(last - begun)
            due = max(due + _EVERY_SECONDS, last)
            more = len(puts) < count and goes_on()
        there = _on_vast(the, prefix)
        now = time.monotonic()
        delays += [now - waiting.pop(key) for key in there & waiting.keys()]
        time.sleep(0.02)
    user.close()
    the.results.check(f"{prefix}: every small change arrived", not waiting, sorted(waiting)[:3] or len(puts))
    return puts, delays + [_LOST_SECONDS] * len(waiting)


def _on_vast(the: Lab, prefix: str) -> set[str]:
    found = the.sides.s3.list_objects_v2(Bucket=the.sides.bucket, Prefix=f"{prefix}/", MaxKeys=1_000)
    return {entry["Key"] for entry in found.get("Contents", ())}
