"""Reading a blob from a registry: resumed where a connection broke, and in parallel ranges where it is large."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio

from containerd_aio._log import get_logger
from containerd_aio.distribution._challenge import repository_scope
from containerd_aio.distribution._endpoint import error_of
from containerd_aio.distribution.hosts import Capability, is_http_url
from containerd_aio.distribution.registry import BodyBrokenError, content_path
from containerd_aio.errors import ContainerdError, DataLoss, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from containerd_aio.distribution._endpoint import Endpoint
    from containerd_aio.distribution._retry import Patience
    from containerd_aio.distribution.registry import Registry
    from containerd_aio.services.descriptor import Descriptor

RANGE_SIZE = 8 << 20
"""Bytes of one of the ranges that are fetched in parallel; as much is held in memory for each of them."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class BlobReader:
    """Reads one blob, from one host after the other.

    Args:
        registry: The registry, open.
        repository: Where in it.
        target: The blob.
        avoid: Hosts that have sent something else under its digest before.

    Attributes:
        served: The hosts of which bytes were taken.
        whole_only: A host has sent everything when asked for a range.
    """

    def __init__(
        self,
        registry: Registry,
        repository: str,
        target: Descriptor,
        *,
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        self._repository = repository
        self._target = target
        self._what = f"{target.digest} of {repository}"
        self._endpoints = [e for e in registry.endpoints(Capability.PULL) if e.host.host not in avoid]
        self._log = get_logger(__name__).bind(registry=registry.registry, digest=target.digest)
        self.served: set[str] = set()
        self.whole_only = False

    @property
    def has_hosts(self) -> bool:
        """Whether there is anybody left to be asked."""
        return bool(self._endpoints)

    async def checked(self) -> AsyncGenerator[bytes, None]:
        """Yield the whole blob, and check its digest at the end.

        Raises:
            DataLoss: It is not the blob.
        """
        algorithm, _, expected = self._target.digest.partition(":")
        hasher = hashlib.new(algorithm)
        async with aclosing(self.chunks(0)) as chunks:
            async for chunk in chunks:
                hasher.update(chunk)
                yield chunk
        if hasher.hexdigest() != expected:
            hosts = ", ".join(sorted(self.served))
            raise DataLoss(
                f"{hosts}: the content for {self._target.digest} has the digest {algorithm}:{hasher.hexdigest()}"
            )

    async def chunks(self, start: int, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` to before `end`, or to the end; the digest is not checked.

        Raises:
            ContainerdError: No host has them; the error is that of the first host.
            DataLoss: The size is another one.
        """
        end = self._target.size if end is None else end
        position = start
        failures: list[ContainerdError] = []
        for endpoint, path in self._sources():
            patience = endpoint.patience()
            while position < end:
                try:
                    async with aclosing(self._once(endpoint, path, patience, position, end)) as chunks:
                        async for chunk in chunks:
                            position += len(chunk)
                            patience.progressed()
                            yield chunk
                except BodyBrokenError as exc:
                    delay = patience.after_failure()
                    if delay is None:
                        failures.append(exc)
                        break
                    self._log.info("resumed", host=endpoint.host.host, offset=position, error=str(exc))
                    await anyio.sleep(delay)
                except ContainerdError as exc:
                    self._log.debug("not fetched", host=endpoint.host.host, error=str(exc))
                    failures.append(exc)
                    break
            else:
                return
        raise failures[0] if failures else NotFound(f"no host is left that could have {self._what}")

    def _sources(self) -> list[tuple[Endpoint, str]]:
        """Return whom to ask for what: the places that the descriptor names, then the hosts of the registry."""
        path = content_path(self._repository, self._target)
        elsewhere = [url for url in self._target.urls if is_http_url(url)]
        return [(e, url) for e in self._endpoints[:1] for url in elsewhere] + [
            (e, path) for e in self._endpoints
        ]

    async def _once(
        self, endpoint: Endpoint, path: str, patience: Patience, start: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield what one response brings of the bytes wanted."""
        # Docker's storage back ends compress on the way when they may; the digest is of what is not.
        headers = {"Accept": f"{self._target.media_type or '*/*'}, */*", "Accept-Encoding": "identity"}
        if start or end < self._target.size:
            headers["Range"] = f"bytes={start}-{end - 1}"
        async with endpoint.request(
            "GET",
            path,
            repository=self._repository,
            scopes=(repository_scope(self._repository, "pull"),),
            headers=headers,
            patience=patience,
            trusted="://" not in path,
        ) as response:
            if response.status not in {200, 206}:
                raise await error_of(response, self._what)
            first = self._first_byte(response, start)
            self.served.add(endpoint.host.host)
            try:
                async for chunk in self._body(response, first, start, end):
                    yield chunk
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                raise BodyBrokenError(
                    f"{endpoint.host.host}: {self._what}: the connection broke ({type(exc).__name__})"
                ) from exc

    def _first_byte(self, response: aiohttp.ClientResponse, start: int) -> int:
        """Return which byte of the blob the body begins with.

        Raises:
            DataLoss: The response is for something of another size.
        """
        host, size = response.url.host, self._target.size
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Unavailable(f"{host}: {self._what}: sent encoded, which was not asked for")
        if response.status == 200:
            self.whole_only = self.whole_only or "Range" in response.request_info.headers
            if response.content_length not in {None, size}:
                raise DataLoss(
                    f"{host}: {self._what} is announced with {response.content_length} bytes, and has {size}"
                )
            return 0
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise DataLoss(f"{host}: {self._what}: another range was sent than the one from byte {start}")
        if found[3] not in {"*", str(size)}:
            raise DataLoss(f"{host}: {self._what} is announced with {found[3]} bytes, and has {size}")
        return start

    async def _body(
        self, response: aiohttp.ClientResponse, first: int, start: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        position = first
        async for chunk in response.content.iter_any():
            begin = position
            position += len(chunk)
            if position > self._target.size:
                raise DataLoss(
                    f"{response.url.host}: {self._what} is longer than its {self._target.size} bytes"
                )
            wanted = (
                chunk[max(start - begin, 0) : max(end - begin, 0)]
                if begin < start or position > end
                else chunk
            )
            if wanted:
                yield wanted
            if position >= end:
                if end < self._target.size:
                    return
                continue
        if position < end:
            raise BodyBrokenError(
                f"{response.url.host}: {self._what}: the body ended at byte {position} of {end}"
            )


@dataclass(slots=True)
class _Piece:
    """A range under way."""

    start: int
    end: int
    chunks: list[bytes] = field(default_factory=list)
    done: Any = field(default_factory=anyio.Event)
    error: ContainerdError | None = None

    async def fetch(self, reader: BlobReader) -> None:
        try:
            async with aclosing(reader.chunks(self.start, self.end)) as chunks:
                async for chunk in chunks:
                    if reader.whole_only:
                        return
                    self.chunks.append(chunk)
        except ContainerdError as exc:
            self.error = exc
        finally:
            self.done.set()


async def parallel_chunks(
    tasks: TaskGroup, reader: BlobReader, start: int, size: int, *, ranges: int
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a blob from `start` on, in order, several ranges of it being fetched at the same time.

    Args:
        tasks: Where the requests run; to be cancelled by whoever stops reading.
        reader: The blob.
        start: First byte.
        size: Size of the blob.
        ranges: How many at the same time.
    """
    starts = iter(range(start, size, RANGE_SIZE))
    under_way: deque[_Piece] = deque()
    position = start

    def begin() -> None:
        for first in islice(starts, 1):
            under_way.append(_Piece(first, min(first + RANGE_SIZE, size)))
            tasks.start_soon(under_way[-1].fetch, reader)

    for _ in range(ranges):
        begin()
    while under_way and not reader.whole_only:
        piece = under_way.popleft()
        await piece.done.wait()
        if reader.whole_only:
            break
        if piece.error is not None:
            raise piece.error
        begin()
        for chunk in piece.chunks:
            position += len(chunk)
            yield chunk
    if position < size:  # ranges are of no use there
        async with aclosing(reader.chunks(position)) as chunks:
            async for chunk in chunks:
                yield chunk
