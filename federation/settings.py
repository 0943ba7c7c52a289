"""Settings: one TOML file plus environment, read once. No other module reads ``os.environ``, save for named secrets via here.

``FEDERATION__SECTION__FIELD`` overrides any value; of a pair, ``FEDERATION__PAIR__<name or index>__SECTION__FIELD``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from federation import keys
from federation.errors import UsageError
from federation.event_settings import Address, BlobEventSettings
from federation.function_settings import FunctionSettings
from federation.model import Foreign, Mode, Side
from federation.pacing_settings import PacingSettings
from federation.progress import DeleteBudget
from federation.scan_settings import ReconcileSettings
from federation.settings_feed import ChangeFeedSettings
from federation.settings_file import FILE_VARIABLE, OVERRIDE_PREFIX, PAIR_NAME, Places, explain, override, read_toml

DEFAULT_FILE = "federation.toml"
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")

EVENT_GRID_DAYS = 1.0
"""Event Grid tries to deliver for at most 1440 minutes (facts/azure.md 1.4)."""
QUEUE_DAYS = 7.0
"""What a Storage Queue keeps a message by default, and Event Grid's own default for one."""
NAMESPACE_DAYS = 7.0
"""How long a namespace's subscription may keep an event (facts/azure.md 1.5)."""

Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]


def _whole_segments(prefix: str) -> str:
    if prefix and not prefix.endswith("/"):
        raise ValueError('a prefix is empty or ends in "/"')
    return prefix


def _legal_on(side: Side, prefix: str, vast_names: str = "common") -> None:
    policy = keys.policy_for(side, vast_names)
    if not keys.legal(prefix, policy):
        raise ValueError(f"the prefix is used as it stands, and is no legal {policy.name}")


Prefix = Annotated[str, AfterValidator(_whole_segments)]
"""Part of every name of a side that is not part of the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RedisSettings(_Section):
    """Where the state lives. ``embedded`` starts a Redis of our own under ``directory``."""

    url: str = "embedded"
    directory: Path = Path(".fedplane/redis")
    cluster: bool | None = None
    """Whether it is a Redis Cluster; not set: the server is asked."""
    auth: Literal["password", "entra"] = "password"
    """``entra``: tokens of DefaultAzureCredential (Azure Managed Redis); else user and password of the variables, if named."""
    username_env: str = ""
    password_env: str = ""
    ca_file: str = ""


class TierSettings(_Section):
    """Access tier of the blobs written under a prefix of keys; of several prefixes the longest counts.

    Not Archive: what is offline could be neither read nor replaced by the next change. A lifecycle rule archives what has aged.
    """

    prefix: str = ""
    tier: Literal["Hot", "Cool", "Cold"]


class BlobSettings(_Section):
    """The Azure side."""

    account_url: Address
    container: str
    prefix: Prefix = ""
    connection_string_env: str = ""
    """Variable holding a connection string; empty: DefaultAzureCredential, or one of the next two."""
    sas_env: str = ""
    """Variable holding a SAS of the container or account."""
    user_delegation_sas: bool = False
    """Whether requests carry user delegation SAS, made and renewed with DefaultAzureCredential, in place of its tokens."""
    tiers: tuple[TierSettings, ...] = ()
    """Of newly written blobs, by prefix; without one the account's default."""
    events: BlobEventSettings = BlobEventSettings()
    change_feed: ChangeFeedSettings = ChangeFeedSettings()

    @model_validator(mode="after")
    def _one_way_to_authorise(self) -> BlobSettings:
        ways = {"connection_string_env": self.connection_string_env, "sas_env": self.sas_env}
        used = [name for name, told in (*ways.items(), ("user_delegation_sas", self.user_delegation_sas)) if told]
        if len(used) > 1:
            raise ValueError(f"{' and '.join(used)} are set; one of them says how to authorise, remove the others")
        return self

    @model_validator(mode="after")
    def _one_tier_a_prefix(self) -> BlobSettings:
        prefixes = [one.prefix for one in self.tiers]
        if len(set(prefixes)) != len(prefixes):
            raise ValueError("two [[pair.blob.tiers]] have the same prefix; keep one of them")
        return self

    @model_validator(mode="after")
    def _prefix_is_legal(self) -> BlobSettings:
        _legal_on(Side.BLOB, self.prefix)
        return self


