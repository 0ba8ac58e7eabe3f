"""HTTP as registries need it: TLS for each host, proxies from the environment, redirects that carry no credentials away."""

from __future__ import annotations

import math
import ssl
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin, urlsplit, urlunsplit

import aiohttp
import anyio

from containerd_aio._log import get_logger
from containerd_aio._version import __version__
from containerd_aio.distribution.hosts import is_http_url
from containerd_aio.errors import ConnectError, FailedPrecondition, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterator, Mapping
    from types import TracebackType

    from containerd_aio.distribution.hosts import RegistryHost

USER_AGENT = f"containerd-aio/{__version__}"

_DIAL_TIMEOUT = 30.0
# A registry that has not sent a byte for so long has forgotten us.
_READ_TIMEOUT = 60.0
# The same for one that is sent a blob: a piece of it has some megabytes, a line may be slow, and so may a store that has
# to make a blob of what has come.
_UPLOAD_TIMEOUT = 300.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 10
_READ_BUFFER = 1 << 20

# Headers that are meant for one host and nobody else.
_PRIVATE = frozenset({"authorization", "cookie", "proxy-authorization"})


class PlainHTTPError(Unavailable):
    """Whoever answers there does not speak TLS."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        method: Such as ``GET``.
        url: Where to.
        headers: Headers, without ``Authorization``.
        authorization: That header; its value is in no ``repr``.
        body: Bytes, or a function that returns them anew each time: a request may have to be repeated.
        size: Bytes of a body that is a function.
        confined: A redirect to another host is an error: the body is a secret.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    body: bytes | Callable[[], AsyncIterable[bytes]] | None = field(default=None, repr=False)
    size: int = 0
    confined: bool = False


class Transport:
    """Connections to any number of hosts, for use as ``async with``."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[object, ssl.SSLContext | bool] = {}

    async def __aenter__(self) -> Self:
        self._session = await self._stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                headers={"User-Agent": USER_AGENT},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # digests are of what was sent
                read_bufsize=_READ_BUFFER,
            )
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def send(self, request: Request, host: RegistryHost) -> aiohttp.ClientResponse:
        """Send a request, follow redirects, and return the response, which the caller releases.

        Args:
            request: The request.
            host: Whose TLS settings and headers count; another host, to which we are redirected, gets none of its
                headers, credentials and certificates.

        Raises:
            ConnectError: There is no connection, or the certificate is not trusted.
            PlainHTTPError: ``https`` was wanted, and the host does not speak it.
            Unavailable: The connection broke, or nothing came for a minute; for five, when a blob is sent.
            FailedPrecondition: There are more than 10 redirects, or one leads where we do not follow.
        """
        first = origin(request.url)
        headers = dict(request.headers) | {k: ", ".join(v) for k, v in host.headers.items()}
        if request.authorization is not None:
            headers["Authorization"] = request.authorization
        own = {name.lower() for name in host.headers} | _PRIVATE
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._hop(replace(request, headers=headers), host)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            response.release()
            url = joined(request.url, location)
            if not is_http_url(url):
                raise FailedPrecondition(
                    f"{public(request.url)} redirects to {public(url)}, which is not HTTP, or malformed"
                )
            if request.confined and origin(url) != first:
                raise FailedPrecondition(
                    f"{public(request.url)} redirects to {public(url)}: no credentials are sent there"
                )
            if origin(url) != first:  # once away from the host, nothing of its own is sent any more
                headers = {name: value for name, value in headers.items() if name.lower() not in own}
                host = replace(host, client=())
            get_logger(__name__).debug("redirected", url=public(request.url), to=public(url))
            if response.status == 303 and request.method != "HEAD":
                request = replace(request, method="GET", body=None)
            request = replace(request, url=url)
        raise FailedPrecondition(f"{public(request.url)}: more than {_MAX_REDIRECTS} redirects")

    def _context(self, host: RegistryHost) -> ssl.SSLContext | bool:
        # Kept, for aiohttp uses a connection again only with the same context.
        key = (host.ca, host.client, host.skip_verify)
        if key not in self._contexts:
            self._contexts[key] = _tls(host)
        return self._contexts[key]

    async def _hop(self, request: Request, host: RegistryHost) -> aiohttp.ClientResponse:
        assert self._session is not None
        headers = dict(request.headers)
        where, proxy = public(request.url), proxy_for(request.url)
        context = self._context(host) if request.url.startswith("https:") else True
        async with AsyncExitStack() as stack:
            stack.enter_context(_told(where, proxy))
            with anyio.CancelScope() as scope:
                data: Any = request.body
                if callable(data):
                    headers["Content-Length"] = str(request.size)
                    data = _watched(data(), scope)
                    stack.push_async_callback(_close, data)
                return await self._session.request(
                    request.method,
                    request.url,
                    headers=headers,
                    data=data,
                    allow_redirects=False,
                    ssl=context,
                    proxy=proxy,
                    timeout=aiohttp.ClientTimeout(
                        total=None,
                        sock_connect=host.dial_timeout or _DIAL_TIMEOUT,
                        sock_read=_UPLOAD_TIMEOUT if callable(request.body) else _READ_TIMEOUT,
                    ),
                )
            raise Unavailable(f"{where}: nothing that was sent was taken for {_UPLOAD_TIMEOUT:.0f} s")


