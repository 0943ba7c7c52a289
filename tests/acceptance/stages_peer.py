"""Beside ``rclone copy`` on the same servers in one run: wall time, processor time, memory and requests."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fedplane.localstack.info import TOOLS_DIR
from tests.acceptance.lab import Lab, Results, lab
from tests.acceptance.stages_transfer import KIB, MIB, content, leases_kept, seed

RCLONE = "github.com/rclone/rclone@v1.75.1"
TUNED = ("--fast-list", "--transfers", "16", "--checkers", "16", "--s3-no-head", "--s3-no-check-bucket")
_SMALL, _LARGE = "small", "large"


@dataclass
class Cost:
    """What one copy of everything cost one process. ``start``: wall and CPU seconds of it before there was anything to copy."""

    wall_seconds: float
    cpu_seconds: float
    rss_mib: int
    start: tuple[float, float] = (0.0, 0.0)

    def told(self) -> dict[str, float]:
        """For the results."""
        return {"wall_s": round(self.wall_seconds, 1), "cpu_s": round(self.cpu_seconds, 1), "rss_mib": self.rss_mib}


def rclone_binary() -> str | None:
    """The peer; built by the Go toolchain the first time; None where there is none."""
    binary = TOOLS_DIR.absolute() / "bin" / "rclone"
    if binary.is_file():
        return str(binary)
    go = shutil.which("go")
    if shutil.which("rclone") or go is None:
        return shutil.which("rclone")
    environment = {**os.environ, "GOBIN": str(binary.parent)}
    binary.parent.mkdir(parents=True, exist_ok=True)
    built = subprocess.run([go, "install", RCLONE], env=environment, capture_output=True, timeout=1800, check=False)
    return str(binary) if built.returncode == 0 else None


def peer(results: Results) -> None:
    """20,000 x 1 KiB and 20 x 64 MiB, both directions, by rclone and by the engine, past the event proxies."""
    binary = rclone_binary()
    if binary is None:
        if results.full:
            results.check("rclone is there, or Go to build it", False)
        print("        not run: needs rclone, or Go to build it")
        return
    counts = {_LARGE: 8 if results.quick else 20, _SMALL: 2_000 if results.quick else 20_000}
    for kind, size in ((_LARGE, 64 * MIB), (_SMALL, KIB)):
        count = counts[kind]
        # moto refuses the access tier that rclone carries over.
        with lab(results, f"peer_{kind}", {}, s3="versitygw") as the:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda n, size=size: seed(the, "blob", f"{n:05d}", content(str(n), size)), range(count)))
            _compare(the, binary, kind, count)
            few = {_LARGE: 2, _SMALL: 200}[kind]
            for number in range(few):
                seed(the, "blob", f"few/{number:05d}", content(str(number), size))
            _count_requests(the, binary, kind, few)


def _compare(the: Lab, binary: str, kind: str, count: int) -> None:
    s3, container = the.sides.s3, the.info["container"]
    s3.create_bucket(Bucket="rclone-there")
    there = [
        _rclone(the, binary, f"blob:{container}", "vast:rclone-there"),
        _engine(the, "there", count, {"VAST__BUCKET": the.sides.bucket}),
    ]
    _tell(the, f"{kind}_blob_to_vast", there, count)
    for name in ("rclone-back", "engine-back"):
        _create_container(the, name)
    back = [
        _rclone(the, binary, "vast:rclone-there", "blob:rclone-back"),
        _engine(the, "back", count, {"VAST__BUCKET": "rclone-there", "BLOB__CONTAINER": "engine-back"}),
    ]
    _tell(the, f"{kind}_vast_to_blob", back, count)
    leases_kept(the)


def _count_requests(the: Lab, binary: str, kind: str, count: int) -> None:
    """Requests of both by operation, seen by the proxies, which would slow the copies that are timed. Start not counted."""
    container = the.info["container"]
    for name in ("few-there", "few-rclone", "few-engine"):
        the.sides.s3.create_bucket(Bucket=name)
        _create_container(the, name)
    few = f"blob:{container}/few"
    _rclone(the, binary, few, "vast:few-there")  # directly: of this no event tells
    there = {"BLOB__CONTAINER": container, "BLOB__PREFIX": "few/", "VAST__BUCKET": "few-engine"}
    back = {"BLOB__PREFIX": "", "BLOB__CONTAINER": "few-engine", "VAST__BUCKET": "few-there"}
    for name, source, target, places in (
        ("blob_to_vast", few, "vast:few-rclone", there),
        ("vast_to_blob", "vast:few-there", "blob:few-rclone", back),
    ):
        the.control("/stats/reset", "POST")
        _rclone(the, binary, source, target, direct=False)
        the.results.figure(f"{kind}_{name}_rclone_requests_for_{count}", _by_operation(the, "user"))
        _engine(the, f"few-{name.replace('_', '-')}", count, places, direct=False)
        the.results.figure(f"{kind}_{name}_engine_requests_for_{count}", _by_operation(the, "fedplane"))


def _by_operation(the: Lab, client: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for side, told in the.control("/stats").items():
        for row in told["requests"]:
            found[f"{side} {row['operation']}"] += row["count"] if row["client"] == client else 0
    return dict(+found)


def _create_container(the: Lab, name: str) -> None:
    from azure.storage.blob import BlobServiceClient  # noqa: PLC0415 - once

    with BlobServiceClient(the.info["blob_direct_endpoint"], credential=_key(the)) as service:
        service.create_container(name)


def _key(the: Lab) -> dict[str, str]:
    return {"account_name": the.info["account_name"], "account_key": the.info["account_key"]}


def _tell(the: Lab, name: str, costs: list[Cost], count: int) -> None:
    rclone, engine = costs
    the.results.figure(f"{name}_rclone", rclone.told())
    the.results.figure(f"{name}_engine", engine.told())
    the.results.figure(f"{name}_engine_start_wall_cpu_s", [round(seconds, 1) for seconds in engine.start])
    wall, cpu = engine.wall_seconds - engine.start[0], engine.cpu_seconds - engine.start[1]
    # A daemon starts once; so both ratios are told, of the whole run and of the copying.
    whole = (engine.wall_seconds / rclone.wall_seconds, engine.cpu_seconds / rclone.cpu_seconds)
    copying = (wall / rclone.wall_seconds, cpu / rclone.cpu_seconds)
    the.results.figure(f"{name}_engine_to_rclone_wall_cpu", [round(ratio, 2) for ratio in whole])
    the.results.figure(f"{name}_engine_to_rclone_wall_cpu_without_start", [round(ratio, 2) for ratio in copying])
    the.results.figure(f"{name}_engine_cpu_ms_an_object_without_start", round(1000 * cpu / count, 2))


def _rclone(the: Lab, binary: str, source: str, target: str, *, direct: bool = True) -> Cost:
    way = "_direct" if direct else ""
    environment = {
        **os.environ,
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_BLOB_TYPE": "azureblob",
        "RCLONE_CONFIG_BLOB_ACCOUNT": the.info["account_name"],
        "RCLONE_CONFIG_BLOB_KEY": the.info["account_key"],
        "RCLONE_CONFIG_BLOB_ENDPOINT": the.info[f"blob{way}_endpoint"],
        "RCLONE_CONFIG_VAST_TYPE": "s3",
        "RCLONE_CONFIG_VAST_PROVIDER": "Other",
        "RCLONE_CONFIG_VAST_ACCESS_KEY_ID": the.info["access_key"],
        "RCLONE_CONFIG_VAST_SECRET_ACCESS_KEY": the.info["secret_key"],
        "RCLONE_CONFIG_VAST_ENDPOINT": the.info[f"s3{way}_endpoint"],
        "RCLONE_CONFIG_VAST_FORCE_PATH_STYLE": "true",
    }
    started = time.monotonic()
    with (the.home / "rclone.log").open("ab") as log:
        process = subprocess.Popen([binary, "copy", *TUNED, source, target], env=environment, stdout=log, stderr=log)
        # What wait4 tells of its memory is that of this process at the fork.
        peak = 0
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, _peak_bytes(process.pid))
            time.sleep(0.02)
        _, status, used = ended
        process.returncode = os.waitstatus_to_exitcode(status)
    the.results.check(f"rclone copies {source} to {target}", process.returncode == 0)
    return Cost(time.monotonic() - started, used.ru_utime + used.ru_stime, peak // MIB)


def _peak_bytes(pid: int) -> int:
    """Peak resident memory so far; 0 when the process is just ending."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * KIB for line in lines if line.startswith("VmHWM:"))


