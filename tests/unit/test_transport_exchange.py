"""Unary calls past h2: whatever a daemon answers, the outcome is that of a stream that h2 and grpclib have read."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import hpack
import pytest
from grpclib.const import Cardinality
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerd_aio import errors
from containerd_aio._transport import limits
from containerd_aio._transport.exchange import Exchanges
from containerd_aio.api.containerd.services.events.v1 import SubscribeRequest
from containerd_aio.api.containerd.services.tasks.v1 import GetRequest, TasksStub
from containerd_aio.api.containerd.services.version.v1 import VersionResponse, VersionStub
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.events.stream import SUBSCRIBE
from tests.unit import http2_peer as h2
from tests.unit.grpc_server import fake_server
from tests.unit.http2_peer import Peer, PeerChannel, frame, message

VERSION = bytes(VersionResponse(version="1.2.3", revision="r"))


def answered(peer: Peer, stream: int) -> bytes:
    version = peer.requests[stream][0][":path"].endswith("/Version")
    return peer.reply(stream, VERSION if version else b"")


def silent(peer: Peer, stream: int) -> bytes:
    return b""


def _cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def _until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(5):
        while not condition():
            await anyio.lowlevel.checkpoint()


# -- the same as by h2 ---------------------------------------------------------------------------------------------


async def _outcomes(script: Callable[[Peer, int], bytes], cuts: list[int]) -> list[object]:
    """What two calls in turn come to when the first is answered by `script`."""
    outcomes: list[object] = []
    asked: list[int] = []

    def answer(peer: Peer, stream: int) -> bytes:
        peer.cuts = cuts
        asked.append(stream)
        return script(peer, stream) if len(asked) == 1 else answered(peer, stream)

    async with PeerChannel(answer) as channel:
        for _ in range(2):
            try:
                reply = await VersionStub(channel).version()
                outcomes.append((reply.version, reply.revision))
            except errors.ContainerdError as exc:
                outcomes.append((type(exc), str(exc)))
        assert channel.slots.value == limits.CONCURRENT_CALLS
    assert _cancelling() == 0
    return outcomes


def _compare(script: Callable[[Peer, int], bytes], cuts: list[int]) -> object:
    """Return the outcome of `script`, which must not depend on who has read it."""

    async def both() -> list[object]:
        past = await _outcomes(script, cuts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Exchanges, "begin", lambda *_: None)
            assert await _outcomes(script, cuts) == past
        return past

    return asyncio.run(both())[0]


_TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="%"), max_size=50)
_EXTRA = st.lists(st.tuples(st.sampled_from(["x-a", "x-b", "server"]), _TEXTS), max_size=3)
_HEADERS = st.builds(
    lambda status, kind, extra: [(":status", status), *([("content-type", kind)] if kind else []), *extra],
    st.sampled_from(["200", "200", "200", "503", "404"]),
    st.sampled_from(
        [
            "application/grpc",
            "application/grpc",
            "application/grpc+proto",
            "text/html",
            "application/grpc+x",
            "",
        ]
    ),
    _EXTRA,
)
_STATUS = st.builds(
    lambda code, text, extra: [
        ("grpc-status", code) if code else ("x-c", ""),
        *([("grpc-message", text)] if text else []),
        *extra,
    ],
    st.sampled_from(["0", "0", "0", "5", "9", "12", "14", "16", "99", "x", ""]),
    st.one_of(_TEXTS, st.just("unknown service a.b.v1.S"), st.just("caf%C3%A9 %zz")),
    _EXTRA,
)
_BODY = st.one_of(
    st.just(VERSION),
    st.builds(lambda text: bytes(VersionResponse(version=text)), st.text(max_size=300)),
    st.builds(lambda size: bytes(VersionResponse(version="v" * size)), st.integers(0, 60_000)),
)


def _block(
    encoder: hpack.Encoder, headers: list[tuple[str, str]], data: st.DataObject, *, last: bool
) -> bytes:
    """Headers, sometimes padded, with a priority, or in pieces."""
    block = encoder.encode(headers)
    flags = last * h2.END_STREAM
    cut = data.draw(st.one_of(st.just(len(block)), st.integers(1, len(block))))
    first, rest = block[:cut], block[cut:]
    if data.draw(st.booleans()):
        first, flags = b"\0\0\0\0\x0f" + first, flags | h2.PRIORITY
    if data.draw(st.booleans()):
        first, flags = b"\x03" + first + b"\0\0\0", flags | h2.PADDED
    if not rest:
        return frame(h2.HEADERS, flags | h2.END_HEADERS, 1, first)
    return frame(h2.HEADERS, flags, 1, first) + frame(h2.CONTINUATION, h2.END_HEADERS, 1, rest)


def _beside(data: st.DataObject) -> bytes:
    """What may come between any two frames."""
    return data.draw(
        st.sampled_from(
            [
                b"",
                b"",
                frame(h2.PING, 0, 0, b"12345678"),
                frame(h2.WINDOW_UPDATE, 0, 0, b"\0\0\0\x07"),
                frame(h2.SETTINGS, 0, 0, b"\0\4\0\1\0\0"),
            ]
        )
    )


def _data(payload: bytes, data: st.DataObject) -> bytes:
    frames = []
    while payload:
        size = data.draw(st.one_of(st.just(16_000), st.integers(1, 16_000)))
        part, payload = payload[:size], payload[size:]
        if data.draw(st.booleans()):
            frames.append(frame(h2.DATA, h2.PADDED, 1, b"\x02" + part + b"\0\0"))
        else:
            frames.append(frame(h2.DATA, 0, 1, part))
        frames.append(_beside(data))
    return b"".join(frames)


def _answer(encoder: hpack.Encoder, data: st.DataObject) -> bytes:
    """Draw an answer to the first call of a connection."""
    if data.draw(st.integers(0, 4)) == 0:  # nothing but trailers
        # Without a status: test_the_end_without_a_status_ends_the_call.
        status = data.draw(_STATUS.filter(lambda status: status[0][0] == "grpc-status"))
        return _block(encoder, data.draw(_HEADERS) + status, data, last=True)
    out = _block(encoder, data.draw(_HEADERS), data, last=False) + _beside(data)
    end, status = data.draw(st.sampled_from(["reset", "goaway", *["status"] * 6])), data.draw(_STATUS)
    for _ in range(data.draw(st.sampled_from([0, 1, 1, 1, 1, 2]))):
        body, compressed = data.draw(_BODY), False
        if end == "status" and ("grpc-status", "0") in status:
            # Of a failed call whose message cannot be read, the one tells the status and the other the message.
            body = data.draw(st.one_of(st.just(body), st.binary(max_size=20)))
            compressed = data.draw(st.integers(0, 9)) == 0
        out += _data(message(body, compressed=compressed), data)
    if end == "reset":
        return out + frame(h2.RST_STREAM, 0, 1, data.draw(st.integers(0, 13)).to_bytes(4, "big"))
    if end == "goaway":
        return out + frame(h2.GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x0b")
    return out + _block(encoder, status, data, last=True)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.lists(st.one_of(st.integers(1, 300), st.just(70_000)), max_size=3))
def test_any_answer_means_what_h2_and_grpclib_make_of_it(data: st.DataObject, cuts: list[int]) -> None:
    encoder = hpack.Encoder()
    answer = _answer(encoder, data)

    def script(peer: Peer, stream: int) -> bytes:
        assert stream == 1
        peer.encoder = copy.deepcopy(encoder)  # as it is after this answer
        return answer

    _compare(script, cuts)


@pytest.mark.parametrize(
    ("status", "kind"), [("5", errors.NotFound), ("12", errors.Unimplemented), ("14", errors.Unavailable)]
)
@pytest.mark.parametrize("trailers_only", [True, False])
def test_a_status_is_an_error(status: str, kind: type[errors.ContainerdError], trailers_only: bool) -> None:
    def script(peer: Peer, stream: int) -> bytes:
        trailers = [("grpc-status", status), ("grpc-message", "caf%C3%A9")]
        if trailers_only:
            return peer.headers(stream, h2.USUAL + trailers, last=True)
        return peer.headers(stream, h2.USUAL) + peer.headers(stream, trailers, last=True)

    assert _compare(script, []) == (kind, "Version.Version: café")


@pytest.mark.parametrize("cuts", [[], [1], [9], [10, 1]])
def test_an_answer_may_come_in_pieces(cuts: list[int]) -> None:
    assert _compare(answered, cuts) == ("1.2.3", "r")


def test_a_reset_ends_the_call() -> None:
    outcome: Any = _compare(lambda _, stream: frame(h2.RST_STREAM, 0, stream, b"\0\0\0\x02"), [])
    assert outcome[0] is errors.Unavailable
    assert "error_code: 2" in outcome[1]


def test_success_without_a_reply_is_an_error() -> None:
    outcome: Any = _compare(lambda peer, stream: peer.headers(stream, h2.USUAL + h2.OK, last=True), [])
    assert outcome == (errors.Internal, "Version.Version: the call has succeeded, but there is no reply")


@pytest.mark.parametrize(
    "wrong",
    [
        frame(h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff\xff\x0f"),  # no such entry in the table
        frame(h2.HEADERS, h2.END_HEADERS | h2.PADDED, 1, b"\x09x"),
        frame(h2.DATA, h2.PADDED, 1, b""),
        frame(h2.HEADERS, 0, 1, b"") + 100 * frame(h2.CONTINUATION, 0, 1, bytes(16_000)),  # without an end
    ],
)
def test_what_is_not_http2_ends_the_connection(wrong: bytes) -> None:
    outcome: Any = _compare(lambda *_: wrong, [])
    assert outcome[0] is errors.Unavailable


async def test_the_end_without_a_status_ends_the_call() -> None:
    """Read by h2 and grpclib it would wait for its deadline."""

    def answer(peer: Peer, stream: int) -> bytes:
        return peer.headers(stream, h2.USUAL) + frame(h2.DATA, h2.END_STREAM, stream, message(VERSION))

    async with PeerChannel(answer) as channel:
        with pytest.raises(errors.Unknown, match="grpc-status"):
            await VersionStub(channel).version()


# -- on the wire -----------------------------------------------------------------------------------------------------


async def test_a_request_is_one_write_and_h2_makes_no_stream_of_it() -> None:
    async with PeerChannel(answered) as channel:
        await VersionStub(channel).version(metadata={"containerd-namespace": "ns"})
        await anyio.lowlevel.checkpoint()
        before = len(channel.peer.writes)
        await TasksStub(channel).get(GetRequest(container_id="c"), metadata={"x-bin": b"\0"}, timeout=7)
        assert len(channel.peer.writes) == before + 1
        headers, body = channel.peer.requests[3]
        assert headers[":path"] == "/containerd.services.tasks.v1.Tasks/Get"
        assert headers["x-bin"] == "AA"
        assert headers["grpc-timeout"].startswith(("699", "700"))
        assert body == message(bytes(GetRequest(container_id="c")))
        assert channel.peer.requests[1][0]["containerd-namespace"] == "ns"
        assert channel._protocol is not None
        assert not channel._protocol.connection._connection.streams


@pytest.mark.parametrize("came", ["nothing", "headers", "a part"])
async def test_a_call_that_is_given_up_is_reset_and_what_still_comes_is_nobodys(came: str) -> None:
    """Its headers count for the table of the connection all the same."""
    first: list[int] = []

    def answer(peer: Peer, stream: int) -> bytes:
        if first:
            return peer.reply(stream, VERSION)
        first.append(stream)
        if came == "nothing":
            return b""
        headers = peer.headers(stream, [*h2.USUAL, ("x-first", "of this name")])
        return headers + (frame(h2.DATA, 0, stream, b"\0\0") if came == "a part" else b"")

    async with PeerChannel(answer) as channel:
        async with anyio.create_task_group() as group:
            group.start_soon(VersionStub(channel).version)
            await _until(lambda: first)
            group.cancel_scope.cancel()
        await _until(lambda: channel.peer.resets)
        peer, stream = channel.peer, first[0]
        assert peer.resets == [(stream, 8)]
        peer.send(
            peer.headers(stream, [("x-late", "comer"), *h2.USUAL])
            + frame(h2.DATA, 0, stream, message(VERSION))
            + frame(h2.WINDOW_UPDATE, 0, stream, b"\0\0\0\1")
            + peer.headers(stream, [("x-late", "comer"), *h2.OK], last=True)
            + frame(h2.RST_STREAM, 0, stream, b"\0\0\0\0")
        )
        assert (await VersionStub(channel).version()).version == "1.2.3"
        assert (await VersionStub(channel).version()).version == "1.2.3"
        assert channel.peer is peer
        assert peer.resets == [(stream, 8)]


async def test_a_deadline_resets_the_call_and_leaves_no_cancellation_behind() -> None:
    async with PeerChannel(silent, timeout=0.01) as channel:
        await channel.dial()
        with pytest.raises(errors.DeadlineExceeded):
            await VersionStub(channel).version()
        assert _cancelling() == 0
        await _until(lambda: channel.peer.resets)
        assert channel.peer.resets == [(1, 8)]
        assert channel.slots.value == limits.CONCURRENT_CALLS


async def test_an_answer_counts_that_is_here_when_the_deadline_passes_or_the_connection_breaks() -> None:
    def answer(peer: Peer, stream: int) -> bytes:
        peer.send(peer.reply(stream, VERSION))
        peer.lose()
        return b""

    async with PeerChannel(answer) as channel:
        assert (await VersionStub(channel).version()).version == "1.2.3"


@pytest.mark.parametrize("first", ["cancellation", "loss"])
async def test_g2_a_cancellation_in_the_tick_of_a_lost_connection_goes_first(first: str) -> None:
    async with PeerChannel(silent) as channel:
        task = asyncio.get_running_loop().create_task(VersionStub(channel).version())
        await _until(lambda: hasattr(channel, "peer") and 1 in channel.peer.requests)
        for what in (
            (task.cancel, channel.peer.lose) if first == "cancellation" else (channel.peer.lose, task.cancel)
        ):
            what()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("how", ["lost", "goaway", "closed"])
async def test_a_connection_ends_with_all_its_calls(how: str) -> None:
    expected = errors.Closed if how == "closed" else errors.Unavailable
    seen = []
    async with PeerChannel(silent) as channel:

        async def call() -> None:
            with pytest.raises(expected):
                await VersionStub(channel).version()
            seen.append(_cancelling())

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(call)
            await _until(lambda: hasattr(channel, "peer") and len(channel.peer.requests) == 10)
            if how == "lost":
                channel.peer.lose()
            elif how == "goaway":
                # What stands behind it is nobody's any more.
                channel.peer.send(frame(h2.GOAWAY, 0, 0, bytes(8)) + answered(channel.peer, 1))
            else:
                channel.close()
        assert seen == [0] * 10
        assert channel.slots.value == limits.CONCURRENT_CALLS


async def test_headers_are_decoded_in_the_order_in_which_they_came() -> None:
    """Those of streams that h2 reads and those of calls that it does not share one table."""

    def answer(peer: Peer, stream: int) -> bytes:
        if stream == 1:
            return b""
        fresh = ("x-new", f"of {stream}")
        event = message(bytes(Envelope(topic=f"/{stream}")))
        if stream == 3:
            out = peer.headers(1, [*h2.USUAL, fresh]) + frame(h2.DATA, 0, 1, event)
            return out + peer.headers(3, [*h2.USUAL, fresh]) + _rest(peer, 3)
        out = peer.headers(stream, [*h2.USUAL, fresh]) + frame(h2.DATA, 0, 1, event)
        if stream == 7:
            out += peer.headers(1, [fresh, ("grpc-status", "5"), ("grpc-message", "it is gone")], last=True)
        return out + _rest(peer, stream)

    async with PeerChannel(answer) as channel:
        with pytest.raises(errors.NotFound, match="it is gone"):
            async with channel.request(
                SUBSCRIBE, Cardinality.UNARY_STREAM, SubscribeRequest, Envelope
            ) as stream:
                await stream.send_message(SubscribeRequest(), end=True)
                for number in (3, 5, 7):
                    assert (await VersionStub(channel).version()).version == "1.2.3"
                    event = await stream.recv_message()
                    assert event is not None
                    assert event.topic == f"/{number}"
                await stream.recv_message()
                await stream.recv_trailing_metadata()


def _rest(peer: Peer, stream: int) -> bytes:
    return frame(h2.DATA, 0, stream, message(VERSION)) + peer.headers(stream, h2.OK, last=True)


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_a_daemon_that_allows_few_streams_gets_no_more() -> None:
    under_way: list[int] = []
    most = 0

    def answer(peer: Peer, stream: int) -> bytes:
        nonlocal most
        under_way.append(stream)
        most = max(most, len(under_way))
        if len(under_way) == 3:
            asyncio.get_running_loop().call_soon(finish, peer)
        return b""

    def finish(peer: Peer) -> None:
        finished = [under_way.pop(0) for _ in range(3)]
        peer.send(b"".join(peer.reply(stream, VERSION) for stream in finished))

    async with PeerChannel(answer, settings={3: 3}) as channel:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for _ in range(30):
                    group.start_soon(VersionStub(channel).version)
        assert len(channel.peer.requests) == 30
    assert most == 3


async def test_a_request_larger_than_the_window_is_sent_as_it_opens() -> None:
    async with PeerChannel(answered, settings={4: 10}) as channel:
        async with anyio.create_task_group() as group:

            async def open_window() -> None:
                await _until(lambda: hasattr(channel, "peer") and channel.peer.requests)
                channel.peer.send(frame(h2.WINDOW_UPDATE, 0, 1, b"\0\0\1\0"))

            group.start_soon(open_window)
            await TasksStub(channel).get(GetRequest(container_id="c" * 100))
        assert channel.peer.requests[1][1] == message(bytes(GetRequest(container_id="c" * 100)))


async def test_headers_larger_than_a_frame_are_left_to_h2() -> None:
    async with PeerChannel(answered) as channel:
        large = {"x-large": "y" * 10_000, "x-larger": "z" * 6_500}
        for _ in range(2):
            assert (await VersionStub(channel).version(metadata=large)).version == "1.2.3"
            assert (await VersionStub(channel).version()).version == "1.2.3"
        for stream in (1, 5):
            assert large.items() <= channel.peer.requests[stream][0].items()


async def test_the_window_of_the_connection_is_used_up_by_what_is_sent() -> None:
    async with PeerChannel(answered) as channel:
        await VersionStub(channel).version()
        assert channel._protocol is not None
        h2_connection = channel._protocol.connection._connection
        before = h2_connection.outbound_flow_control_window
        request = GetRequest(container_id="c" * 100)
        await TasksStub(channel).get(request)
        assert before - h2_connection.outbound_flow_control_window == len(message(bytes(request)))
        channel.peer.send(frame(h2.WINDOW_UPDATE, 0, 0, b"\0\0\1\0"))
        assert h2_connection.outbound_flow_control_window == before - len(message(bytes(request))) + 256


async def test_a_reply_larger_than_the_window_does_not_wait_for_itself(tmp_path: Path) -> None:
    async with fake_server(tmp_path / "s") as fake, fake.channel() as channel:
        fake.version.size = 3 * limits.STREAM_WINDOW
        for _ in range(8):  # more than the window of the connection
            assert len((await VersionStub(channel).version()).version) == fake.version.size
