"""The deployment templates fit each other and the app. They are not compiled here: that needs the bicep compiler."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from federation.errors import UsageError
from federation.function_settings import FunctionSettings
from federation.settings import Settings, load, secret

INFRA = Path(__file__).resolve().parents[2] / "infra"
TEMPLATES = sorted(INFRA.rglob("*.bicep"))
_PARAM = re.compile(r"^param (\w+) [\w\[\]]+( =)?", re.MULTILINE)
_OUTPUT = re.compile(r"^output (\w+) ", re.MULTILINE)
_MODULE = re.compile(r"^module (\w+) '([^']+)' = \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_GIVEN = re.compile(r"^    (\w+): ", re.MULTILINE)
_GUID = re.compile(r"'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'")


def _code(file: Path) -> str:
    return re.sub(r"(?<!:)//.*", "", file.read_text())


def _params(file: Path) -> dict[str, bool]:
    """Names, and whether each must be given."""
    if file.suffix == ".json":
        return {name: "defaultValue" not in one for name, one in json.loads(file.read_text())["parameters"].items()}
    return {name: not default for name, default in _PARAM.findall(_code(file))}


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_brackets_close_and_parameters_are_used(file: Path) -> None:
    """What is opened is closed; what is asked for is used; no secret has a default."""
    text = _code(file)
    for opening, closing in ("{}", "[]", "()"):
        assert text.count(opening) == text.count(closing), opening
    assert text.count("'") % 2 == 0
    for name in _params(file):
        assert len(re.findall(rf"\b{name}\b", text)) > 1, name
    assert not re.search(r"@secure\(\)\nparam \w+ string =", text)


def test_every_module_is_there_and_is_given_what_it_asks_for() -> None:
    """By name; what is read of a module is one of its outputs."""
    main = _code(INFRA / "main.bicep")
    modules = {name: (INFRA / path, body) for name, path, body in _MODULE.findall(main)}
    assert {path.name for path, _ in modules.values()} == {file.name for file in (INFRA / "modules").iterdir()} | {"alerts.json"}
    for path, body in modules.values():
        asked = _params(path)
        given = set(_GIVEN.findall(body.partition("params: {")[2]))
        assert {name for name, required in asked.items() if required} <= given <= asked.keys(), path
    for name, output in re.findall(r"\b(\w+)\.outputs\.(\w+)", main):
        assert output in _OUTPUT.findall(modules[name][0].read_text()), (name, output)


def test_the_parameters_file_gives_what_has_no_default() -> None:
    """And nothing else."""
    given = json.loads((INFRA / "main.parameters.json").read_text())["parameters"].keys()
    asked = _params(INFRA / "main.bicep")
    assert {name for name, required in asked.items() if required} <= given <= asked.keys()


def test_roles_are_those_that_are_meant() -> None:
    """By their ids (facts/azure.md 9.3): nothing like Owner or Contributor of a scope."""
    known = {
        "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
        "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
        "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3": "Storage Table Data Contributor",
        "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": "Storage Blob Data Reader",
        "19e7f393-937e-4f77-808e-94535e297925": "Storage Queue Data Reader",
        "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
        "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a": "Storage Queue Data Message Sender",
        "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
        "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    }
    assert {role for file in TEMPLATES for role in _GUID.findall(_code(file))} == known.keys()


def test_queues_are_those_that_the_app_listens_to() -> None:
    """The app's own have the names of the settings' defaults."""
    text = (INFRA / "modules" / "storage.bicep").read_text()
    defaults = FunctionSettings()
    for name in (defaults.doorbell_queue, defaults.reconcile_queue):
        assert f"'{name}'" in text
    assert f"{defaults.event_connection}__queueServiceUri" in (INFRA / "modules" / "app.bicep").read_text()


FILE = """
[[pair]]
name = "datasets"
[pair.blob]
account_url = "https://acct.blob.core.windows.net"
container = "datasets"
[pair.vast]
endpoint = "https://vast.example"
bucket = "datasets"
access_key_env = "VAST_ACCESS_KEY"
secret_key_env = "VAST_SECRET_KEY"
"""
"""As infra/README.md tells to write it."""


def _read(tmp_path: Path, environment: dict[str, str]) -> Settings:
    file = tmp_path / "federation.toml"
    file.write_text(FILE)
    return load(file, {name: value for name, value in environment.items() if name.startswith("FEDERATION__")})


def test_app_settings_make_the_settings_whole(tmp_path: Path) -> None:
    """With the file that infra/README.md tells to write, the app settings of the template are read without a complaint."""
    told = re.findall(r"^  ([A-Z]\w+__\w+): (.+)$", (INFRA / "modules" / "app.bicep").read_text(), re.MULTILINE)
    environment = {name: re.sub(r"\$\{[^}]+\}", "https://x.example/", value.strip("'")) for name, value in told}
    read = _read(tmp_path, environment)
    assert read.redis.auth == "entra"
    assert read.metrics.azure_entra
    assert read.pair[0].blob.events.queue_url.startswith("https://")
    assert read.pair[0].blob.events.dead_letter_container


def test_an_operator_gets_at_what_the_commands_need() -> None:
    """Redis, both containers, the queues and VAST's keys; only where one is named."""
    asked = {
        "redis.bicep": ("accessPolicyName: 'default'",),
        "data.bicep": ("ba92f5b4-2d11-453d-a403-e96b0029c9fe", "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"),
        "storage.bicep": ("19e7f393-937e-4f77-808e-94535e297925",),
        "app.bicep": ("4633458b-17de-408a-b874-0445c86b69e6",),
    }
    for name, rights in asked.items():
        text = _code(INFRA / "modules" / name)
        given = re.findall(
            r"resource operator\w+ '[^']+' = if \(!empty\(operatorPrincipalId\)\) \{\n.*?\n(?: {4})?\}\n", text, re.DOTALL
        )
        assert len(given) == len(rights), name
        for one, right in zip(given, rights, strict=True):
            assert right in one, name
            assert "operatorPrincipalId" in one.partition("{")[2], name