def _engine(the: Lab, name: str, count: int, places: dict[str, str], *, direct: bool = True) -> Cost:
    """``fedplane run`` from its start, with nothing known, until all *count* keys were decided; its listing included."""
    the.log = the.home / f"{name}.jsonl"
    the.log.unlink(missing_ok=True)
    way = "_direct" if direct else ""
    blob, s3 = the.info[f"blob{way}_endpoint"], the.info[f"s3{way}_endpoint"]
    text = the.environment["FEDPLANE_STACK_BLOB"]
    for endpoint in (the.info["blob_endpoint"], the.info["blob_direct_endpoint"]):
        text = text.replace(endpoint, blob)
    the.environment |= {f"FEDERATION__PAIR__0__{place}": value for place, value in places.items()}
    the.environment |= {
        "FEDPLANE_STACK_BLOB": text,
        "FEDERATION__PAIR__0__NAME": name,
        "FEDERATION__PAIR__0__BLOB__ACCOUNT_URL": blob,
        "FEDERATION__PAIR__0__VAST__ENDPOINT": s3,
        "FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400",
        "FEDERATION__RECONCILE__QUIET_SECONDS": "0.1",
        "FEDERATION__LOG__LEVEL": "warning",  # decisions go to the file alone
    }
    started = time.monotonic()
    the.start_engine()
    the.until("its parts run", lambda: the.log.exists() and b'"source connected"' in the.log.read_bytes(), 60, every=0.02)
    start = time.monotonic() - started, the.cpu_seconds()
    if not direct:
        the.control("/stats/reset", "POST")
    done = the.until(f"{count} keys", lambda: _lines(the.log) >= count, 600, every=0.1)
    wall, cpu, peak = time.monotonic() - started, the.cpu_seconds(), the.rss_bytes("VmHWM")
    the.results.check(f"the engine copies everything ({name})", done is not None)
    the.stop_engine()
    return Cost(wall, cpu, peak // MIB, start)


def _lines(file: Path) -> int:
    return (
        file.read_bytes().count(b'"outcome": "settled"') + file.read_bytes().count(b'"outcome":"settled"') if file.exists() else 0
    )
