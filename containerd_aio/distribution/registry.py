"""A registry, over the API of the OCI distribution specification (Go: core/remotes/docker)."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from containerd_aio._log import get_logger
from containerd_aio.distribution._challenge import repository_scope
from containerd_aio.distribution._retry import Retries
from containerd_aio.distribution.hosts import Capability, RegistryHost, configured_hosts
from containerd_aio.distribution.keychain import keychain_of
from containerd_aio.distribution.manifests import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    is_index,
    is_manifest,
    parse_json,
)
from containerd_aio.errors import (
    ContainerdError,
    DataLoss,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from containerd_aio.services.descriptor import Descriptor, check_digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from os import PathLike
    from types import TracebackType

    import aiohttp

    from containerd_aio.distribution._endpoint import Endpoint
    from containerd_aio.distribution.hosts import HostsFunction
    from containerd_aio.distribution.keychain import Credentials, Keychain

MAX_MANIFEST = 4 * 1048 * 1048
"""Most bytes of a manifest or index that are taken (Go's limit, to the letter)."""

SCHEMA1_MANIFEST = "application/vnd.docker.distribution.manifest.v1+prettyjws"
"""Media type of the manifests that Docker wrote before 2016."""

_MANIFEST_TYPES = (DOCKER_MANIFEST, DOCKER_INDEX, OCI_MANIFEST, OCI_INDEX)
_MAX_LIST = 16 << 20


class Registry:
    """A registry and the mirrors that are configured for it, for use as ``async with Registry("docker.io") as registry``.

    Args:
        registry: As in names of images: ``docker.io``, ``localhost:5000``.
        keychain: Knows credentials; or the credentials themselves. Default: what Docker and Podman have stored.
        hosts_dir: Directory with ``hosts.toml`` files; see `hosts.configured_hosts`.
        plain_http: Do not encrypt where nothing is configured.
        hosts: Returns the hosts of a registry, instead of what ``hosts.toml`` files say.
        retries: How often failures are tried again.

    Raises:
        InvalidArgument: An argument or a ``hosts.toml`` is malformed.
    """

    def __init__(
        self,
        registry: str,
        *,
        keychain: Keychain | Credentials | None = None,
        hosts_dir: str | PathLike[str] | None = None,
        plain_http: bool = False,
        hosts: HostsFunction | None = None,
        retries: Retries | None = None,
    ) -> None:
        self.registry = registry
        self.hosts: list[RegistryHost] = (
            list(hosts(registry))
            if hosts is not None
            else configured_hosts(registry, hosts_dir, plain_http=plain_http)
        )
        self._keychain = keychain_of(keychain, registry)
        self._retries = retries or Retries()
        self._stack = AsyncExitStack()
        self._endpoints: dict[RegistryHost, Endpoint] = {}
        self._log = get_logger(__name__).bind(registry=registry)

    def __repr__(self) -> str:
        return f"<Registry {self.registry}>"

    async def __aenter__(self) -> Self:
        from containerd_aio.distribution._endpoint import Endpoint
        from containerd_aio.distribution._http import Transport

        transport = await self._stack.enter_async_context(Transport())
        for host in self.hosts:
            self._endpoints[host] = Endpoint(
                transport,
                host,
                self.registry,
                keychain=self._keychain,
                retries=self._retries,
                last=host is self.hosts[-1],
            )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def endpoints(self, *needed: Capability) -> list[Endpoint]:
        """Return the hosts that are asked for something, in their order.

        Raises:
            InvalidArgument: There is none.
        """
        found = [self._endpoints[host] for host in self.hosts if host.capabilities.issuperset(needed)]
        if not found:
            what = " and ".join(needed)
            raise InvalidArgument(
                f"{self.registry}: no host is configured for {what} (hosts.toml: capabilities)"
            )
        return found

    # -- reading --------------------------------------------------------------------------------------------

    async def resolve(self, repository: str, reference: str) -> Descriptor:
        """Return what a tag or a digest names.

        Args:
            repository: Such as ``library/busybox``.
            reference: A tag or a digest.

        Raises:
            NotFound: There is no such thing.
            Unauthenticated: Credentials are missing or refused.
            PermissionDenied: They are not enough.
            ResourceExhausted: The manifest is larger than `MAX_MANIFEST`, or the registry asks for patience too long.
            Unavailable: No host can be reached.
            DataLoss: A host lies about the digest.
        """
        by_digest = ":" in reference
        hosts = self.endpoints(Capability.PULL, *([] if by_digest else [Capability.RESOLVE]))
        kinds = ("manifests", "blobs") if by_digest else ("manifests",)
        failures: list[ContainerdError] = []
        for kind in kinds:
            for endpoint in hosts:
                try:
                    target = await self._resolve_at(endpoint, repository, kind, reference)
                except ContainerdError as exc:
                    self._log.debug("not resolved", host=endpoint.host.host, error=str(exc))
                    failures.append(exc)
                    continue
                self._log.info(
                    "resolved",
                    repository=repository,
                    reference=reference,
                    digest=target.digest,
                    host=endpoint.host.host,
                    configured_by=endpoint.host.source or "default",
                )
                return target
        raise _gravest(failures)

    async def _resolve_at(self, endpoint: Endpoint, repository: str, kind: str, reference: str) -> Descriptor:
        from containerd_aio.distribution._endpoint import error_of

        path = f"{repository}/{kind}/{reference}"
        what = f"{kind[:-1]} {repository}{'@' if ':' in reference else ':'}{reference}"
        headers = {"Accept": ", ".join((*_MANIFEST_TYPES, "*/*"))}
        scopes = (repository_scope(repository, "pull"),)
        ask = partial(endpoint.request, path=path, repository=repository, scopes=scopes, headers=headers)
        async with ask("HEAD") as response:
            if response.status != 405:  # registries that know no HEAD for manifests
                if response.status != 200:
                    raise await error_of(response, what)
                target = _described(response, reference, what)
                if target is not None:
                    return target
        async with ask("GET") as response:
            if response.status != 200:
                raise await error_of(response, what)
            data = await read_body(response, MAX_MANIFEST, what)
            media_type = _media_type(response, data)
        digest = _digest_like(reference if ":" in reference else "sha256:", data)
        if ":" in reference and digest != reference:
            raise DataLoss(f"{endpoint.host.host}: {what}: the content has the digest {digest}")
        return Descriptor(media_type, digest, len(data))

    async def manifest(self, repository: str, target: Descriptor) -> bytes:
        """Return a manifest, index or config, whole; size and digest are checked.

        Raises:
            NotFound: As `resolve`; so with the others.
        """
        if target.size > MAX_MANIFEST:
            raise ResourceExhausted(
                f"{target.digest} has {target.size} bytes; a manifest has at most {MAX_MANIFEST}"
            )
        failures: list[ContainerdError] = []
        for endpoint in self.endpoints(Capability.PULL):
            try:
                return await self._manifest_at(endpoint, repository, target)
            except ContainerdError as exc:
                self._log.debug("not fetched", digest=target.digest, host=endpoint.host.host, error=str(exc))
                failures.append(exc)
        raise _gravest(failures)

    async def _manifest_at(self, endpoint: Endpoint, repository: str, target: Descriptor) -> bytes:
        import anyio

        from containerd_aio.distribution._endpoint import error_of

        patience = endpoint.patience()
        path = content_path(repository, target)
        what = f"{target.digest} of {repository}"
        while True:
            try:
                async with endpoint.request(
                    "GET",
                    path,
                    repository=repository,
                    scopes=(repository_scope(repository, "pull"),),
                    headers={"Accept": f"{target.media_type or '*/*'}, */*"},
                    patience=patience,
                ) as response:
                    if response.status != 200:
                        raise await error_of(response, what)
                    data = await read_body(response, target.size, what)
            except BodyBrokenError:
                delay = patience.after_failure()
                if delay is None:
                    raise
                await anyio.sleep(delay)
                continue
            if (
                target.media_type != SCHEMA1_MANIFEST
            ):  # whose digest is that of a part of it: its parser checks
                check_content(data, target, endpoint.host.host)
            return data

    async def blob_info(self, repository: str, digest: str) -> Descriptor:
        """Return the descriptor of a blob of which only the digest is known.

        Raises:
            NotFound: As `resolve`; so with the others.
        """
        failures: list[ContainerdError] = []
        for endpoint in self.endpoints(Capability.PULL):
            try:
                return await self._resolve_at(endpoint, repository, "blobs", check_digest(digest))
            except ContainerdError as exc:
                failures.append(exc)
        raise _gravest(failures)

    @asynccontextmanager
    async def blob(
        self, repository: str, target: Descriptor, *, offset: int = 0, verify: bool = True
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Yield the bytes of a blob, in pieces as they come.

        A connection that breaks is made again where it broke; size and digest are checked at the end.

        Args:
            repository: Such as ``library/busybox``.
            target: The blob.
            offset: First byte wanted; with one, the digest is not checked.
            verify: Check the digest. Without, somebody else has to.

        Raises:
            NotFound: As `resolve`; so with the others.
            DataLoss: The bytes are not those that `target` names.
        """
        from containerd_aio.distribution._blob import BlobReader

        if not 0 <= offset <= target.size:
            raise InvalidArgument(
                f"offset {offset} lies outside of {target.digest}, which has {target.size} bytes"
            )
        reader = BlobReader(self, repository, target)
        async with aclosing(reader.checked() if verify and not offset else reader.chunks(offset)) as chunks:
            yield chunks

    async def tags(self, repository: str) -> list[str]:
        """Return the tags of a repository.

        Raises:
            NotFound: There is no such repository.
        """
        pages = self._pages(f"{repository}/tags/list", repository, f"tags of {repository}")
        return [str(tag) async for page in pages for tag in page.get("tags") or ()]

    async def referrers(
        self, repository: str, digest: str, *, artifact_type: str | None = None
    ) -> list[Descriptor]:
        """Return the manifests that refer to another one: signatures, attestations and the like.

        A registry without that API is asked for the tag that stands for it (OCI distribution specification, "referrers
        tag schema").

        Args:
            repository: Such as ``library/busybox``.
            digest: The manifest that is referred to.
            artifact_type: Only those of this type.
        """
        path = f"{repository}/referrers/{check_digest(digest)}"
        query = {"artifactType": artifact_type} if artifact_type else {}
        found: list[Descriptor] = []
        try:
            async for page in self._pages(path, repository, f"referrers of {digest}", query):
                found += [Descriptor.from_json(item) for item in page.get("manifests") or ()]
        except NotFound:
            try:
                index = await self.resolve(repository, digest.replace(":", "-"))
            except NotFound:
                return []
            document = parse_json(await self.manifest(repository, index), f"index {index.digest}")
            found = [Descriptor.from_json(item) for item in document.get("manifests") or ()]
        return [d for d in found if artifact_type is None or d.artifact_type == artifact_type]

    async def _pages(
        self, path: str, repository: str, what: str, query: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the pages of a listing, following ``Link`` headers."""
        from containerd_aio.distribution._endpoint import error_of

        endpoint = self.endpoints(Capability.PULL)[-1]
        seen: set[str] = set()
        following: str | None = path
        while following is not None:
            async with endpoint.request(
                "GET",
                following,
                repository=repository,
                scopes=(repository_scope(repository, "pull"),),
                query=query,
            ) as response:
                if response.status != 200:
                    raise await error_of(response, what)
                page = parse_json(await read_body(response, _MAX_LIST, what), what)
                here, url = str(response.url), _next_link(response, what)
            yield page
            following, query = next_page(here, url, path), None
            if following is None or following in seen:
                return
            seen.add(following)
            query = {k: v[0] for k, v in parse_qs(urlsplit(following).query).items()}
            following = path


def _next_link(response: aiohttp.ClientResponse, what: str) -> str | None:
    try:
        link = response.links.get("next")
    except ValueError as exc:
        raise DataLoss(f"{response.url.host}: {what}: the link to the next page is malformed") from exc
    return None if link is None else str(link.get("url"))


def next_page(here: str, link: str | None, path: str) -> str | None:
    """Return the URL of the next page; one that leads to another host or listing is no next page."""
    from containerd_aio.distribution._http import joined, origin

    if link is None:
        return None
    url = joined(here, link)
    return url if origin(url) == origin(here) and urlsplit(url).path.endswith(path) else None


def content_path(repository: str, target: Descriptor) -> str:
    """Return the path of an object in the API: manifests have one, everything else has another."""
    manifest = (
        is_manifest(target.media_type) or is_index(target.media_type) or target.media_type == SCHEMA1_MANIFEST
    )
    return f"{repository}/{'manifests' if manifest else 'blobs'}/{target.digest}"


def check_content(data: bytes, target: Descriptor, host: str) -> None:
    """Refuse content that is not what a descriptor says.

    Raises:
        DataLoss: It has another size or another digest.
    """
    if len(data) != target.size:
        raise DataLoss(f"{host}: {target.digest} has {len(data)} bytes, and {target.size} were announced")
    found = _digest_like(target.digest, data)
    if found != target.digest:
        raise DataLoss(f"{host}: the content for {target.digest} has the digest {found}")


async def read_body(response: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """Return a body of at most `limit` bytes.

    Raises:
        ResourceExhausted: It has more.
        BodyBrokenError: The connection broke.
    """
    import aiohttp

    data = bytearray()
    try:
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > limit:
                raise ResourceExhausted(f"{response.url.host}: {what} has more than {limit} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise BodyBrokenError(
            f"{response.url.host}: {what}: the connection broke after {len(data)} bytes"
        ) from exc
    return bytes(data)


class BodyBrokenError(Unavailable):
    """The connection broke while the body of a response was coming."""


def _digest_like(digest: str, data: bytes) -> str:
    algorithm = digest.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def _described(response: aiohttp.ClientResponse, reference: str, what: str) -> Descriptor | None:
    """Return what the headers say, None if they do not say enough."""
    size, found = response.content_length, response.headers.get("Docker-Content-Digest", "")
    if size is not None and size > MAX_MANIFEST and "/manifests/" in response.url.path:
        raise ResourceExhausted(
            f"{response.url.host}: {what} has {size} bytes; a manifest has at most {MAX_MANIFEST}"
        )
    digest = reference if ":" in reference else found
    if found and found != digest:
        raise DataLoss(f"{response.url.host}: {what}: the registry says its digest is {found}")
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if "/blobs/" in response.url.path:
        media_type = media_type or "application/octet-stream"
    if not digest or size is None or not media_type:
        return None
    try:
        check_digest(digest)
    except InvalidArgument as exc:
        raise DataLoss(f"{response.url.host}: {what}: {exc}") from exc
    return Descriptor(SCHEMA1_MANIFEST if media_type == "text/plain" else media_type, digest, size)


def _media_type(response: aiohttp.ClientResponse, data: bytes) -> str:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    if media_type in {"", "application/json", "application/octet-stream"}:
        own = parse_json(data, "the manifest").get("mediaType")
        return str(own) if own else media_type
    return SCHEMA1_MANIFEST if media_type == "text/plain" else media_type


# Of several hosts' failures, the one that says most is raised: what is wrong with the thing itself comes before what is
# wrong with the way there (Go: docker.resolver.Resolve).
_GRAVITY: tuple[type[ContainerdError], ...] = (
    DataLoss, ResourceExhausted, PermissionDenied, Unauthenticated, NotFound, Unavailable,
)  # fmt: skip


def _gravest(failures: Sequence[ContainerdError]) -> ContainerdError:
    """Return the error to be raised when every host has failed."""

    def rank(error: ContainerdError) -> int:
        return next((n for n, kind in enumerate(_GRAVITY) if isinstance(error, kind)), 0)

    return min(failures, key=rank)
