"""One host of a registry: authorization, retries, and errors that say who said what."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit, urlunsplit

import aiohttp
import anyio

from containerd_aio._log import get_logger
from containerd_aio.distribution._http import PlainHTTPError, Request, public
from containerd_aio.distribution._retry import Patience, Retries
from containerd_aio.distribution.auth import Authorizer
from containerd_aio.distribution.hosts import RegistryHost
from containerd_aio.distribution.keychain import find_credentials
from containerd_aio.errors import (
    ConnectError,
    ContainerdError,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unknown,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence

    from containerd_aio.distribution._http import Transport
    from containerd_aio.distribution.keychain import Keychain

# How much of an error's body is read, and shown.
_MAX_ERROR_BODY = 64 << 10
_SHOWN = 300
_MAX_TOKEN_BODY = 1 << 20

# Challenges answered for one request: the first one, and one for a token that has ended.
_MAX_CHALLENGES = 2

_ERRORS: dict[int, type[ContainerdError]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    416: OutOfRange,
    429: ResourceExhausted,
}


class Endpoint:
    """One host of a registry.

    Args:
        transport: The connections.
        host: The host.
        registry: The registry it serves; a host that is another one is told which (``ns=``).
        keychain: Knows credentials.
        retries: How often failures are tried again.
        last: There is no other host to be asked.
    """

    def __init__(
        self,
        transport: Transport,
        host: RegistryHost,
        registry: str,
        *,
        keychain: Keychain | None,
        retries: Retries,
        last: bool,
    ) -> None:
        self._transport = transport
        self.host = host
        self._registry = registry
        self._keychain = keychain
        self._retries = retries
        self._last = last
        self._mirror = host.host not in {registry, "registry-1.docker.io"}
        self._authorizers: dict[str, Authorizer] = {}
        self._plain = False

    def __repr__(self) -> str:
        return f"<Endpoint {self.host.url}>"

    def patience(self) -> Patience:
        """Return the retries of a new request."""
        return Patience(self._retries, last=self._last)

    def url(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Return the URL of a path of the API."""
        given = dict(query or {})
        if self._mirror:
            given["ns"] = self._registry
        base = self.host.url
        if self._plain:
            base = "http" + base.removeprefix("https")
        return f"{base}/{path}" + (f"?{urlencode(given)}" if given else "")

    def authorizer(self, repository: str) -> Authorizer:
        """Return what authorizes requests about a repository."""
        if repository not in self._authorizers:

            async def find() -> object:
                return await find_credentials(self._keychain, self.host.host, repository)

            base = urlsplit(self.url(""))
            self._authorizers[repository] = Authorizer(
                f"{base.scheme}://{base.netloc}",
                find,  # type: ignore[arg-type]
                self._token_request,
            )
        return self._authorizers[repository]

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        repository: str,
        scopes: Sequence[str],
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        body: bytes | Callable[[], AsyncIterable[bytes]] | None = None,
        size: int = 0,
        patience: Patience | None = None,
        trusted: bool = True,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send a request and yield the response, whatever its status, once it is not worth trying again.

        Args:
            method: HTTP method.
            path: Path below the host's, or a whole URL (an upload's location, for example).
            repository: What the request is about, for the choice of credentials.
            scopes: What a token has to allow.
            headers: Headers.
            query: Parameters.
            body: Bytes, or a function that returns them anew.
            size: Bytes of a body that is a function.
            patience: The retries left; by default those of a new request.
            trusted: Credentials and the host's own headers may go there.

        Raises:
            ConnectError: There is no connection.
            Unavailable: The connection broke, each time.
            Unauthenticated: Credentials are missing or refused.
            PermissionDenied: The token server refuses.
        """
        patience = patience or self.patience()
        url = path if "://" in path else self.url(path, query)
        request = Request(method, url, headers or {}, None, body, size)
        host = (
            self.host
            if trusted
            else RegistryHost(self.host.url, ca=self.host.ca, skip_verify=self.host.skip_verify)
        )
        response = await self._answered(request, host, repository, scopes if trusted else None, patience)
        try:
            yield response
        finally:
            response.release()

    async def _answered(
        self,
        request: Request,
        host: RegistryHost,
        repository: str,
        scopes: Sequence[str] | None,
        patience: Patience,
    ) -> aiohttp.ClientResponse:
        challenges = 0
        while True:
            if scopes is not None:
                header = await self.authorizer(repository).header(scopes)
                request = replace(request, authorization=header)
            try:
                response = await self._transport.send(request, host)
            except PlainHTTPError:
                if not _may_go_plain(host, request):
                    raise
                request = self._go_plain(request)
                continue
            except ConnectError as exc:
                if _may_go_plain(host, request) and exc.reason != "tls":
                    request = self._go_plain(request)
                    continue
                await self._pause_after(exc, patience)
                continue
            except Unavailable as exc:
                await self._pause_after(exc, patience)
                continue
            if response.status == 401 and scopes is not None and challenges < _MAX_CHALLENGES:
                challenges += 1
                asked = response.headers.getall("WWW-Authenticate", [])
                if self.authorizer(repository).challenged(asked, request.authorization):
                    response.release()
                    continue
                return response
            delay = patience.after_status(response.status, response.headers.get("Retry-After"))
            if delay is None:
                return response
            response.release()
            get_logger(__name__).info(
                "registry asked again", url=public(request.url), status=response.status, after=round(delay, 3)
            )
            await anyio.sleep(delay)

    def _go_plain(self, request: Request) -> Request:
        if not self._plain:  # requests at the same time find out at the same time
            self._plain = True
            self._authorizers.clear()
            get_logger(__name__).info("no TLS there, going on without", host=self.host.host)
        parts = urlsplit(request.url)
        return replace(request, url=urlunsplit(("http", *parts[1:])))

    async def _pause_after(self, error: Unavailable, patience: Patience) -> None:
        delay = (
            None if isinstance(error, ConnectError) and error.reason == "tls" else patience.after_failure()
        )
        if delay is None:
            raise error
        get_logger(__name__).info("registry asked again", error=str(error), after=round(delay, 3))
        await anyio.sleep(delay)

    async def _token_request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        authorization = headers.get("Authorization")
        others = {name: value for name, value in headers.items() if name != "Authorization"}
        # Headers of the host are for the registry, not for the token server; certificates are for the whole site.
        host = replace(self.host, headers={})
        request = Request(method, url, others, authorization, body, confined=True)
        patience = self.patience()
        while True:
            try:
                response = await self._transport.send(request, host)
                try:
                    data = await response.content.read(_MAX_TOKEN_BODY)
                    while not response.content.at_eof() and len(data) < _MAX_TOKEN_BODY:
                        data += await response.content.read(_MAX_TOKEN_BODY)
                finally:
                    response.release()
            except Unavailable as exc:
                await self._pause_after(exc, patience)
                continue
            except aiohttp.ClientError as exc:
                await self._pause_after(Unavailable(f"{public(url)}: the connection broke"), patience)
                get_logger(__name__).debug("token not read", error=type(exc).__name__)
                continue
            delay = patience.after_status(response.status, response.headers.get("Retry-After"))
            if delay is None:
                return response.status, data
            await anyio.sleep(delay)


def _may_go_plain(host: RegistryHost, request: Request) -> bool:
    return host.http_fallback and request.url.startswith("https:")


async def error_of(response: aiohttp.ClientResponse, what: str) -> ContainerdError:
    """Return the error that a response stands for, with the registry's own words.

    Args:
        response: The response; its body is read.
        what: What was wanted, such as ``manifest library/busybox:latest``.
    """
    status = response.status
    try:
        data = b"" if response.method == "HEAD" else await response.content.read(_MAX_ERROR_BODY)
    except (aiohttp.ClientError, TimeoutError):
        data = b""
    where = urlsplit(public(str(response.url)))
    said = registry_message(data)
    kind = _ERRORS.get(status, Unavailable if status >= 500 else Unknown)
    return kind(f"{where.scheme}://{where.netloc}: {what}: status {status}{f': {said}' if said else ''}")


def registry_message(data: bytes) -> str:
    """Return what a registry says in the body of an error (OCI distribution specification, "error codes")."""
    try:
        errors = json.loads(data)["errors"]
        texts = [f"{error.get('code', '')}: {error.get('message', '')}".strip(": ") for error in errors]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = data.decode(errors="replace").strip().partition("\n")[0]
        return "" if text.startswith("<") else _printable(text[:_SHOWN])
    return _printable("; ".join(filter(None, texts))[:_SHOWN])


def _printable(text: str) -> str:
    """Return `text` fit for a terminal and for one line: whoever answers there may say anything."""
    return "".join(c if c.isprintable() else " " for c in text)