class VastEventSettings(_Section):
    """VAST's S3 events over the Kafka protocol."""

    bootstrap: tuple[str, ...] = ()
    topic: str = ""
    retention_days: Positive = 7.0
    """How long the broker keeps the topic's records: so old may an event be that is read."""
    api_version: Annotated[str, Field(pattern=r"^(\d+\.\d+(\.\d+)?)?$")] = ""
    """``major.minor`` to skip negotiation; empty: negotiate."""
    key_encoding: Literal["auto", "raw", "percent", "plus"] = "auto"
    """How object keys are written in events; ``auto`` finds out, marking every key they may mean (facts/vast.md 1)."""
    group_id: str = "fedplane-{pair}"
    """Consumer group under which the broker is told positions, for tools that watch lag; nobody joins it. Empty: off."""
    canary_seconds: Annotated[float, Field(ge=0)] = 300.0
    """How often a small object under ``.federation/`` is written on VAST to prove that its event arrives; 0: never."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_username_env: str = ""
    sasl_password_env: str = ""
    ca_file: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> VastEventSettings:
        if self.bootstrap and not self.topic:
            raise ValueError("bootstrap is set, topic is not: name the topic that the bucket's event notification goes to")
        if any("@" in server for server in self.bootstrap):
            raise ValueError("bootstrap names host:port; user and password go behind sasl_username_env and sasl_password_env")
        named = bool(self.sasl_username_env) and bool(self.sasl_password_env)
        if self.security_protocol.startswith("SASL") and not named:
            raise ValueError(f"{self.security_protocol} needs both sasl_username_env and sasl_password_env")
        if (self.sasl_username_env or self.sasl_password_env) and not self.security_protocol.startswith("SASL"):
            raise ValueError(f"{self.security_protocol} sends no user name; set security_protocol to SASL_SSL or SASL_PLAINTEXT")
        return self


class VastSettings(_Section):
    """The VAST side."""

    endpoint: Address
    bucket: str
    prefix: Prefix = ""
    region: str = "us-east-1"
    access_key_env: str
    secret_key_env: str
    ca_file: str = ""
    name_policy: Literal["common", "native"] = "common"
    """What VAST's view policy allows: ``common``, its default (names for NFS and SMB too), or ``native`` limits together with
    special S3 characters, for a bucket that only S3 uses (facts/vast.md 4)."""
    events: VastEventSettings = VastEventSettings()

    @model_validator(mode="after")
    def _prefix_is_legal(self) -> VastSettings:
        _legal_on(Side.VAST, self.prefix, self.name_policy)
        return self


class RuleSettings(_Section):
    """Conflict and delete rules (design 4)."""

    tie_winner: Side = Side.BLOB
    deletes: Literal["propagate", "ignore"] = "propagate"
    deletes_to_blob: Literal["propagate", "ignore"] | None = None
    deletes_to_vast: Literal["propagate", "ignore"] | None = None
    clock_uncertainty_seconds: Annotated[float, Field(ge=0)] = 0.5
    delete_budget_count: PositiveInt = 1000
    delete_budget_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    delete_budget_window_seconds: Positive = 600.0
    tombstone_days: Positive = 30.0
    """How long a delete both sides agreed on is remembered; longer than any source may replay old events."""
    foreign: Foreign = Foreign.KEEP
    """A new object that only a read-only zone holds: leave it, or preserve it under ``.federation/conflicts`` and remove it."""
    adopt: Literal["proof", "size_and_time"] = "proof"
    """What makes objects equal that were never agreed on: hashes or origin stamps (else both are read), or your word."""
    tags: bool = False
    """Whether Blob index tags and S3 object tags are kept alike. Off: not looked at, and lost where a version is replaced."""
    revert_limit: PositiveInt = 3
    """How often an hour a key is put back against a writer in a read-only zone, before it is parked for a person."""

    @property
    def delete_budget(self) -> DeleteBudget:
        """How many deletes may be carried out in one window without a person."""
        return DeleteBudget(self.delete_budget_count, self.delete_budget_share, self.delete_budget_window_seconds)

    @property
    def tombstone_us(self) -> int:
        """``tombstone_days`` in microseconds."""
        return int(self.tombstone_days * 86_400_000_000)

    def deletes_to(self, side: Side) -> bool:
        """Whether a delete may be carried to *side*."""
        one = self.deletes_to_blob if side is Side.BLOB else self.deletes_to_vast
        return (one or self.deletes) == "propagate"


class WorkerSettings(_Section):
    """The worker pool of one process."""

    shards: Annotated[int, Field(ge=1, le=4096)] = 64
    buckets: Annotated[int, Field(ge=1, le=4096)] = 160
    """Base hashes of each shard. Both are fixed when the pair's state is created (``federation.state.layout.room``)."""
    concurrency: PositiveInt = 32
    lease_seconds: Positive = 10.0
    drain_seconds: Annotated[float, Field(ge=0)] = 20.0
    max_attempts: PositiveInt = 12


