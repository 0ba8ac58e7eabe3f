"""The content store: reading, writing and their errors."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpclib.const import Cardinality

from containerd_aio.api.containerd.services.content.v1 import (
    AbortRequest,
    DeleteContentRequest,
    Info,
    InfoRequest,
    ListContentRequest,
    ListStatusesRequest,
    ReadContentRequest,
    StatusRequest,
    UpdateRequest,
    WriteAction,
    WriteContentRequest,
    WriteContentResponse,
)
from containerd_aio.api.google.protobuf import FieldMask
from tests.contract.backend import LONG_LABEL, Backend, refused

WRITE = "/containerd.services.content.v1.Content/Write"
STAT, PUT, COMMIT = WriteAction.STAT, WriteAction.WRITE, WriteAction.COMMIT
DATA = b"hello world"
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
EMPTY = f"sha256:{hashlib.sha256().hexdigest()}"
Z = "sha256:" + "0" * 64


async def talk(backend: Backend, *messages: WriteContentRequest) -> list[WriteContentResponse]:
    """Send messages one after the other, each after the reply to the last, and return all replies."""
    channel: Any = backend.client.services.content.channel
    replies = []
    async with channel.request(
        WRITE, Cardinality.STREAM_STREAM, WriteContentRequest, WriteContentResponse
    ) as stream:
        for number, message in enumerate(messages, 1):
            await stream.send_message(message, end=number == len(messages))
            reply = await stream.recv_message()
            if reply is None:
                if number < len(messages):
                    await stream.end()
                await stream.recv_trailing_metadata()
                break
            replies.append(reply)
        while (reply := await stream.recv_message()) is not None:
            replies.append(reply)
    return replies


def message(ref: str, action: WriteAction = STAT, **fields: Any) -> WriteContentRequest:
    return WriteContentRequest(action=action, ref=ref, **fields)


@pytest.fixture
async def blob(backend: Backend) -> AsyncIterator[str]:
    """A blob in the store; its digest."""
    async with backend.client.lease():
        await talk(backend, message(backend.id(), COMMIT, data=DATA, total=len(DATA)))
        yield DIGEST
        await backend.client.services.content.delete(DeleteContentRequest(digest=DIGEST))


async def test_what_is_not_there(backend: Backend) -> None:
    content = backend.client.services.content
    missing = ("NotFound", f"content digest {Z}: not found")
    assert await refused(content.info(InfoRequest(digest=Z))) == missing
    assert await refused(_read(backend, digest=Z)) == missing
    assert await refused(content.delete(DeleteContentRequest(digest=Z))) == missing
    assert await refused(content.update(UpdateRequest(info=Info(digest=Z, labels={"a": "b"})))) == missing
    assert await refused(content.status(StatusRequest(ref="none"))) == (
        "NotFound",
        'could not get status for ref "none": reference none: not found',
    )
    assert await refused(content.abort(AbortRequest(ref="none"))) == ("NotFound", "reference none: not found")


async def test_digests_are_checked(backend: Backend) -> None:
    content = backend.client.services.content
    for bad in ("bad", "sha256:123", ""):
        failed = ("InvalidArgument", f'"{bad}" failed validation')
        assert await refused(content.info(InfoRequest(digest=bad))) == failed
        assert await refused(content.update(UpdateRequest(info=Info(digest=bad)))) == failed
    assert await refused(_read(backend, digest="bad")) == (
        "InvalidArgument",
        "bad: invalid checksum digest format",
    )
    assert await refused(content.delete(DeleteContentRequest(digest="bad"))) == (
        "InvalidArgument",
        "invalid checksum digest format",
    )


async def test_a_write_in_three_calls(backend: Backend) -> None:
    content, ref = backend.client.services.content, backend.id()
    async with backend.client.lease():
        first, again = await talk(backend, message(ref, total=11, expected=DIGEST))
        assert first == again  # the last reply is always repeated
        assert (first.action, first.offset, first.total, first.digest) == (STAT, 0, 11, EMPTY)
        replies = await talk(backend, message(ref, total=11), message(ref, PUT, data=DATA[:5]))
        assert [(reply.action, reply.offset) for reply in replies] == [(STAT, 0), (PUT, 5), (PUT, 5)]
        status = (await content.status(StatusRequest(ref=ref))).status
        assert status is not None
        assert (status.ref, status.offset, status.total, status.expected) == (ref, 5, 11, "")
        assert status.updated_at is not None
        listed = (await content.list_statuses(ListStatusesRequest(filters=[f"ref=={ref}"]))).statuses
        assert [status.ref for status in listed] == [ref]
        replies = await talk(
            backend, message(ref, PUT, offset=5, data=DATA[5:]), message("", COMMIT, offset=11, total=11)
        )
        assert (replies[-1].action, replies[-1].offset, replies[-1].digest) == (COMMIT, 11, DIGEST)
        assert (replies[-1].started_at is None) == (backend.release != "1.6")
        info = (await content.info(InfoRequest(digest=DIGEST))).info
        assert info is not None
        assert (info.digest, info.size, info.labels) == (DIGEST, 11, {})
        not_found = "NotFound", f'could not get status for ref "{ref}": reference {ref}: not found'
        assert await refused(content.status(StatusRequest(ref=ref))) == not_found
        await content.delete(DeleteContentRequest(digest=DIGEST))


async def test_events_of_content(backend: Backend) -> None:
    async with backend.client.events("topic~=|^/content/|") as events, backend.client.lease():
        await talk(backend, message(backend.id(), COMMIT, data=DATA))
        await backend.client.services.content.delete(DeleteContentRequest(digest=DIGEST))
        seen: list[Any] = [await anext(events)]
        if backend.release == "2.1":
            assert (seen[0].topic, seen[0].digest, seen[0].size) == ("/content/create", DIGEST, 11)
            seen.append(await anext(events))
        assert (seen[-1].topic, seen[-1].digest) == ("/content/delete", DIGEST)


async def test_writes_are_checked(backend: Backend) -> None:
    ref = backend.id()
    await talk(backend, message(ref), message(ref, PUT, data=DATA[:5]))
    assert await refused(talk(backend, message(ref, PUT, offset=99, data=b"x"))) == (
        "OutOfRange",
        "write @99 must occur at current offset 5",
    )
    # Offset 0 throws away what has come: an offset that is not set is 0.
    replies = await talk(backend, message(ref, PUT, data=b"xy"))
    assert replies[-1].offset == 2
    assert await refused(talk(backend, message(ref, COMMIT, offset=2, total=9))) == (
        "FailedPrecondition",
        f'"{ref}" failed size validation: 2 != 9: failed precondition',
    )
    assert await refused(talk(backend, message(""))) == (
        "InvalidArgument",
        "first message must have a reference",
    )
    await _abort(backend, ref)
    long = message(ref, COMMIT, data=DATA, labels=LONG_LABEL)
    class_name, text = await refused(talk(backend, long))
    assert class_name == "InvalidArgument"
    assert text.startswith("info.Labels: label key and value ")
    await _abort(backend, ref)


async def test_a_wrong_digest(backend: Backend) -> None:
    ref = backend.id()
    class_name, text = await refused(talk(backend, message(ref, COMMIT, data=DATA, expected=Z)))
    assert class_name == "FailedPrecondition"
    assert text.endswith(": failed precondition")
    assert f"unexpected commit digest {DIGEST}, expected {Z}" in text
    await _abort(backend, ref)


async def test_what_is_there_is_not_written_again(backend: Backend, blob: str) -> None:
    exists = ("AlreadyExists", f"content {blob}: already exists")
    assert await refused(talk(backend, message(backend.id(), expected=blob))) == exists
    assert await refused(talk(backend, message(backend.id(), COMMIT, data=DATA))) == exists
    late = [message(backend.id()), message("", PUT, data=b"x", expected=blob)]
    assert await refused(talk(backend, *late)) == (
        "AlreadyExists",
        f"blob with expected digest {blob} exists",
    )


async def test_an_ingest_has_one_writer(backend: Backend) -> None:
    content, ref = backend.client.services.content, backend.id()
    channel: Any = content.channel
    async with channel.request(
        WRITE, Cardinality.STREAM_STREAM, WriteContentRequest, WriteContentResponse
    ) as stream:
        await stream.send_message(message(ref))
        await stream.recv_message()
        class_name, text = await refused(talk(backend, message(ref)))
        assert class_name == "Unavailable"
        assert text.startswith("ref ")
        assert f"/{ref} locked for " in text
        assert text.endswith(": unavailable")
        await stream.end()
        while await stream.recv_message() is not None:
            pass
    await talk(backend, message(ref))
    await content.abort(AbortRequest(ref=ref))


async def test_content_shared_between_namespaces(backend: Backend, blob: str) -> None:
    other = backend.client.namespaced(f"{backend.client.namespace}-other")
    elsewhere = Backend(other, backend.release, backend.fake)
    missing = ("NotFound", f"content digest {blob}: not found")
    assert await refused(other.services.content.info(InfoRequest(digest=blob))) == missing
    ref = backend.id()
    async with other.lease():  # nothing else holds it there, and collections run at any time
        replies = await talk(elsewhere, message(ref, total=11, expected=blob))
        assert replies[0].offset == 11  # nothing needs to be sent
        assert replies[0].digest == blob
        await talk(elsewhere, message(ref, total=11, expected=blob), message("", COMMIT, offset=11, total=11))
        assert (await other.services.content.info(InfoRequest(digest=blob))).info is not None
        await other.services.content.delete(DeleteContentRequest(digest=blob))


async def _read(backend: Backend, **fields: Any) -> bytes:
    stream = backend.client.services.content.read(ReadContentRequest(**fields))
    return b"".join([reply.data async for reply in stream])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, DATA),
        ({"offset": 6}, b"world"),
        ({"size": 5}, b"hello"),
        ({"offset": 3, "size": 100}, b"lo world"),
        ({"offset": 11}, b""),
        ({"offset": -1}, DATA),
        ({"size": -1}, DATA),
    ],
)
async def test_reading(backend: Backend, blob: str, fields: dict[str, int], expected: bytes) -> None:
    assert await _read(backend, digest=blob, **fields) == expected


async def test_reading_past_the_end(backend: Backend, blob: str) -> None:
    assert await refused(_read(backend, digest=blob, offset=12)) == (
        "OutOfRange",
        "read past object length 11 bytes",
    )


async def test_labels(backend: Backend, blob: str) -> None:
    content = backend.client.services.content

    async def updated(paths: list[str] | None, **labels: str) -> dict[str, str]:
        mask = None if paths is None else FieldMask(paths=paths)
        request = UpdateRequest(info=Info(digest=blob, labels=labels), update_mask=mask)
        reply = (await content.update(request)).info
        assert reply is not None
        return reply.labels

    assert await updated(["labels"], a="b") == {"a": "b"}
    assert await updated(["labels.c.d"], **{"c.d": "1"}) == {"a": "b", "c.d": "1"}
    assert await updated(["labels.a"], a="") == {"c.d": "1"}
    assert await updated(None, n="1") == {"n": "1"}
    assert await refused(updated(["size"])) == (
        "InvalidArgument",
        f'cannot update "size" field on content info "{blob}": invalid argument',
    )
    for text, found in [(f"digest=={blob}", True), ("labels.n==1", True), ("size==11", False)]:
        listing = content.list(ListContentRequest(filters=[text]))
        digests = [info.digest async for reply in listing for info in reply.info]
        assert (blob in digests) == found, text


async def _abort(backend: Backend, ref: str) -> None:
    # The end of a failed call is told before the daemon has let go of its ingest.
    await backend.client.services.content.abort(AbortRequest(ref=ref))
