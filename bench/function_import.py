"""What the functions app costs before its first invocation: indexing it, beside importing the library that it is written with.

python bench/function_import.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.functions_host.settings import EVERY_SOURCE

ROUNDS = 9
ROOT = Path(__file__).resolve().parents[1]
FLOOR = "import azure.functions, pydantic; pydantic.BaseModel"
INDEXED = "import function_app; function_app.app.get_functions()"
FIRST = f"{INDEXED}; import function_app.process, function_app.sweeping, function_app.readers, function_app.scans"
CLOCKED = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def seconds(code: str, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU of *code* in fresh interpreters, the medians; starting the interpreter is not counted."""
    found = []
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", CLOCKED.format(code)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
        found.append(tuple(map(float, done.stdout.split())))
    return statistics.median(wall for wall, _ in found), statistics.median(cpu for _, cpu in found)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as home:
        file = Path(home, "federation.toml")
        file.write_text(EVERY_SOURCE)
        environment = os.environ | {"FEDERATION_CONFIG": str(file), "PYTHONPATH": str(ROOT)}
        cases = {"azure.functions and pydantic": FLOOR, "the app, indexed": INDEXED, "with its first invocation": FIRST}
        found = {name: seconds(code, environment) for name, code in cases.items()}
    (_, floor), *_ = found.values()
    for name, (wall, cpu) in found.items():
        print(f"{name:32} {wall:6.2f} s  CPU {cpu:6.2f} s  {cpu / floor:5.1f} x")


if __name__ == "__main__":
    main()
