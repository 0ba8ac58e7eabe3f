"""Pushing to a registry that misbehaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from aiohttp import web

from containerd_aio.distribution import _http
from containerd_aio.distribution._retry import Retries
from containerd_aio.distribution.progress import Action
from containerd_aio.distribution.upload import Uploader
from containerd_aio.errors import DataLoss, InvalidArgument, NotFound, PermissionDenied, Unavailable
from tests.unit.fake_registry import MANIFEST, FakeRegistry, described, digest_of, status

DATA = bytes(range(256)) * 4000
TARGET = described(DATA)


def source(data: bytes = DATA, asked: list[int] | None = None) -> Callable[[int], AsyncIterator[bytes]]:
    async def chunks(offset: int) -> AsyncIterator[bytes]:
        if asked is not None:
            asked.append(offset)
        for at in range(offset, len(data), 50_000):
            yield data[at : at + 50_000]

    return chunks


async def test_what_is_there_is_seen() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        uploader = Uploader(registry, "a/b")
        assert not await uploader.exists(TARGET)
        server.add(DATA)
        assert await uploader.exists(TARGET)
        manifest = server.add_manifest("a/b", "1", b"{}")
        assert await uploader.exists(manifest)
        assert await uploader.exists(manifest, tag="1")
        assert not await uploader.exists(described(b"other", MANIFEST), tag="1")
        server.on("HEAD", "", status(403))
        with pytest.raises(PermissionDenied):
            await uploader.exists(TARGET)


async def test_a_blob_goes_in_one_request() -> None:
    told: list[int] = []
    async with FakeRegistry() as server, server.client() as registry:
        assert (
            await Uploader(registry, "a/b").push_blob(TARGET, source(), progress=told.append) is Action.DONE
        )
        assert server.blobs[TARGET.digest] == DATA
        assert [r.method for r in server.requests] == ["POST", "PUT"]
        assert server.requests[1].headers["Content-Length"] == str(len(DATA))
        assert told == sorted(told)
        assert told[-1] == len(DATA)


async def test_a_blob_in_chunks() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        await Uploader(registry, "a/b", chunk_size=300_000).push_blob(TARGET, source())
        assert server.blobs[TARGET.digest] == DATA
        assert [r.method for r in server.requests] == ["POST", *["PATCH"] * 4, "PUT"]
        ranges = [r.headers["Content-Range"] for r in server.requests if r.method == "PATCH"]
        assert ranges[0] == "0-299999"
        assert ranges[-1] == f"900000-{len(DATA) - 1}"
    with pytest.raises(InvalidArgument, match="chunk_size is 0"):
        Uploader(registry, "a/b", chunk_size=0)


async def test_a_blob_is_mounted_from_another_repository() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.mountable.add(("a/c", TARGET.digest))
        uploader = Uploader(registry, "a/b")
        assert await uploader.push_blob(TARGET, source(), mount_from=["a/c"]) is Action.MOUNTED
        assert len(server.requests) == 1


@pytest.mark.parametrize("code", [None, 404, 403])
async def test_a_mount_that_is_not_granted_becomes_an_upload(code: int | None) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse | None:
        return await status(code)(request) if code and "mount" in request.query else None

    async with FakeRegistry() as server, server.client() as registry:
        server.on("POST", "uploads", refuse)
        assert await Uploader(registry, "a/b").push_blob(TARGET, source(), mount_from=["x"]) is Action.DONE
        assert server.blobs[TARGET.digest] == DATA


async def test_a_cut_upload_goes_on_where_the_registry_says() -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        upload = server.uploads[request.path.rpartition("/")[2]]
        while len(upload) < 400_000:
            upload += await request.content.readany()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    asked: list[int] = []
    async with FakeRegistry() as server, server.client() as registry:
        server.on("PUT", "uploads", cut, times=1)
        await Uploader(registry, "a/b").push_blob(TARGET, source(asked=asked))
        assert server.blobs[TARGET.digest] == DATA
        assert [r.method for r in server.requests] == ["POST", "PUT", "GET", "PATCH", "PUT"]
        assert asked[0] == 0
        assert asked[1] >= 400_000


@pytest.mark.parametrize("code", [404, 500, 429])
async def test_an_upload_that_is_lost_is_begun_again(code: int) -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.on("PUT", "uploads", status(code), times=1)
        server.on("GET", "uploads", status(404))
        await Uploader(registry, "a/b").push_blob(TARGET, source())
        assert server.blobs[TARGET.digest] == DATA
        assert server.count("POST", "uploads") == 2


async def test_a_registry_that_never_takes_it_is_given_up() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.on("PUT", "uploads", status(500))
        with pytest.raises(Unavailable, match="status 500"):
            await Uploader(registry, "a/b").push_blob(TARGET, source())
        assert server.count("PUT", "uploads") == 4


async def test_a_registry_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "_UPLOAD_TIMEOUT", 0.2)
    closed, given_up = anyio.Event(), anyio.Event()
    data = bytes(32 << 20)  # more than all buffers on the way have room for

    async def whole(_: int) -> AsyncIterator[bytes]:
        try:
            yield data
        finally:
            closed.set()

    async def frozen(request: web.Request) -> web.Response:
        await given_up.wait()
        with suppress(ConnectionError):
            await request.read()
        return web.Response(status=500)

    async with FakeRegistry() as server, server.client(retries=Retries(attempts=1)) as registry:
        server.on("PUT", "uploads", frozen)
        with pytest.raises(Unavailable, match="nothing that was sent was taken for 0 s"):
            await Uploader(registry, "a/b").push_blob(described(data), whole)
        with anyio.fail_after(5):
            await closed.wait()
        given_up.set()


async def test_a_place_for_an_upload_that_is_no_url() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        server.on("POST", "uploads", status(202, Location="http://[::1"))
        with pytest.raises(Unavailable, match="the place for it is no URL"):
            await Uploader(registry, "a/b").push_blob(TARGET, source())


async def test_what_the_registry_refuses_is_not_repeated() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        wrong = described(DATA[::-1])
        with pytest.raises(InvalidArgument, match="DIGEST_INVALID: provided digest did not match"):
            await Uploader(registry, "a/b").push_blob(wrong, source())
        assert server.count("PUT", "uploads") == 1


async def test_content_that_cannot_be_read_is_told_as_it_is() -> None:
    async def broken(offset: int) -> AsyncIterator[bytes]:
        yield DATA[offset : offset + 1000]
        raise NotFound("the blob has gone")

    async with FakeRegistry() as server, server.client() as registry:
        with pytest.raises(NotFound, match="the blob has gone"):
            await Uploader(registry, "a/b").push_blob(TARGET, broken)
        assert server.count("PUT", "uploads") <= 1
        with pytest.raises(DataLoss, match="ends 1 bytes before"):
            await Uploader(registry, "a/b").push_blob(TARGET, source(DATA[:-1]))


async def test_an_upload_elsewhere_gets_no_credentials() -> None:
    async def bearer(_: Any) -> str:
        return "Bearer hush"

    async with FakeRegistry() as storage, FakeRegistry() as server, server.client() as registry:
        storage.uploads["x"] = bytearray()
        location = f"{storage.url}/v2/a/b/blobs/uploads/x"
        server.on("POST", "uploads", status(202, Location=location))
        registry.endpoints()[0].authorizer("a/b").header = bearer
        await Uploader(registry, "a/b").push_blob(TARGET, source())
        assert storage.blobs[TARGET.digest] == DATA
        assert server.requests[0].headers["Authorization"] == "Bearer hush"
        assert not any("Authorization" in r.headers for r in storage.requests)


async def test_a_registry_that_has_got_something_else() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        other = digest_of(b"other")
        server.on("PUT", "", status(201, Docker_Content_Digest=other))
        uploader = Uploader(registry, "a/b")
        with pytest.raises(DataLoss, match=f"{other} has come"):
            await uploader.push_blob(TARGET, source())
        with pytest.raises(DataLoss, match=f"{other} has come"):
            await uploader.push_manifest(described(b"{}", MANIFEST), b"{}", tag="1")


async def test_a_manifest_by_tag_and_by_digest() -> None:
    async with FakeRegistry() as server, server.client() as registry:
        uploader, target = Uploader(registry, "a/b"), described(b"{}", MANIFEST)
        await uploader.push_manifest(target, b"{}")
        assert ("a/b", target.digest) in server.manifests
        await uploader.push_manifest(target, b"{}", tag="1")
        assert server.manifests["a/b", "1"] == (MANIFEST, b"{}")