class TransferSettings(_Section):
    """Moving bytes (design 8)."""

    small_object_bytes: PositiveInt = 8 * 1024 * 1024
    part_bytes: PositiveInt = 8 * 1024 * 1024
    parallel_parts: PositiveInt = 4
    parallel_large: PositiveInt = 8
    """Objects in parts at once, of one pair and process: the rest of the worker stays free for small ones."""
    memory_bytes: PositiveInt = 256 * 1024 * 1024


class LogSettings(_Section):
    """Logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class MetricsSettings(_Section):
    """Where metrics go (docs/metrics.md). Empty: nowhere."""

    prometheus_listen: str = ""
    """``host:port`` of a page for Prometheus; loopback unless told otherwise."""
    otlp_endpoint: str = ""
    """URL of an OTLP collector's metrics, over HTTP: ``http://localhost:4318/v1/metrics``."""
    azure_connection_string_env: str = ""
    """Variable holding the connection string of Application Insights."""
    azure_entra: bool = False
    """Authenticate there by DefaultAzureCredential too (role Monitoring Metrics Publisher)."""


class PairSettings(_Section):
    """One container tied to one bucket."""

    name: Annotated[str, Field(pattern=PAIR_NAME)]
    mode: Mode = Mode.TWO_WAY
    blob: BlobSettings
    vast: VastSettings
    rules: RuleSettings = RuleSettings()
    origin_stamps: bool = True

    @property
    def identity(self) -> dict[str, str]:
        """What the pair's base rests on. Endpoints may move (ports, addresses); account, places and name mapping may not."""
        return {
            "blob account": _account(self.blob.account_url),
            "blob.container": self.blob.container,
            "blob.prefix": self.blob.prefix,
            "vast.bucket": self.vast.bucket,
            "vast.prefix": self.vast.prefix,
            "vast.name_policy": self.vast.name_policy,
        }

    @property
    def replay_days(self) -> dict[str, float]:
        """How old an event may be when it arrives, by the setting of the source that brings it."""
        blob, vast = self.blob.events, self.vast.events
        days = {
            "blob.events.webhook_listen": EVENT_GRID_DAYS if blob.webhook_listen else 0,
            "blob.events.queue_url": EVENT_GRID_DAYS + QUEUE_DAYS if blob.queue_url else 0,
            "blob.events.namespace_endpoint": EVENT_GRID_DAYS + NAMESPACE_DAYS if blob.namespace_endpoint else 0,
            "vast.events.retention_days": vast.retention_days if vast.bootstrap else 0,
        }
        return {name: window for name, window in days.items() if window}

    @model_validator(mode="after")
    def _tombstones_outlive_events(self) -> PairSettings:
        name, days = max(self.replay_days.items(), key=lambda one: one[1], default=("", 0.0))
        if self.rules.tombstone_days <= days:
            raise ValueError(
                f"rules.tombstone_days is {self.rules.tombstone_days:g}, but {name} may bring events {days:g} days old: "
                f"set rules.tombstone_days above {days:g}, or an old event finds its delete forgotten"
            )
        return self