async def _close(body: AsyncGenerator[bytes, None]) -> None:
    """Close a body of which nothing more will be sent: whoever supplies it should know at once."""
    with (
        anyio.CancelScope(shield=True),
        suppress(RuntimeError),
    ):  # it runs, and has just been cancelled by aiohttp
        await body.aclose()


async def _watched(body: AsyncIterable[bytes], scope: anyio.CancelScope) -> AsyncGenerator[bytes, None]:
    """Yield a body, and end `scope` when a piece of it is not taken: until all is sent, aiohttp waits for ever."""
    try:
        async for chunk in body:
            scope.deadline = anyio.current_time() + _UPLOAD_TIMEOUT
            yield chunk
            scope.deadline = math.inf
    finally:
        if isinstance(body, AsyncGenerator):
            await body.aclose()


@contextmanager
def _told(where: str, proxy: str | None) -> Iterator[None]:
    """Turn aiohttp's errors into ours."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as exc:
        raise _tls_error(where, f"the certificate is not trusted: {exc.certificate_error}") from exc
    except aiohttp.ClientConnectorSSLError as exc:
        reason = getattr(exc.os_error, "reason", None) or str(exc.os_error)
        if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}:
            raise PlainHTTPError(
                f"{where}: the host does not speak TLS; plain_http=True does without"
            ) from exc
        raise _tls_error(where, f"TLS fails: {reason}") from exc
    except aiohttp.ClientProxyConnectionError as exc:
        text = f"{where}: no connection to the proxy {public(proxy or '')} of the environment: {exc.os_error.strerror}"
        raise ConnectError(text, address=where, reason="refused") from exc
    except aiohttp.ClientHttpProxyError as exc:
        text = f"{where}: the proxy {public(proxy or '')} of the environment refuses: status {exc.status}"
        raise Unavailable(text) from exc
    except aiohttp.ClientConnectorError as exc:
        text = f"{where}: no connection: {exc.os_error.strerror or exc.os_error}"
        raise ConnectError(text, address=where, reason="refused") from exc
    except aiohttp.InvalidURL as exc:
        raise InvalidArgument(f"{where} is not a URL that can be asked") from exc
    except ValueError:
        # Not its text: it may quote the header, which may be secret.
        raise InvalidArgument(
            f"{where}: a header for it, such as that with the credentials, has a line break or the like"
        ) from None
    except TimeoutError as exc:
        raise Unavailable(f"{where}: no answer in time") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise Unavailable(f"{where}: the connection broke: {type(exc).__name__}") from exc


def _tls_error(where: str, text: str) -> ConnectError:
    return ConnectError(f"{where}: {text}", address=where, reason="tls")


def origin(url: str) -> str:
    """Return scheme, host and port of a URL: two URLs are of one host if and only if these are equal."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return url
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def public(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed URL"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def joined(base: str, location: str) -> str:
    """Return where a ``Location`` or ``Link`` leads to; as it is if it is malformed."""
    try:
        return urljoin(base, location)
    except ValueError:
        return location


def proxy_for(url: str) -> str | None:
    """Return the proxy for a URL as the environment says: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass_environment(parts.netloc.rpartition("@")[2], proxies):  # type: ignore[attr-defined]
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not is_http_url(proxy):
        raise InvalidArgument(
            f"the proxy {public(proxy)} for {parts.netloc.rpartition('@')[2]}, from the environment, cannot be used: it has "
            f"to be a URL of http or https; NO_PROXY names hosts that need none"
        )
    return proxy


def _tls(host: RegistryHost) -> ssl.SSLContext | bool:
    """Return what aiohttp takes for TLS."""
    ca, client = host.ca, host.client
    if not ca and not client and not host.skip_verify:
        return True
    try:
        # Reading the system's authorities takes a while; who trusts everybody needs none.
        context = (
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if host.skip_verify else ssl.create_default_context()
        )
        for path in ca:
            context.load_verify_locations(path)
        for certificate, key in client:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as exc:
        files = ", ".join([*ca, *(file for pair in client for file in pair if file)])
        raise InvalidArgument(f"a certificate cannot be used ({exc}): one of {files}") from exc
    if host.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
