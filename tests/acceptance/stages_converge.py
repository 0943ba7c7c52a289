"""Stages about two sides that become equal: real files, a second run, an emptied Redis, writes no event told of."""

from __future__ import annotations

import hashlib
import mimetypes
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis

from tests.acceptance import verify
from tests.acceptance.lab import NO_DELETE_LIMIT, Lab, Results, lab
from tests.acceptance.users import BlobUser, VastUser

LARGE_BYTES = 256 * 1024 * 1024
_QUIET = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400"}
"""Only the scan on start: what happens then is the stage's own doing."""


def _library(count: int) -> list[tuple[str, bytes]]:
    """Real files of this machine: Python's library and its packages, relative names and contents."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: list[tuple[str, bytes]] = []
    for base in (root, Path(sysconfig.get_paths()["purelib"])):
        for file in sorted(base.rglob("*")):
            if len(found) == count:
                return found
            if file.is_file() and "__pycache__" not in file.parts and file.stat().st_size < 4_000_000:
                found.append((f"{base.name}/{file.relative_to(base).as_posix()}", file.read_bytes()))
    return found


def _put(user: BlobUser | VastUser, name: str, data: bytes) -> None:
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    user.put(name, data, guessed, {"origin": "library", "size": str(len(data))})


def _fill(the: Lab, files: list[tuple[str, bytes]]) -> None:
    """Half of *files* on each side, past the proxies' counters of the engine but through them, as users do."""
    local = threading.local()
    users: list[BlobUser | VastUser] = []

    def one(index: int) -> None:
        if not hasattr(local, "users"):
            local.users = (BlobUser(the.info), VastUser(the.info))
            users.extend(local.users)
        _put(local.users[index % 2], *files[index])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(len(files))))
    for user in users:
        user.close()