def test_the_environment_of_an_operator_is_whole(tmp_path: Path) -> None:
    """What infra/README.md tells to export comes from outputs that there are, and is read without a complaint."""
    readme, main = (INFRA / "README.md").read_text(), INFRA / "main.bicep"
    assert set(re.findall(r"azd env get-value (\w+)", readme)) <= set(_OUTPUT.findall(_code(main)))
    exported = dict(re.findall(r"[ \n](\w+)=(\$\([^)]+\)|entra)", readme))
    place = {"FEDERATION__REDIS__URL": "rediss://x.example:10000"}
    told = {name: re.sub(r"^\$.*", place.get(name, "https://x.example/q"), value) for name, value in exported.items()}
    read = _read(tmp_path, told)
    assert read.redis.auth == "entra"
    assert read.pair[0].blob.events.dead_letter_container
    assert {read.pair[0].vast.access_key_env, read.pair[0].vast.secret_key_env} <= exported.keys()


def test_dead_letters_lie_where_a_replay_looks_and_somebody_is_told() -> None:
    """On the data account, the only one that ``fedplane events replay`` reads; in the container that the app's settings name."""
    subscription, data = (_code(INFRA / "modules" / name) for name in ("subscription.bicep", "data.bicep"))
    letters = subscription.partition("deadLetterDestination:")[2].partition("filter:")[0]
    assert "resourceId: accountId" in letters
    assert "output accountId string = account.id" in data
    assert "name: deadLetterContainer" in data
    main = _code(INFRA / "main.bicep")
    assert len(re.findall(r"deadLetterContainer: deadLetterContainer$", main, re.MULTILINE)) == 3
    told = _code(INFRA / "modules" / "undelivered.bicep")
    assert "DeadLetteredCount" in told
    assert "DroppedEventCount" in told
    assert "actionGroupId: actionGroupId" in told
    assert (INFRA.parent / re.findall(r"docs/runbooks/\S+\.md", told)[0]).exists()


def test_settings_wait_until_the_app_may_read_its_secrets() -> None:
    """A reference that is looked up before the role exists would be given to the app as it is written."""
    settings = _code(INFRA / "modules" / "app.bicep").partition("name: 'appsettings'")[2]
    assert "dependsOn: [readsSecrets]" in settings


def test_a_reference_that_was_not_resolved_is_no_secret() -> None:
    """App Service gives the reference itself while the app may not read the vault; it must not be sent as a key."""
    with pytest.raises(UsageError, match=r"access_key_env names VAST_ACCESS_KEY.*restart") as caught:
        secret("VAST_ACCESS_KEY", "pair.vast.access_key_env", {"VAST_ACCESS_KEY": "@Microsoft.KeyVault(SecretUri=https://kv/s)"})
    assert caught.value.reason == "missing_secret"
