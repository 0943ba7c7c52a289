"""Coverage-guided fuzzing of every parser: ``python -m tests.fuzz.run --inputs 1000000``. Needs atheris (requirements/fuzz.txt).

Each target runs in a process of its own, since libFuzzer never returns. The input of a finding is written to the folder named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.seeds import seeds

_BYTES = {"metadata": 1024}
MOST_BYTES = 8192
"""Of an input; less where each character costs a step of instrumented Python."""
_SHARES = {"event_grid": 4, "vast": 3}
"""Of the inputs; every other target has one share."""


def main() -> int:
    """All targets, one after the other; 1 when one has a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="one only; then all inputs are its")
    parser.add_argument("--findings", default=".fedplane/fuzz", help="folder for inputs that broke a promise")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _fuzz(options.target, options.inputs, options.seed, options.findings)
    Path(options.findings).mkdir(parents=True, exist_ok=True)
    shares = {options.target: 1} if options.target else {target: _SHARES.get(target, 1) for target in seeds()}
    failed = []
    for target, share in shares.items():
        inputs = -(-options.inputs * share // sum(shares.values()))
        if not _run(target, inputs, options.seed, options.findings):
            failed.append(target)
    print(f"findings in {', '.join(failed)}; inputs are in {options.findings}" if failed else "no finding")
    return 1 if failed else 0


def _run(target: str, inputs: int, seed: int, findings: str) -> bool:
    words = ["--target", target, "--inputs", str(inputs), "--seed", str(seed), "--findings", findings, "--inside"]
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "tests.fuzz.run", *words], capture_output=True, text=True, check=False
    )
    told = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
    seconds = time.monotonic() - began
    ran: dict[str, Any] = json.loads(told) if told else {"inputs": 0, "outcomes": {}}
    good = done.returncode == 0 and ran["inputs"] >= inputs
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(ran["outcomes"].items(), key=lambda one: -one[1]))
    edges = next((word for line in reversed(done.stderr.splitlines()) if "cov: " in line for word in line.split()[3:4]), "?")
    print(f"{target}: {ran['inputs']} inputs in {seconds:.0f} s, coverage {edges}: {outcomes}", flush=True)
    if not good:
        print(done.stdout[-1000:] + done.stderr[-4000:], flush=True)
    return good


def _fuzz(target: str, inputs: int, seed: int, findings: str) -> None:
    import atheris  # noqa: PLC0415 - must come before what it instruments

    with atheris.instrument_imports(include=["federation"]):
        from tests.fuzz.mutate import mutated  # noqa: PLC0415
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    outcomes: Counter[str] = Counter()

    def one(data: bytes) -> None:
        outcomes[TARGETS[target](data)] += 1
        if outcomes.total() == inputs:
            print(json.dumps({"inputs": inputs, "outcomes": outcomes}), flush=True)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        return mutated(data, Random(number), lambda found: atheris.Mutate(found, most))[:most]

    with tempfile.TemporaryDirectory() as corpus:
        for number, text in enumerate(seeds()[target]):
            (Path(corpus) / str(number)).write_bytes(text)
        most = _BYTES.get(target, MOST_BYTES)
        flags = [f"-runs={inputs}", f"-seed={seed}", f"-max_len={most}", f"-artifact_prefix={findings}/", "-len_control=0"]
        atheris.Setup([sys.argv[0], *flags, corpus], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
