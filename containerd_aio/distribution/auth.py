"""Authorization at registries: Basic, and Bearer tokens from a token server (Docker's and OAuth2's ways)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode, urlsplit

import anyio

from containerd_aio._log import get_logger
from containerd_aio.distribution._challenge import Challenge, merge_scopes, parse_challenges
from containerd_aio.distribution.hosts import is_http_url
from containerd_aio.errors import PermissionDenied, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from containerd_aio.distribution.keychain import Credentials

CLIENT_ID = "containerd-aio"

# A token is not used for the last seconds of its life: it has to be alive when it arrives.
_MARGIN = 10.0
# Docker's token servers that say nothing mean this (distribution: "docs/spec/auth/token.md").
_DEFAULT_LIFE = 60.0

# Answers to a POST after which the older GET is tried.
_NO_OAUTH = frozenset({400, 401, 404, 405})


class TokenRequest(Protocol):
    """Makes one request to a token server; follows no redirect to another host with what it carries."""

    async def __call__(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        """Return status and body."""


@dataclass(slots=True)
class _Token:
    """A token, kept until it ends."""

    header: str = field(repr=False)
    ends: float


class Authorizer:
    """Authorization for one host.

    Args:
        origin: Scheme and host that are asked, such as ``https://example.com:5000``.
        credentials: Finds the credentials; asked once, when the host wants to know who it is.
        request: Makes the requests to token servers.
        clock: Returns seconds; by default the event loop's.
    """

    def __init__(
        self,
        origin: str,
        credentials: Callable[[], Awaitable[Credentials | None]],
        request: TokenRequest,
        *,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self.origin = origin
        self._find = credentials
        self._request = request
        self._clock = clock
        self._found = False
        self._credentials: Credentials | None = None
        self._challenge: Challenge | None = None
        self._refresh = ""
        self._tokens: dict[tuple[str, ...], _Token] = {}
        self._lock = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Authorizer {self.origin}>"

    async def header(self, scopes: Iterable[str]) -> str | None:
        """Return the ``Authorization`` header for a request, None as long as the host has not asked for one.

        Args:
            scopes: What the request needs, such as ``repository:library/busybox:pull``.

        Raises:
            Unauthenticated: The host wants credentials and there are none, or they are refused.
            PermissionDenied: The token server does not give a token for this.
        """
        challenge = self._challenge
        if challenge is None:
            return None
        async with self._lock:  # one token for all who need it
            credentials = await self._known()
            if credentials is not None and credentials.bearer:
                return f"Bearer {credentials.bearer}"
            if challenge.scheme == "basic":
                return self._basic(credentials)
            wanted = merge_scopes([challenge.parameters.get("scope", ""), *scopes])
            token = self._tokens.get(wanted)
            if token is None or token.ends <= self._clock():
                token = self._tokens[wanted] = await self._fetch(challenge, wanted, credentials)
            return token.header

    def challenged(self, headers: Iterable[str], used: str | None) -> bool:
        """Take the answer 401, and tell whether it is worth trying again.

        Args:
            headers: Its ``WWW-Authenticate`` headers.
            used: The header that was refused.

        Raises:
            Unauthenticated: The credentials were refused.
        """
        known = next((c for c in parse_challenges(headers) if c.scheme in {"bearer", "basic"}), None)
        if known is None:
            return False
        if used is not None and known.scheme == "basic":
            raise Unauthenticated(f"{self.origin} refuses the credentials{self._source()}")
        self._challenge = known
        if used is not None:  # a token that has ended, or one for too little: another one may do
            self._tokens = {scopes: t for scopes, t in self._tokens.items() if t.header != used}
        return True

    async def _known(self) -> Credentials | None:
        if not self._found:
            self._credentials = await self._find()
            self._found = True
        return self._credentials

    def _source(self) -> str:
        return f" from {self._credentials.source}" if self._credentials is not None else ""

    def _basic(self, credentials: Credentials | None) -> str:
        if credentials is None or not credentials.username or not credentials.secret:
            raise Unauthenticated(
                f"{self.origin} wants a user name and a password, and there are none for it: log in with docker or "
                f"podman, or give credentials"
            )
        return _basic_header(credentials)

    async def _fetch(
        self, challenge: Challenge, scopes: Sequence[str], credentials: Credentials | None
    ) -> _Token:
        realm = challenge.parameters.get("realm", "")
        self._check_realm(realm, credentials)
        service = challenge.parameters.get("service", "")
        get_logger(__name__).debug("token wanted", registry=self.origin, realm=realm, scopes=list(scopes))
        status, data = 0, b""
        posted = False
        if credentials is not None and credentials.secret:
            posted = True
            status, data = await self._post(realm, service, scopes, credentials)
            if status in {400, 401} and self._refresh and credentials.username:
                self._refresh = ""  # that one has ended: by password again
                status, data = await self._post(realm, service, scopes, credentials)
        if not posted or (status in _NO_OAUTH and credentials is not None and credentials.username):
            status, data = await self._get(realm, service, scopes, credentials)
        return self._parse(status, data, realm, scopes)

    def _check_realm(self, realm: str, credentials: Credentials | None) -> None:
        if not is_http_url(realm):
            raise Unauthenticated(f"{self.origin} names no token server: realm {realm!r}")
        if credentials is not None and urlsplit(realm).scheme == "http" and self.origin.startswith("https:"):
            raise Unauthenticated(
                f"{self.origin} names the token server {realm}, which is not encrypted: nothing is sent there"
            )

    async def _post(
        self, realm: str, service: str, scopes: Sequence[str], credentials: Credentials
    ) -> tuple[int, bytes]:
        """Ask in OAuth2's way (RFC 6749, sections 4.3 and 6; distribution: "docs/spec/auth/oauth.md")."""
        form = {"client_id": CLIENT_ID, "service": service, "scope": " ".join(scopes)}
        if self._refresh or not credentials.username:
            form |= {"grant_type": "refresh_token", "refresh_token": self._refresh or credentials.secret}
        else:
            form |= {
                "grant_type": "password",
                "username": credentials.username,
                "password": credentials.secret,
                "access_type": "offline",
            }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._request("POST", realm, headers=headers, body=urlencode(form).encode())

    async def _get(
        self, realm: str, service: str, scopes: Sequence[str], credentials: Credentials | None
    ) -> tuple[int, bytes]:
        """Ask in Docker's older way, anonymously where there are no credentials."""
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        headers = {}
        if credentials is not None and credentials.username:
            query += [("client_id", CLIENT_ID), ("offline_token", "true")]
            headers["Authorization"] = _basic_header(credentials)
        separator = "&" if "?" in realm else "?"
        url = f"{realm}{separator}{urlencode(query)}" if query else realm
        return await self._request("GET", url, headers=headers, body=None)

    def _parse(self, status: int, data: bytes, realm: str, scopes: Sequence[str]) -> _Token:
        who = f"the token server {realm}"
        if status in {400, 401, 403}:
            error = PermissionDenied if status == 403 else Unauthenticated
            given = (
                f"the credentials{self._source()}" if self._credentials is not None else "anonymous access"
            )
            raise error(f"{who} refuses {given} for {' '.join(scopes)} (status {status})")
        if not 200 <= status < 300:
            raise Unauthenticated(f"{who} answers with status {status} for {' '.join(scopes)}")
        try:
            value: dict[str, Any] = json.loads(data)
            token = value.get("access_token") or value.get("token")
            life = float(value.get("expires_in") or _DEFAULT_LIFE)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise Unauthenticated(f"{who} answers with something that is not a token") from None
        if not token or not isinstance(token, str):
            raise Unauthenticated(f"{who} answers without a token")
        refresh = value.get("refresh_token")
        if isinstance(refresh, str) and refresh:
            self._refresh = refresh
        return _Token(f"Bearer {token}", self._clock() + max(life - _MARGIN, life / 2))


def _basic_header(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.secret}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
