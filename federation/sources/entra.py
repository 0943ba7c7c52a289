"""Who sends: tokens of Microsoft Entra ID, checked by signature, issuer, audience and application.

Event Grid asks its tenant for a token of our audience and sends it with each delivery. What is checked against comes from the
tenant's OpenID metadata, of both versions, since a token may be of either; keys change, so that they are read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout

from federation.errors import RetryLater
from federation.ports import Clock

_DOCUMENTS = (".well-known/openid-configuration", "v2.0/.well-known/openid-configuration")
_MOST_BYTES = 1024 * 1024
_TIMEOUT = ClientTimeout(total=5)
_LEEWAY_SECONDS = 60
_FRESH_SECONDS = 6 * 3600.0
"""After so long the keys are read again."""
_LONGEST_SECONDS = 24 * 3600.0
"""And after so long they no longer count: one that was withdrawn must not for ever, whatever keeps us from reading."""
_AGAIN_SECONDS = 60.0
"""A token that names an unknown key makes us ask at most so often; so does anybody while no key is known, a little oftener."""
_AGAIN_WITHOUT_SECONDS = 5.0


class _Metadata(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _Keys(msgspec.Struct):
    keys: list[dict[str, Any]]


@dataclass(slots=True)
class EntraTokens:
    """Checks tokens of one *tenant* for one *audience*, sent by one of *apps* (their ids)."""

    authority: str
    tenant: str
    audience: str
    apps: Sequence[str]
    clock: Clock
    _issuers: tuple[str, ...] = ()
    _keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    _read_at: float = float("-inf")
    _asked_at: float = float("-inf")
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def admits(self, authorization: str) -> bool:
        """Whether the ``Authorization`` header holds a token that may deliver.

        Raises:
            RetryLater: the keys cannot be read, so it is not known; the sender should try again.
        """
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer":
            return False
        try:
            name = jwt.get_unverified_header(token).get("kid")
            key = await self._key(name) if isinstance(name, str) else None
            if key is None:
                return False
            claims = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                audience=self.audience,
                issuer=self._issuers,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError:
            return False
        return str(claims.get("appid") or claims.get("azp") or "").lower() in {app.lower() for app in self.apps}

    async def _key(self, name: str) -> jwt.PyJWK | None:
        async with self._reading:
            now = self.clock.monotonic_seconds()
            age = now - self._read_at
            known = name in self._keys and age <= _FRESH_SECONDS
            if not known and now - self._asked_at > (_AGAIN_SECONDS if self._keys else _AGAIN_WITHOUT_SECONDS):
                self._asked_at = now
                try:
                    await self._read()
                    self._read_at, age = now, 0.0
                except RetryLater:
                    if age > _LONGEST_SECONDS:
                        raise
            if age > _LONGEST_SECONDS:
                raise RetryLater(f"the keys of tenant {self.tenant} could not be read lately", reason="entra_unavailable")
            return self._keys.get(name)

    async def _read(self) -> None:
        issuers: list[str] = []
        keys: dict[str, jwt.PyJWK] = {}
        try:
            async with ClientSession(timeout=_TIMEOUT) as session:
                for document in _DOCUMENTS:
                    url = f"{self.authority.rstrip('/')}/{self.tenant}/{document}"
                    metadata = msgspec.json.decode(await _get(session, url), type=_Metadata)
                    if metadata.jwks_uri.partition(":")[0] != self.authority.partition(":")[0]:
                        raise RetryLater(f"the key address in {url} is not {self.authority.partition(':')[0]}")
                    issuers.append(metadata.issuer)
                    keys |= _usable(msgspec.json.decode(await _get(session, metadata.jwks_uri), type=_Keys))
        except (ClientError, TimeoutError, OSError, msgspec.MsgspecError, jwt.PyJWTError) as error:
            text = f"the keys of tenant {self.tenant} cannot be read ({type(error).__name__}); check webhook_entra_tenant"
            raise RetryLater(text, reason="entra_unavailable") from None
        self._issuers, self._keys = tuple(issuers), keys


async def _get(session: ClientSession, url: str) -> bytes:
    async with session.get(url) as answer:
        answer.raise_for_status()
        body = await answer.content.read(_MOST_BYTES + 1)
        while len(body) <= _MOST_BYTES and (more := await answer.content.read(_MOST_BYTES)):
            body += more
        return body


def _usable(found: _Keys) -> dict[str, jwt.PyJWK]:
    """Those that sign with RSA, by name."""
    signing = (key for key in found.keys if key.get("kty") == "RSA" and key.get("use", "sig") == "sig" and key.get("kid"))
    return {str(key["kid"]): jwt.PyJWK(key, algorithm="RS256") for key in signing}
