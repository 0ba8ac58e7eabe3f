"""`Client.status`, `Client.wait_ready` and `Client.barrier` when the daemon comes, goes or is somebody else."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import Client, Closed, ConnectError, DeadlineExceeded, Unavailable
from containerd_aio.events.status import REMEMBERED
from containerd_aio.testing import FakeContainerd
from tests.unit.fake_support import world

looptime = pytest.mark.looptime


@looptime
async def test_the_present_status_comes_first_and_every_change_follows() -> None:
    async with world() as w:
        await w.client.barrier()
        seen: list[str] = []
        with anyio.fail_after(30):
            async for status in w.client.status():
                seen.append(status.state)
                if len(seen) == 1:
                    w.fake.end_subscriptions("UNAVAILABLE", "gone")
                if status.state == "connected" and len(seen) > 1:
                    break
        assert seen == ["connected", "disconnected", "resyncing", "connected"]


async def test_leaving_the_loop_leaves_nothing() -> None:
    async with world() as w:
        await w.client.barrier()
        followers: list[weakref.ref[Any]] = []
        for _ in range(100):
            changes = w.client.status()
            followers.append(weakref.ref(changes))
            async for _status in changes:
                break
            del changes
        gc.collect()
        assert [follower() for follower in followers if follower() is not None] == []


async def test_a_slow_reader_misses_the_oldest_changes_only() -> None:
    async with world() as w:
        await w.client.barrier()
        changes = w.client.status()
        log = w.client._scope.core.hub.status
        for n in range(REMEMBERED + 10):
            log.set("degraded", str(n))
        first = await anext(changes)
        assert first.reason == "10"
        rest = [await anext(changes) for _ in range(REMEMBERED - 1)]
        assert [status.reason for status in rest] == [str(n) for n in range(11, REMEMBERED + 10)]


async def test_it_ends_with_the_client() -> None:
    async with FakeContainerd() as fake, Client(fake.address) as client:
        changes = client.status()
        assert (await anext(changes)).state == "disconnected"
        async with anyio.create_task_group() as group:
            ended = anyio.Event()

            async def follow() -> None:
                async for _ in changes:
                    pass
                ended.set()

            group.start_soon(follow)
            await client.barrier()
            await client.__aexit__(None, None, None)
            with anyio.fail_after(5):
                await ended.wait()
        with pytest.raises(Closed):
            client.status()
        await client.__aenter__()


# --- waiting for the daemon -------------------------------------------------------------------------------------------


@looptime
async def test_a_connection_that_a_dying_daemon_cuts_does_not_end_the_wait(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sock")
    cuts = 0

    async def cut(stream: anyio.abc.SocketStream) -> None:
        nonlocal cuts
        cuts += 1
        await stream.aclose()
        if cuts == 2:
            dying.cancel()

    async with Client(path, lazy=True) as client, anyio.create_task_group() as group:
        ready = anyio.Event()

        async def wait() -> None:
            await client.wait_ready()
            ready.set()

        group.start_soon(wait)
        with anyio.CancelScope() as dying:
            async with await anyio.create_unix_listener(path) as listener:
                await listener.serve(cut)
        assert cuts == 2
        async with FakeContainerd(path):
            with anyio.fail_after(10):
                await ready.wait()


@looptime
async def test_somebody_else_who_answers_again_and_again_does(tmp_path: Path) -> None:
    path = str(tmp_path / "http.sock")

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with Client(path, lazy=True) as client, anyio.create_task_group() as group:
        async with await anyio.create_unix_listener(path) as listener:
            group.start_soon(listener.serve, serve)
            with pytest.raises(ConnectError) as caught, anyio.fail_after(30):
                await client.wait_ready()
            group.cancel_scope.cancel()
    assert caught.value.reason == "not-containerd"


@looptime
async def test_a_daemon_that_does_not_come_in_time(tmp_path: Path) -> None:
    async with Client(str(tmp_path / "c.sock"), lazy=True) as client:
        with pytest.raises(ConnectError) as caught:
            await client.wait_ready(timeout=5)
    assert caught.value.reason == "missing"


# --- errors -----------------------------------------------------------------------------------------------------------


@looptime
async def test_E36_a_barrier_on_a_stream_that_stands_still_says_so() -> None:
    async with world(heartbeat_timeout=2) as w:
        await w.client.barrier()
        with w.fake.hold_events(), pytest.raises(DeadlineExceeded, match="within 2 s"):
            await w.client.barrier()


@looptime
async def test_E34_how_long_a_sign_of_life_may_take_can_be_set() -> None:
    async with world(heartbeat=10, heartbeat_timeout=1) as w:
        await w.client.barrier()
        began = anyio.current_time()
        changes = w.client.status()
        assert (await anext(changes)).state == "connected"
        with w.fake.hold_events():
            assert (await anext(changes)).state == "degraded"
            assert 10 <= anyio.current_time() - began <= 11.1


@looptime
async def test_a_stream_that_the_daemon_ends_is_unavailable() -> None:
    async with world() as w:
        await w.client.barrier()
        w.fake.fail("Events/Subscribe", "UNAVAILABLE", "not today", times=None)
        changes = w.client.status()
        await anext(changes)
        w.fake.end_subscriptions()
        assert "ended the event stream" in (await anext(changes)).reason
        with pytest.raises(Unavailable, match="not today"):
            async with w.client.events():
                pass
