"""The seam: grpclib's traps G1-G9 (docs/decisions/0002) and their cures, limits, headers, errors, the hook."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from grpclib.const import Cardinality

from containerd_aio import errors
from containerd_aio._transport import limits
from containerd_aio._transport.connections import Connections, NamespacedChannel, active_leases
from containerd_aio._transport.hook import Call
from containerd_aio.api.containerd.services.events.v1 import EventsStub, SubscribeRequest
from containerd_aio.api.containerd.services.tasks.v1 import GetRequest, TasksStub, WaitRequest
from containerd_aio.api.containerd.services.version.v1 import VersionStub
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.events.stream import SUBSCRIBE
from tests.unit.grpc_server import Fake, fake_server


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[Fake]:
    async with fake_server(tmp_path / "c.sock") as server:
        yield server


def _cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_a_call_works_and_the_connection_is_used_again(fake: Fake) -> None:
    async with fake.channel() as channel:
        assert (await VersionStub(channel).version()).version == "1.2.3"
        protocol = channel._protocol
        assert (await VersionStub(channel).version()).version == "1.2.3"
        assert channel._protocol is protocol


# --- G1, G2: cancellation stays balanced ------------------------------------------------------------------------------


async def test_g1_a_deadline_leaves_no_cancellation_behind(fake: Fake) -> None:
    fake.version.silent = True
    async with fake.channel() as channel:
        with pytest.raises(errors.DeadlineExceeded, match="frozen"):
            await VersionStub(channel).version(timeout=0.02)
        assert _cancelling() == 0
        # grpclib alone would turn this into a bare CancelledError
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anyio.sleep_forever()
        with anyio.move_on_after(0.02) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught


async def test_g1_a_lost_connection_leaves_no_cancellation_behind(fake: Fake) -> None:
    fake.version.silent = True
    async with fake.channel() as channel, anyio.create_task_group() as group:

        async def call() -> None:
            with pytest.raises(errors.Unavailable, match="not known"):
                await VersionStub(channel).version()
            assert _cancelling() == 0

        group.start_soon(call)
        await _until(lambda: fake.version.calls == 1)
        assert channel._protocol is not None
        channel._protocol.connection._transport.abort()


async def test_g1_an_outer_timeout_around_a_call_is_a_timeout(fake: Fake) -> None:
    fake.version.silent = True
    async with fake.channel() as channel:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02):
                await VersionStub(channel).version()
        assert not isinstance(caught.value, errors.ContainerdError)
        assert _cancelling() == 0


async def test_g2_a_cancellation_in_the_tick_of_a_lost_connection_is_not_lost(fake: Fake) -> None:
    fake.version.silent = True
    async with fake.channel() as channel:
        outcome: list[BaseException] = []

        async def call() -> None:
            try:
                await VersionStub(channel).version()
            except BaseException as exc:
                outcome.append(exc)
                raise

        task = asyncio.get_running_loop().create_task(call())
        await _until(lambda: fake.version.calls == 1)
        assert channel._protocol is not None
        task.cancel()
        channel._protocol.processor.close("Connection lost")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(outcome[0], asyncio.CancelledError)
        assert task.cancelled()


async def test_g2_a_cancel_scope_closed_together_with_the_channel(fake: Fake) -> None:
    fake.version.silent = True
    channel = fake.channel()
    async with anyio.create_task_group() as group:
        group.start_soon(VersionStub(channel).version)
        await _until(lambda: fake.version.calls == 1)
        group.cancel_scope.cancel()
        channel.close()
    assert _cancelling() == 0


# --- G3: leaving a stream ---------------------------------------------------------------------------------------------


async def test_g3_leaving_an_endless_stream_by_break_ends_it_at_the_server(fake: Fake) -> None:
    fake.events.count = 3
    async with fake.channel() as channel:
        with anyio.fail_after(2):
            async with channel.request(
                SUBSCRIBE, Cardinality.UNARY_STREAM, SubscribeRequest, Envelope
            ) as stream:
                await stream.send_message(SubscribeRequest(), end=True)
                async for event in stream:
                    assert event.topic == "/n/0"
                    break
            await fake.events.closed.wait()
        assert fake.events.open == 0
        assert (await VersionStub(channel).version()).version == "1.2.3"


# --- G4: one unread stream --------------------------------------------------------------------------------------------


async def test_g4_an_unread_stream_does_not_stall_the_calls_beside_it(fake: Fake) -> None:
    fake.events.count, fake.events.size = 20, 1 << 20  # 20 MiB, five times grpclib's window
    async with fake.channel() as channel:
        async with channel.request(SUBSCRIBE, Cardinality.UNARY_STREAM, SubscribeRequest, Envelope) as stream:
            await stream.send_message(SubscribeRequest(), end=True)
            await stream.recv_message()
            await _until(lambda: stream._stream.data_received >= 4 << 20)
            for _ in range(20):
                assert (await VersionStub(channel).version(timeout=2)).version == "1.2.3"


# --- G5, G6: a peer that says nothing ---------------------------------------------------------------------------------


async def test_g5_a_unary_call_has_a_deadline_by_default(fake: Fake) -> None:
    fake.version.silent = True
    async with fake.channel(timeout=0.02) as channel:
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await VersionStub(channel).version()
    assert isinstance(caught.value, TimeoutError)
    assert "Version.Version" in str(caught.value)


async def test_g5_calls_that_wait_for_their_work_have_none(fake: Fake) -> None:
    async with fake.channel(timeout=0.01) as channel:
        for timeout in (None, math.inf):
            with anyio.move_on_after(0.1) as scope:
                await TasksStub(channel).wait(WaitRequest(container_id="c"), timeout=timeout)
            assert scope.cancelled_caught
        with pytest.raises(errors.DeadlineExceeded):
            await TasksStub(channel).wait(WaitRequest(container_id="c"), timeout=0.01)


async def test_g6_the_connection_is_never_pinged(fake: Fake) -> None:
    async with fake.channel() as channel:
        assert channel._config._keepalive_time is None


# --- G7, G9: errors and limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls",
    [
        errors.NotFound, errors.AlreadyExists, errors.InvalidArgument, errors.FailedPrecondition,
        errors.PermissionDenied, errors.Unauthenticated, errors.ResourceExhausted, errors.Aborted, errors.OutOfRange,
        errors.Unimplemented, errors.Internal, errors.Unknown, errors.DataLoss, errors.Unavailable, errors.Canceled,
    ],
)  # fmt: skip
async def test_g7_every_status_has_its_class_and_its_method(
    fake: Fake, cls: type[errors.ContainerdError]
) -> None:
    code = cls.code
    assert code is not None
    async with fake.channel() as channel:
        with pytest.raises(errors.ContainerdError) as caught:
            await TasksStub(channel).get(GetRequest(container_id=code))
    assert type(caught.value) is cls
    assert caught.value.method == "/containerd.services.tasks.v1.Tasks/Get"
    assert str(caught.value) == f"Tasks.Get: about {code}"
    assert caught.value.__cause__ is not None


async def test_g7_a_service_that_is_absent_is_unimplemented(fake: Fake) -> None:
    from containerd_aio.api.containerd.services.leases.v1 import LeasesStub, ListRequest

    async with fake.channel() as channel:
        with pytest.raises(errors.Unimplemented):
            await LeasesStub(channel).list(ListRequest())


async def test_g7_a_server_that_went_away_is_a_connect_error(tmp_path: Path) -> None:
    async with fake_server(tmp_path / "c.sock") as fake:
        channel = fake.channel()
        await VersionStub(channel).version()
        assert channel._protocol is not None
        channel._protocol.connection._transport.abort()
    (tmp_path / "c.sock").unlink(missing_ok=True)
    await anyio.lowlevel.checkpoint()
    with pytest.raises(errors.ConnectError):
        await VersionStub(channel).version()
    channel.close()


async def test_g9_a_message_over_the_limit_is_refused_before_it_is_read(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_MESSAGE", 1000)
    async with fake.channel() as channel:
        fake.version.size = 2000
        with pytest.raises(errors.ResourceExhausted, match="limit is 1000"):
            await VersionStub(channel).version()
        fake.version.size = 10
        assert len((await VersionStub(channel).version()).version) == 10
        with pytest.raises(errors.ResourceExhausted, match="not sent"):
            await TasksStub(channel).get(GetRequest(container_id="c" * 2000))


async def test_a_body_that_fails_keeps_its_own_error(fake: Fake) -> None:
    async with fake.channel() as channel:
        with pytest.raises(FileNotFoundError):
            async with channel.request(
                SUBSCRIBE, Cardinality.UNARY_STREAM, SubscribeRequest, Envelope
            ) as stream:
                await stream.send_message(SubscribeRequest(), end=True)
                raise FileNotFoundError("the user's own")


# --- the rest ---------------------------------------------------------------------------------------------------------


async def test_a_closed_channel_says_so(fake: Fake) -> None:
    fake.version.silent = True
    channel = fake.channel()
    async with anyio.create_task_group() as group:

        async def call() -> None:
            with pytest.raises(errors.Closed):
                await VersionStub(channel).version()

        group.start_soon(call)
        await _until(lambda: fake.version.calls == 1)
        channel.close()
    with pytest.raises(errors.Closed):
        await VersionStub(channel).version()


async def test_a_thousand_calls_at_once_share_the_slots(fake: Fake) -> None:
    async with fake.channel() as channel:
        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(VersionStub(channel).version)
        assert fake.version.calls == 1000
        assert channel.slots.value == limits.CONCURRENT_CALLS


async def test_waiting_for_a_slot_counts_against_the_deadline(fake: Fake) -> None:
    fake.version.silent = True
    async with fake.channel() as channel, anyio.create_task_group() as group:
        for _ in range(limits.CONCURRENT_CALLS):
            group.start_soon(VersionStub(channel).version)
        await _until(lambda: fake.version.calls == limits.CONCURRENT_CALLS)
        with pytest.raises(errors.DeadlineExceeded):
            await VersionStub(channel).version(timeout=0.02)
        group.cancel_scope.cancel()
    assert channel.slots.value == limits.CONCURRENT_CALLS


async def test_the_hook_sees_every_call_and_how_it_ended(fake: Fake) -> None:
    seen: list[tuple[str, Any]] = []

    def hook(call: Call) -> Any:
        call.headers["traceparent"] = "00-x"
        seen.append(("started", call.method))
        return lambda error: seen.append(("ended", error))

    async with fake.channel(hook=hook) as channel:
        await VersionStub(channel).version()
        with pytest.raises(errors.NotFound):
            await TasksStub(channel).get(GetRequest(container_id="NOT_FOUND"))
    assert seen[:2] == [("started", "/containerd.services.version.v1.Version/Version"), ("ended", None)]
    assert isinstance(seen[3][1], errors.NotFound)


async def test_a_hook_that_raises_reaches_the_caller_and_leaks_nothing(fake: Fake) -> None:
    def hook(call: Call) -> None:
        raise RuntimeError("hook")

    async with fake.channel(hook=hook) as channel:
        with pytest.raises(RuntimeError, match="hook"):
            await VersionStub(channel).version()
        assert channel.slots.value == limits.CONCURRENT_CALLS


async def test_namespace_and_lease_headers_follow_the_context(fake: Fake) -> None:
    headers: list[dict[str, str]] = []
    connections = Connections(
        fake.address, timeout=5, connect_timeout=5, hook=lambda call: headers.append(dict(call.headers))
    )
    channel: Any = NamespacedChannel(connections, connections.rpc, "ns1")
    other: Any = NamespacedChannel(connections, connections.rpc, "ns2")
    token = active_leases.set({(id(connections), "ns1"): "lease-1"})
    try:
        await VersionStub(channel).version()
        await VersionStub(other).version()
        async with anyio.create_task_group() as group:
            group.start_soon(VersionStub(channel).version)
    finally:
        active_leases.reset(token)
        connections.close()
    assert headers == [
        {"containerd-namespace": "ns1", "containerd-lease": "lease-1"},
        {"containerd-namespace": "ns2"},
        {"containerd-namespace": "ns1", "containerd-lease": "lease-1"},
    ]


async def test_stub_streams_can_be_left_early(fake: Fake) -> None:
    fake.events.count = 5
    async with fake.channel() as channel:
        stream = EventsStub(channel).subscribe(SubscribeRequest())
        async for event in stream:
            assert event.topic == "/n/0"
            break
        await stream.aclose()  # type: ignore[attr-defined]
        with anyio.fail_after(2):
            await fake.events.closed.wait()


async def _until(condition: Any) -> None:
    with anyio.fail_after(5):
        while not condition():
            await anyio.lowlevel.checkpoint()