class Settings(_Section):
    """Everything. Build with ``load``."""

    redis: RedisSettings = RedisSettings()
    pair: tuple[PairSettings, ...] = Field(min_length=1)
    reconcile: ReconcileSettings = ReconcileSettings()
    worker: WorkerSettings = WorkerSettings()
    transfer: TransferSettings = TransferSettings()
    pacing: PacingSettings = PacingSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    functions: FunctionSettings = FunctionSettings()

    @model_validator(mode="after")
    def _pairs_are_apart(self) -> Settings:
        names = [pair.name for pair in self.pair]
        if len(set(names)) != len(names):
            raise ValueError("two [[pair]] sections share a name; names must be unique")
        for what, places in (
            ("pair.blob.events.queue_url", [pair.blob.events.queue_url for pair in self.pair]),
            ("pair.blob.events.webhook_listen", [pair.blob.events.webhook_listen for pair in self.pair]),
            ("pair.blob.events.namespace_subscription", [pair.blob.events.pull_place for pair in self.pair]),
        ):
            used = [place for place in places if place]
            if len(set(used)) != len(used):
                raise ValueError(f"two pairs share one {what}: each would take the other's events; give each its own")
        for index, one in enumerate(self.pair):
            for two in self.pair[index + 1 :]:
                if _overlap(one, two):
                    raise ValueError(
                        f"pairs {one.name!r} and {two.name!r} cover the same part of both sides; give them disjoint prefixes"
                    )
        return self


def _account(url: str) -> str:
    """The account's name: the host's first label, or the first path segment where the host is an address."""
    parts = urlsplit(url.lower())
    host, path = parts.hostname or "", parts.path.strip("/")
    return path.partition("/")[0] or host.partition(".")[0]


def _overlap(one: PairSettings, two: PairSettings) -> bool:
    def nested(a: str, b: str) -> bool:
        return a.startswith(b) or b.startswith(a)

    def same(a: str, b: str) -> bool:
        return a.rstrip("/").lower() == b.rstrip("/").lower()

    blob = same(one.blob.account_url, two.blob.account_url) and one.blob.container == two.blob.container
    vast = same(one.vast.endpoint, two.vast.endpoint) and one.vast.bucket == two.vast.bucket
    return blob and vast and nested(one.blob.prefix, two.blob.prefix) and nested(one.vast.prefix, two.vast.prefix)


def load(path: str | Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the file (*path*, else ``$FEDERATION_CONFIG``, else ``federation.toml``) and the environment.

    Raises:
        UsageError: the file is missing or no TOML, or a setting is unknown or wrong; the text names it and what to do.
    """
    env = os.environ if environment is None else environment
    file = Path(path or env.get(FILE_VARIABLE) or DEFAULT_FILE)
    data, places = read_toml(file), Places()
    for name, value in sorted(env.items()):
        if name.upper().startswith(OVERRIDE_PREFIX):
            override(data, name, value, places)
    try:
        return Settings(**data)
    except ValidationError as error:
        raise UsageError(explain(file, error, data, places), reason="bad_settings") from None


def secret(variable: str, setting: str, environment: Mapping[str, str] | None = None) -> str:
    """The value of the environment variable that *setting* names. Raises UsageError naming both, never the value."""
    # A secret made from a file often ends with its line's end, which no key has and no header may hold.
    value = (os.environ if environment is None else environment).get(variable, "").rstrip("\r\n")
    if not value:
        # A secret typed here in place of its variable's name must not be printed.
        named = f"{variable!r}, which is not set" if _VARIABLE_NAME.fullmatch(variable) else "one that is not set"
        raise UsageError(
            f"{setting} must name an environment variable; it names {named}. Export it, or correct the setting.",
            reason="missing_secret",
        )
    if value.startswith("@Microsoft.KeyVault("):
        raise UsageError(
            f"{setting} names {variable}, which holds a reference into Key Vault that the host has not resolved. Let the app's "
            "identity read the vault's secrets (Key Vault Secrets User), then restart the app.",
            reason="missing_secret",
        )
    return value


def variable(name: str, environment: Mapping[str, str] | None = None) -> str:
    """The value of an environment variable that a host sets for its app; empty where it does not."""
    return (os.environ if environment is None else environment).get(name, "")
