"""Settings of Event Grid's ways to us (facts/azure.md 1.4, 1.5)."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

EVENT_GRID_APP = "4962773b-9cdb-44cf-a8bf-237846a00ab7"
"""Id of Microsoft's own application Microsoft.EventGrid in the public cloud."""
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_ANY_TENANT = frozenset({"common", "organizations", "consumers"})


def _whole_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of its port
        whole = False
    if not whole:
        raise ValueError("is no whole address: it begins with https:// (or http://) and names a host")
    if any(sign in url for sign in "@?#"):
        # Addresses are shown, in errors and by doctor; a SAS or a password in one would be too (rule 10).
        text = "leave out user name, query and signature; what is secret goes behind sas_env and other _env settings"
        raise ValueError(f"is more than an address: {text}")
    return url


Address = Annotated[str, AfterValidator(_whole_address)]
"""Where a service is, with its scheme."""
AddressIfAny = Annotated[str, AfterValidator(lambda url: _whole_address(url) if url else url)]
"""The same, or empty."""


class BlobEventSettings(BaseModel):
    """Event Grid's ways to us: a Storage Queue, a webhook, pull delivery of a namespace, or several."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    account_id: str = ""
    """ARM id of the storage account; events of any other topic are refused. Empty: not checked."""
    queue_url: AddressIfAny = ""
    connection_string_env: str = ""
    webhook_listen: str = ""
    """``host:port`` for the webhook; empty: off. Loopback unless told otherwise."""
    webhook_secret_env: str = ""
    webhook_entra_tenant: str = ""
    """Tenant (id or domain) whose tokens may deliver; with a secret set too, a delivery must have both."""
    webhook_entra_audience: str = ""
    """What the tokens are for: the application id or its URI, as the event subscription names it."""
    webhook_entra_apps: tuple[str, ...] = (EVENT_GRID_APP,)
    """Ids of the applications that may deliver."""
    webhook_entra_authority: Address = "https://login.microsoftonline.com"
    namespace_endpoint: AddressIfAny = ""
    """``https://<namespace>.<region>-1.eventgrid.azure.net`` for pull delivery; empty: off."""
    namespace_topic: str = ""
    namespace_subscription: str = ""
    namespace_key_env: str = ""
    """Variable holding an access key of the namespace; empty: DefaultAzureCredential."""
    dead_letter_container: str = ""
    """Container of the same account where Event Grid keeps what it could not deliver (``fedplane events replay``)."""

    @property
    def pull_place(self) -> str:
        """The subscription that is pulled from; empty when none is."""
        if not self.namespace_endpoint:
            return ""
        return f"{self.namespace_endpoint.rstrip('/')}/{self.namespace_topic}/{self.namespace_subscription}".lower()

    @property
    def any(self) -> bool:
        """Whether events come to us at all."""
        return bool(self.queue_url or self.webhook_listen or self.namespace_endpoint)

    @model_validator(mode="after")
    def _namespace_is_whole(self) -> BlobEventSettings:
        parts = {
            "namespace_endpoint": self.namespace_endpoint,
            "namespace_topic": self.namespace_topic,
            "namespace_subscription": self.namespace_subscription,
        }
        missing = [name for name, value in parts.items() if not value]
        if missing and (len(missing) < len(parts) or self.namespace_key_env):
            raise ValueError(f"pull delivery needs {', '.join(parts)}; set {' and '.join(missing)}, or none of them")
        if self.namespace_endpoint:
            _require_https("namespace_endpoint", self.namespace_endpoint)
        return self

    @model_validator(mode="after")
    def _entra_is_whole(self) -> BlobEventSettings:
        tenant, audience = self.webhook_entra_tenant, self.webhook_entra_audience
        if bool(tenant) != bool(audience):
            missing = "webhook_entra_audience" if tenant else "webhook_entra_tenant"
            raise ValueError(f"checking Entra tokens needs tenant and audience; set {missing}, or neither")
        if not tenant:
            return self
        if tenant.lower() in _ANY_TENANT or not _TENANT.fullmatch(tenant):
            raise ValueError("webhook_entra_tenant must be one tenant's id or domain: tokens of any other are refused")
        if not self.webhook_entra_apps:
            raise ValueError("webhook_entra_apps is empty: nobody could deliver; leave it out for Event Grid itself")
        _require_https("webhook_entra_authority", self.webhook_entra_authority)
        return self


def _require_https(name: str, url: str) -> None:
    parts = urlsplit(url)
    loopback = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if not parts.hostname or not (parts.scheme == "https" or loopback):
        raise ValueError(f"{name} must be a whole address that begins with https://")
