"""The functions as each Python that Azure offers finds them, with the packages of a deployment. Needs a package registry once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_function_index import ALWAYS, ROOT, indexed

_NEEDED = (
    "annotated-types",
    "azure-functions",
    "markupsafe",
    "pydantic",
    "pydantic-core",
    "typing-extensions",
    "typing-inspection",
    "werkzeug",
)
"""What indexing imports, and nothing more may be: an import of another package fails here."""
_PIN = re.compile(r"^([a-z0-9.-]+)==.*(?:\n    --hash.*)+\n", re.MULTILINE)
_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def _interpreter(version: str) -> str:
    """One of *version*: this one, on PATH, or pyenv's; empty: none is installed."""
    if version == "{}.{}".format(*sys.version_info):
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = [shutil.which(f"python{version}"), *(str(one / "bin" / "python") for one in sorted(versions.glob(f"{version}.*")))]
    for one in filter(None, found):
        told = subprocess.run([one, "-c", _VERSION], capture_output=True, text=True, check=False)  # noqa: S603
        if told.stdout.strip() == version:
            return one
    return ""


def _with_packages(interpreter: str, version: str) -> str:
    """*interpreter* with those packages; made once for each set of pins."""
    if interpreter == sys.executable:
        return interpreter
    pins = "".join(one[0] for one in _PIN.finditer((ROOT / "requirements.txt").read_text()) if one[1] in _NEEDED)
    home = ROOT / ".fedplane" / "pythons" / f"{version}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", home], check=True)  # noqa: S603
        (home / "pins.txt").write_text(pins)
        options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps", "-r", str(home / "pins.txt")]
        subprocess.run([python, "-m", "pip", "install", *options], check=True)  # noqa: S603
        (home / "ready").touch()
    return str(python)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_finds_the_same_functions(version: str, tmp_path: Path) -> None:
    """The list that a deployment has, whichever Python it asks for."""
    interpreter = _interpreter(version)
    if not interpreter:
        pytest.skip(f"Python {version} is not installed")
    code = "print('%d.%d' % sys.version_info[:2], *sorted(one.get_function_name() for one in functions), sep='|')"
    told, *functions = indexed(tmp_path, code, _with_packages(interpreter, version))
    assert told == version
    assert set(functions) == ALWAYS | {"change_feed", "event_grid_queue", "vast_events"}