def real_input(results: Results) -> None:
    """Thousands of real files, one large object, and keys that differ on both sides: equal, and each loser readable."""
    count, both, large = (600, 40, 40 * 1024 * 1024) if results.quick else (5_000, 200, LARGE_BYTES)
    with lab(results, "real_input", _QUIET | NO_DELETE_LIMIT) as the:
        files = _library(count + both)
        results.check(f"there are {count} real files", len(files) == count + both, len(files))
        _fill(the, files[:count])
        seed = hashlib.sha256(b"large").digest() * 1024
        block = (seed * (large // len(seed) + 1))[:large]
        blob, vast = BlobUser(the.info), VastUser(the.info)
        blob.container.upload_blob("large/object.bin", block, overwrite=True, max_concurrency=2)
        written = _fill_both(blob, vast, files[count:])
        the.control("/stats/reset", "POST")
        started = time.monotonic()
        the.start_engine()
        took = the.until("first sync", the.settled, 900, every=1.0)
        results.check("the first sync ends and status says in step", took is not None)
        results.figure("first_sync_seconds", round(time.monotonic() - started, 1))
        results.figure("objects", count + both + 1)
        results.figure("requests_per_object", round(the.requests() / (count + both + 1), 3))
        results.figure("engine_cpu_ms_per_object", round(1000 * the.cpu_seconds() / (count + both + 1), 2))
        results.figure("engine_rss_peak_mib", round(the.rss_bytes("VmHWM") / 2**20, 1))
        differences = verify.differ(the.sides, lambda compared: results.figure("keys_compared_byte_for_byte", compared))
        results.check("bytes, content types and user metadata are equal", not differences, "; ".join(differences[:3]))
        _check_losers(the, written, both)
        results.check("SIGTERM ends it cleanly", the.stop_engine() == 0)
        for user in (blob, vast):
            user.close()


def _fill_both(blob: BlobUser, vast: VastUser, files: list[tuple[str, bytes]]) -> dict[str, dict[str, str]]:
    """The same keys with different content on both sides; MD5 by key and side."""
    written: dict[str, dict[str, str]] = {}
    for index, (name, data) in enumerate(files):
        key = f"both/{name}"
        here, there = b"blob's users wrote this\n" + data, b"vast's users wrote this\n" + data
        for user, content in ((blob, here), (vast, there)) if index % 2 else ((vast, there), (blob, here)):
            user.put(key, content, "text/plain", {"side": user.side})
        written[key] = {"blob": _md5(here), "vast": _md5(there)}
    return written


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _check_losers(the: Lab, written: dict[str, dict[str, str]], both: int) -> None:
    listed = the.ask("conflicts", "--limit", "0")
    keys = {one["conflict"]["key"] for one in listed}
    the.results.check(f"the {both} conflicts are listed, and no others", keys == set(written), len(keys))
    lost = 0
    for one in listed:
        record: dict[str, Any] = one["conflict"]
        loser, winner = record["loser_side"], record["winner_side"]
        read = verify.read_blob if loser == "blob" else verify.read_vast
        kept = read(the.sides, record["preserved_as"])
        current = verify.read_blob(the.sides, record["key"])
        fine = kept is not None and kept.md5 == written[record["key"]][loser]
        fine = fine and current is not None and current.md5 == written[record["key"]][winner]
        lost += not fine
    the.results.check("each loser is read back byte for byte, and the winner is current", len(listed) == both and not lost, lost)


def second_run(results: Results) -> None:
    """A reconcile on equal sides writes nothing; a dry run too."""
    with lab(results, "second_run", _QUIET) as the:
        _fill(the, _library(300))
        the.start_engine()
        results.check("first sync", the.until("in step", the.settled, 120) is not None)
        the.stop_engine()
        the.control("/stats/reset", "POST")
        report = the.ask("reconcile")
        writes = the.requests(methods=("PUT", "POST", "DELETE", "PATCH"))
        results.check("a reconcile on equal sides makes 0 writes", writes == 0, writes)
        drift = report["report"]["drift"]
        results.check("and finds nothing changed", set(drift) <= {"to_be_verified"}, drift)
        results.figure("requests_of_the_first_reconcile", the.requests())
        the.control("/stats/reset", "POST")
        again = the.ask("reconcile")
        results.check("the next one makes list requests only", the.requests(methods=("PUT", "POST", "DELETE", "HEAD")) == 0)
        results.check("all keys are in step", again["report"]["in_step"] == 300 and not again["report"]["drift"])
        user = BlobUser(the.info)
        user.put("new.txt", b"new")
        user.close()
        before = _redis_dump(the)
        the.control("/stats/reset", "POST")
        dry = the.ask("reconcile", "--dry-run")
        results.check("a dry run tells the one difference", dry["differences"] == 1, dry)
        results.check("and writes nothing to storage", the.requests(methods=("PUT", "POST", "DELETE")) == 0)
        results.check("nor to Redis", _redis_dump(the) == before)


def _redis_dump(the: Lab) -> dict[Any, Any]:
    client = redis.Redis.from_url(the.info["redis_url"])
    try:
        return {key: client.dump(key) for key in client.keys("*")}
    finally:
        client.close()


def redis_emptied(results: Results) -> None:
    """With its Redis emptied while stopped it converges with no delete and copies nothing that was equal."""
    count = 120 if results.quick else 1_000
    with lab(results, "redis_emptied", _QUIET) as the:
        files = _library(count)
        _fill(the, files)
        blob, vast = BlobUser(the.info), VastUser(the.info)
        blob.container.upload_blob("large/multipart.bin", bytes(20_000_000), overwrite=True)
        the.start_engine()
        results.check("first sync", the.until("in step", the.settled, 240) is not None)
        the.stop_engine()
        client = redis.Redis.from_url(the.info["redis_url"])
        client.flushall()
        client.close()
        blob.delete(files[0][0])
        vast.put("while/away.txt", b"written while the engine was away")
        the.control("/stats/reset", "POST")
        the.start_engine()
        results.check("it converges again", the.until("in step", the.settled, 240) is not None)
        deletes = sum(
            row["count"]
            for side in ("blob", "vast")
            for row in the.control("/stats")[side]["requests"]
            if row["client"] == "fedplane" and row["operation"] == "delete"
        )
        results.check("0 deletes beside its own probes", deletes == 0, deletes)
        copied = len(files[0][1]) + len(b"written while the engine was away")
        sent = the.body_bytes()
        results.check("0 bytes copied for keys that were equal", sent < copied + 4096, f"{sent} bytes sent, {copied} were news")
        results.check("equal", not verify.differ(the.sides))
        restored = verify.read_blob(the.sides, files[0][0])
        results.check("an object deleted meanwhile is brought back, not deleted on the other side", restored is not None)
        results.check("no conflict", not the.ask("conflicts", "--limit", "0"))
        for user in (blob, vast):
            user.close()


def no_events(results: Results) -> None:
    """Writes past the S3 proxy have no event: the scan finds them; an object that still grows is not copied half."""
    settings = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "3", "FEDERATION__RECONCILE__QUIET_SECONDS": "4"} | NO_DELETE_LIMIT
    with lab(results, "no_events", settings) as the:
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 60) is not None)
        silent = VastUser(the.info, direct=True)
        for number in range(50):
            silent.put(f"nfs/file-{number:03d}.txt", f"written past the proxy {number}".encode())
        seen: set[int] = set()
        final = _grow(the, silent, seen)
        _overwrite_in_place(the)
        took = the.until("found by the scan", lambda: not verify.differ(the.sides), 60, every=1.0)
        results.check("what no event told of is found by the scan", took is not None)
        told = verify.differ(the.sides)
        results.check("equal", not told, told[:3])
        results.check("a growing object is copied only when whole", seen <= {final}, sorted(seen))
        silent.delete("nfs/file-000.txt")
        gone = the.until("gone", lambda: verify.read_blob(the.sides, "nfs/file-000.txt") is None, 40)
        results.check("a delete past the proxy travels", gone is not None)
        silent.close()


def _overwrite_in_place(the: Lab) -> None:
    """What a file client does to objects that S3 wrote, where the server's namespace is at hand as files."""
    if the.info["s3_posix_dir"]:
        folder = Path(the.info["s3_posix_dir"]) / the.info["bucket"] / "nfs"
        (folder / "file-001.txt").write_bytes(b"longer than it was when S3 wrote it")
        file = folder / "file-002.txt"
        file.write_bytes(file.read_bytes().upper())
        (folder / "file-003.new").write_bytes(b"renamed over it")
        (folder / "file-003.new").replace(folder / "file-003.txt")


def _grow(the: Lab, silent: VastUser, seen: set[int]) -> int:
    """Let one object grow for a while, watching which of its sizes appear on the other side; its last size."""
    posix = Path(the.info["s3_posix_dir"]) / the.info["bucket"] if the.info["s3_posix_dir"] else None
    size, until = 0, time.monotonic() + 14
    while time.monotonic() < until:
        size += 100_000
        if posix is not None:
            (posix / "nfs").mkdir(parents=True, exist_ok=True)
            with (posix / "nfs" / "growing.bin").open("ab") as file:
                file.write(b"x" * 100_000)
        else:
            silent.put("nfs/growing.bin", b"x" * size, "application/octet-stream")
        _look(the, seen)
        time.sleep(0.7)
    the.until("the grown object arrives", lambda: _look(the, seen) == size, 40, every=0.2)
    return size


def _look(the: Lab, seen: set[int]) -> int:
    there = verify.read_blob(the.sides, "nfs/growing.bin")
    if there is None:
        return 0
    seen.add(there.size_bytes)
    return there.size_bytes
