"""Scenarios S17-S20, S36-S40: the subscription itself, broken in every way."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from containerd_aio import Client, ConnectError, Gap, InvalidArgument, Lagged, TaskExit
from containerd_aio.testing import FakeContainerd
from tests.unit.fake_support import exits, until, world

looptime = pytest.mark.looptime


@looptime
async def test_E01_S17_the_daemon_takes_its_time_to_subscribe() -> None:
    async with world() as w:
        w.fake.delay("Events/Subscribe", 0.3)
        async with w.client.events('topic=="/at/once"') as events:
            await w.client.publish("/at/once")
            assert (await anext(events)).topic == "/at/once"  # type: ignore[union-attr]
        w.fake.end_subscriptions()
        await _until_status(w.client, "disconnected")
        async with w.client.events('topic=="/at/once"') as events:
            await w.client.publish("/at/once")
            assert (await anext(events)).topic == "/at/once"  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["topic==/tasks/exit", "topic=x", "topic~=[bad"])
async def test_E03_S18_S20_a_bad_filter_is_refused_before_anything_is_sent(text: str) -> None:
    async with world() as w:
        calls = len(w.fake.calls)
        with pytest.raises(InvalidArgument):
            w.client.events(text)
        assert len(w.fake.calls) == calls


async def test_S19_two_filters_deliver_an_event_once() -> None:
    async with world() as w, w.client.events("namespace==default", 'topic=="/both"') as events:
        await w.client.publish("/both")
        await w.client.publish("/end")
        seen = await until(events, lambda item: getattr(item, "topic", "") == "/end")
        assert [item.topic for item in seen] == ["/both", "/end"]


async def test_E29_S36_a_subscriber_that_never_reads_costs_the_daemon_nothing() -> None:
    async with world() as w, w.client.events("topic~=|^/n/|", buffer=100) as lazy:
        for n in range(20_000):
            w.fake.publish(f"/n/{n}", _empty())
        await w.client.barrier()
        assert lazy.pending == 100
        assert lazy.dropped == 19_900
        first = await anext(lazy)
        assert first == Lagged(19_900)
        assert (await anext(lazy)).topic == "/n/19900"  # type: ignore[union-attr]
        assert all(not subscriber.pending for subscriber in w.fake._world.exchange.subscribers)


def _empty() -> Any:
    from containerd_aio.api.google.protobuf import Empty

    return Empty()


@looptime
async def test_E06_S37_a_daemon_whose_subscribe_fails_at_once_is_not_hammered() -> None:
    async with world() as w:
        w.fake.fail("Events/Subscribe", "UNAVAILABLE", "not today", times=None)
        with anyio.move_on_after(60):
            async for _ in w.client.status():
                pass
        calls = [call.at for call in w.fake.calls if call.method.endswith("/Subscribe")]
        assert 20 < len(calls) < 150  # a minute at delays of up to 2 s
        assert await w.client.is_serving()
        w.fake.clear_faults()
        with anyio.fail_after(10):
            async with w.client.events():
                pass


@looptime
async def test_E05_S38_one_subscription_whatever_happens() -> None:
    async with FakeContainerd() as fake:
        async with Client(fake.address) as client:
            async with client.events(), client.events():
                await fake.subscribed(1)
                for n in range(3):
                    fake.end_subscriptions(*([] if n else ["UNAVAILABLE", "gone"]))
                    await fake.subscribed(0)
                    await fake.subscribed(1)
        with anyio.fail_after(10):
            await fake.subscribed(0)
            while fake.connections:
                await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "ending", [(), ("UNAVAILABLE", "gone"), ("UNKNOWN", "odd"), ("CANCELLED", ""), ("INTERNAL", "x")]
)
@looptime
async def test_E06_S39_any_end_of_the_stream_is_followed_by_another(ending: tuple[str, ...]) -> None:
    async with world() as w, w.client.events() as events:
        task = await w.running()
        w.fake.end_subscriptions(*ending)
        gap = (await until(events, lambda item: isinstance(item, Gap)))[-1]
        assert gap.reason
        w.fake.exit("c1", 3)
        assert (await task.wait(timeout=10)).code == 3
        assert exits(await until(events, lambda item: isinstance(item, TaskExit))) == [("c1", 3)]


@looptime
async def test_E34_S40_a_silent_stream_is_noticed() -> None:
    async with world(heartbeat=5) as w:
        task = await w.running()
        with w.fake.hold_events() as held:  # calls are answered, the stream is dead
            w.fake.exit("c1", 4)
            await _until_status(w.client, "degraded")
            assert held.hits
        status = await task.wait(timeout=60)
        assert (status.code, status.unknown) == (4, False)


@looptime
async def test_E34_S40_a_frozen_daemon_is_noticed_and_nothing_is_lost() -> None:
    async with world(heartbeat=5, timeout=2, connect_timeout=2) as w:
        task = await w.running()
        w.fake.freeze()
        w.fake.exit("c1", 4)
        await _until_status(w.client, "degraded")
        with pytest.raises(ConnectError):
            async with Client(w.fake.address, connect_timeout=1):
                pass
        assert task.exit_status is None
        w.fake.thaw()
        status = await task.wait(timeout=60)
        assert (status.code, status.unknown) == (4, False)


async def _until_status(client: Client, state: str) -> None:
    with anyio.fail_after(120):
        async for status in client.status():
            if status.state == state:
                return


async def test_a_thousand_exits_at_once() -> None:
    async with world() as w:
        tasks = [await w.running(f"c{n}") for n in range(300)]
        began = time.monotonic()
        for n in range(300):
            w.fake.exit(f"c{n}", n % 100)
        await w.client.barrier()
        assert [task.exit_status.code for task in tasks if task.exit_status] == [n % 100 for n in range(300)]
        assert time.monotonic() - began < 5
