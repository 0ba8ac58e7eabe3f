"""Sending content to a registry: blobs in upload sessions, manifests by name (OCI distribution specification, "push")."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import anyio

from containerd_aio._log import get_logger
from containerd_aio.distribution._challenge import repository_scope
from containerd_aio.distribution._endpoint import error_of
from containerd_aio.distribution._http import joined, origin
from containerd_aio.distribution._retry import Patience, Retries
from containerd_aio.distribution.hosts import Capability, is_http_url
from containerd_aio.distribution.progress import Action
from containerd_aio.distribution.registry import content_path
from containerd_aio.errors import (
    ContainerdError,
    DataLoss,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Mapping, Sequence

    import aiohttp

    from containerd_aio.distribution._endpoint import Endpoint
    from containerd_aio.distribution.registry import Registry
    from containerd_aio.services.descriptor import Descriptor

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")


class Uploader:
    """Pushes to one repository.

    Args:
        registry: The registry, open. Of its hosts, the first that takes pushes is used.
        repository: Where to.
        chunk_size: Send a blob in requests of at most so many bytes, for registries behind something that limits them; None
            sends it in one.

    Raises:
        InvalidArgument: No host takes pushes, or `chunk_size` is not positive.
    """

    def __init__(self, registry: Registry, repository: str, *, chunk_size: int | None = None) -> None:
        if chunk_size is not None and chunk_size <= 0:
            raise InvalidArgument(f"chunk_size is {chunk_size}; it must be more than 0 bytes")
        # The hosts after it are for reading: two halves of an image at two hosts would be none.
        self._endpoint = registry.endpoints(Capability.PUSH)[0]
        self._repository = repository
        self._chunk_size = chunk_size
        self._scopes = (repository_scope(repository, "pull", "push"),)
        self._log = get_logger(__name__).bind(registry=registry.registry, repository=repository)

    async def exists(self, target: Descriptor, *, tag: str = "") -> bool:
        """Tell whether the registry has the content, and for a manifest, under that tag."""
        path = f"{self._repository}/manifests/{tag}" if tag else content_path(self._repository, target)
        async with self._endpoint.request(
            "HEAD",
            path,
            repository=self._repository,
            scopes=self._scopes,
            headers={"Accept": f"{target.media_type}, */*"},
        ) as response:
            if response.status == 200:
                return not tag or response.headers.get("Docker-Content-Digest") == target.digest
            if response.status in {401, 404}:
                return False  # 401: some registries let nobody look who may write
            raise await error_of(response, f"{target.digest} of {self._repository}")

    async def push_manifest(self, target: Descriptor, data: bytes, *, tag: str = "") -> None:
        """Put a manifest or index, under its digest and, if given, a tag.

        Raises:
            InvalidArgument: The registry finds it invalid, or something that it names is missing there.
            DataLoss: The registry says that it has got something else.
        """
        what = f"manifest {self._repository}{f':{tag}' if tag else f'@{target.digest}'}"
        async with self._endpoint.request(
            "PUT",
            f"{self._repository}/manifests/{tag or target.digest}",
            repository=self._repository,
            scopes=self._scopes,
            headers={"Content-Type": target.media_type},
            body=data,
        ) as response:
            if response.status not in {200, 201, 204}:
                raise await error_of(response, what)
            _check(response, target)

    async def push_blob(
        self,
        target: Descriptor,
        source: Callable[[int], AsyncIterable[bytes]],
        *,
        mount_from: Sequence[str] = (),
        progress: Callable[[int], object] | None = None,
    ) -> Action:
        """Upload a blob, or have it mounted from another repository of the same registry.

        An upload that breaks is gone on with where the registry says that it broke, else begun again.

        Args:
            target: The blob.
            source: Returns its bytes from an offset on.
            mount_from: Repositories that may have it.
            progress: Called with the number of bytes that were sent.

        Returns:
            ``MOUNTED`` or ``DONE``.

        Raises:
            DataLoss: The registry says that it has got something else.
        """
        patience = self._endpoint.patience()
        location = await self._begin(target, mount_from)
        if location is None:
            return Action.MOUNTED
        offset = 0
        while True:
            upload = _Upload(self._endpoint, self._repository, self._scopes, target, source, progress)
            try:
                await upload.run(location, offset, self._chunk_size or target.size)
            except (Unavailable, ResourceExhausted, NotFound) as exc:
                delay = None if upload.source_failed else patience.after_failure()
                if delay is None:
                    raise
                await anyio.sleep(delay)
                location, offset = await self._where(upload.location)
                if not location or not 0 < offset <= target.size:
                    location, offset = await self._begin(target, ()) or "", 0
                self._log.info("upload resumed", digest=target.digest, offset=offset, error=str(exc))
            else:
                return Action.DONE

    async def _begin(self, target: Descriptor, mount_from: Sequence[str]) -> str | None:
        """Open an upload session and return where it is; None if the blob was mounted."""
        for repository in (*mount_from, ""):
            query = {"mount": target.digest, "from": repository} if repository else {}
            scopes = (*self._scopes, *([repository_scope(repository, "pull")] if repository else []))
            try:
                async with self._endpoint.request(
                    "POST",
                    f"{self._repository}/blobs/uploads/",
                    repository=self._repository,
                    scopes=scopes,
                    query=query,
                    body=b"",
                ) as response:
                    if response.status == 201 and repository:
                        return None
                    if response.status == 202 or (response.status in {200, 204} and not repository):
                        return _location(response)
                    error = await error_of(response, f"upload to {self._repository}")
            except ContainerdError:
                if not repository:
                    raise
                continue  # that one may not be read, or does not exist
            if not repository:
                raise error
        raise AssertionError("the last one returns or raises")

    async def _where(self, location: str) -> tuple[str, int]:
        """Return where an upload goes on, and from which byte; an empty place when it is lost."""
        try:
            async with self._endpoint.request(
                "GET",
                location,
                repository=self._repository,
                scopes=self._scopes,
                trusted=_trusted(self._endpoint, location),
            ) as response:
                if response.status not in {200, 202, 204}:
                    return "", 0
                found = _RANGE.fullmatch(response.headers.get("Range", ""))
                if found is None:
                    return "", 0
                # "0-0" stands for nothing as well as for one byte; sending that byte twice would spoil the blob.
                offset = int(found[1]) + 1 if int(found[1]) else 0
                return (
                    (_location(response) if "Location" in response.headers else location, offset)
                    if offset
                    else ("", 0)
                )
        except ContainerdError:
            return "", 0


def _location(response: aiohttp.ClientResponse) -> str:
    location = response.headers.get("Location")
    if not location:
        raise Unavailable(f"{response.url.host}: an upload was accepted, and it was not said where to")
    url = joined(str(response.url), location)
    if not is_http_url(url):
        raise Unavailable(f"{response.url.host}: an upload was accepted, and the place for it is no URL")
    return url


def _check(response: aiohttp.ClientResponse, target: Descriptor) -> None:
    said = response.headers.get("Docker-Content-Digest")
    if said and said != target.digest:
        raise DataLoss(f"{response.url.host}: {target.digest} was sent, and {said} has come")


def _trusted(endpoint: Endpoint, location: str) -> bool:
    """Whether credentials may go there: only to the very host that we speak to."""
    return origin(location) == origin(endpoint.url(""))


@dataclass(slots=True)
class _Upload:
    """One run through an upload session."""

    endpoint: Endpoint
    repository: str
    scopes: Sequence[str]
    target: Descriptor
    source: Callable[[int], AsyncIterable[bytes]]
    progress: Callable[[int], object] | None
    location: str = ""
    source_failed: bool = False

    async def run(self, location: str, offset: int, step: int) -> None:
        """Send what is missing from `offset` on, in requests of at most `step` bytes, and close the session."""
        self.location = location
        if offset or step < self.target.size:
            for start in range(offset, self.target.size, max(step, 1)):
                await self._patch(start, min(start + step, self.target.size))
            offset = self.target.size
        await self._put(offset)

    async def _patch(self, start: int, end: int) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{start}-{end - 1}"}
        async with self._send("PATCH", self.location, headers, start, end) as response:
            if response.status not in {201, 202, 204}:
                raise await error_of(response, f"upload of {self.target.digest}")
            self.location = _location(response)

    async def _put(self, start: int) -> None:
        parts = urlsplit(self.location)
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), ("digest", self.target.digest)])
        url = urlunsplit((*parts[:3], query, ""))
        headers = {"Content-Type": "application/octet-stream"}
        async with self._send("PUT", url, headers, start, self.target.size) as response:
            if response.status not in {200, 201, 204}:
                raise await error_of(response, f"upload of {self.target.digest}")
            _check(response, self.target)

    @asynccontextmanager
    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], start: int, end: int
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        failures: list[Exception] = []

        async def body() -> AsyncGenerator[bytes, None]:
            position = start
            try:
                async with aclosing(self._bytes(start, end)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                        position += len(chunk)
                        if self.progress is not None:
                            self.progress(position)
            except Exception as exc:
                failures.append(exc)
                raise

        try:
            async with self.endpoint.request(
                method,
                url,
                repository=self.repository,
                scopes=self.scopes,
                headers=headers,
                body=body if end > start else b"",
                size=end - start,
                patience=Patience(
                    Retries(attempts=1)
                ),  # what has come of it is asked before it is sent again
                trusted=_trusted(self.endpoint, url),
            ) as response:
                yield response
        except Unavailable as exc:
            if failures:
                self.source_failed = True
                raise failures[0] from exc
            raise

    async def _bytes(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        left = end - start
        source = self.source(start)
        try:
            async for chunk in source:
                yield bytes(chunk[:left])
                left -= len(chunk)
                if left <= 0:
                    return
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()
        raise DataLoss(
            f"{self.target.digest} ends {left} bytes before the {self.target.size} of its descriptor"
        )
