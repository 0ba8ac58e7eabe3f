"""Faults of the fake: of calls, of events, of connections."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from containerd_aio import (
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    TaskStart,
    Unavailable,
)
from containerd_aio.testing import FakeContainerd
from tests.unit.fake_support import until, world

looptime = pytest.mark.looptime


# --- calls --------------------------------------------------------------------------------------------------------


async def test_calls_are_refused_as_often_as_told() -> None:
    async with world() as w:
        fault = w.fake.fail("Version/Version", "FAILED_PRECONDITION", "not in the mood", times=2)
        for _ in range(2):
            with pytest.raises(FailedPrecondition, match="not in the mood"):
                await w.client.version()
        await w.client.version()
        assert fault.hits == 2
        with w.fake.fail("Version/*", "UNAVAILABLE", times=None), pytest.raises(Unavailable):
            await w.client.version()
        await w.client.version()


async def test_calls_are_carried_out_and_refused() -> None:
    async with world() as w:
        task = await w.created()
        w.fake.fail("Tasks/Start", "UNAVAILABLE", "lost", after=True)
        with pytest.raises(Unavailable, match="lost"):
            await task.start()
        assert w.fake.task("c1").init.running


async def test_only_some_calls() -> None:
    async with world() as w:
        w.fake.fail(
            "Containers/List*", "UNAVAILABLE", times=None, when=lambda call: call.namespace == "other"
        )
        await w.client.containers()
        with pytest.raises(Unavailable):
            await w.client.namespaced("other").containers()


async def test_faults_are_checked() -> None:
    async with FakeContainerd() as fake:
        with pytest.raises(InvalidArgument, match="Tasks/Create"):
            fake.fail("Create", "UNAVAILABLE")
        with pytest.raises(InvalidArgument, match="UNAVAILABLE"):
            fake.fail("Tasks/Create", "unavailable")
        with pytest.raises(InvalidArgument):
            fake.fail("Tasks/Create", "OK")
        with pytest.raises(InvalidArgument):
            fake.swallow_events("topic==/x")


@looptime
async def test_delays() -> None:
    async with world(timeout=5) as w:
        began = anyio.current_time()
        with w.fake.delay("Version/Version", 3, times=1):
            await w.client.version()
            assert 3 <= anyio.current_time() - began < 3.5
            await w.client.version()
        task = await w.created()
        with w.fake.delay("Tasks/Start", 60, reply=True), anyio.move_on_after(10):
            await task.start()
        assert w.fake.task("c1").init.running  # only the reply was late
        with w.fake.delay("Version/Version", 60), pytest.raises(DeadlineExceeded):
            await w.client.version()


async def test_holds() -> None:
    async with world() as w, anyio.create_task_group() as group:
        first, second = await w.created(), await w.created("c2")
        hold = w.fake.hold("Tasks/Start", times=1)
        group.start_soon(first.start)
        await hold.reached()
        assert w.fake.task("c1").init.running
        await second.start()  # it holds one
        hold.release()
        before = w.fake.hold("Tasks/Kill", before=True)
        group.start_soon(first.kill, "KILL")
        await before.reached()
        assert w.fake.task("c1").init.running
        before.release()
        assert (await first.wait(timeout=10)).code == 137


async def test_alterations() -> None:
    def change(reply: Any) -> Any:
        reply.version = "0.2"
        return reply

    async with world() as w:
        with w.fake.alter("Version/Version", change, times=1):
            assert str(await w.client.version()) == "0.2"
            assert str(await w.client.version()) == "2.1.9"


async def test_a_refusal_may_be_held_as_well() -> None:
    async with world() as w, anyio.create_task_group() as group:
        hold = w.fake.hold("Images/Get")
        failures = []

        async def ask() -> None:
            try:
                await w.client.image("nobody")
            except Exception as exc:  # noqa: BLE001
                failures.append(type(exc).__name__)

        group.start_soon(ask)
        await hold.reached()
        assert failures == []
        hold.release()
        await w.fake.called("Images/Get")
        while not failures:
            await w.client.version()
        assert failures == ["NotFound"]


# --- events -------------------------------------------------------------------------------------------------------


async def _topics(w: Any, events: Any) -> list[str]:
    await w.client.publish("/end")
    seen = await until(events, lambda item: getattr(item, "topic", "") == "/end")
    return [item.topic for item in seen[:-1]]


async def test_events_are_lost_doubled_and_reordered() -> None:
    async with world() as w, w.client.events() as events:
        with w.fake.swallow_events('topic=="/a"', times=1) as lost:
            for _ in range(3):
                await w.client.publish("/a")
            assert lost.hits == 1
        assert await _topics(w, events) == ["/a", "/a"]
        with w.fake.repeat_events('topic=="/a"', copies=3):
            await w.client.publish("/a")
        assert await _topics(w, events) == ["/a"] * 3
        with w.fake.hold_events("topic~=|^/x|") as held:
            for name in "abc":
                await w.client.publish(f"/x/{name}")
            await w.client.publish("/y")
            assert [view.topic for view in held.held] == ["/x/a", "/x/b", "/x/c"]
            held.release(reverse=True)
        assert await _topics(w, events) == ["/y", "/x/c", "/x/b", "/x/a"]
        assert [event.topic for event in w.fake.published if event.topic == "/a"] == ["/a"] * 4


async def test_faults_of_events_stack() -> None:
    async with world() as w, w.client.events() as events:
        w.fake.repeat_events('topic=="/a"')
        held = w.fake.hold_events('topic=="/a"')
        await w.client.publish("/a")
        assert len(held.held) == 2
        held.release()
        assert await _topics(w, events) == ["/a", "/a"]
        w.fake.clear_faults()
        await w.client.publish("/a")
        assert await _topics(w, events) == ["/a"]


@looptime
async def test_events_are_late() -> None:
    async with world() as w, w.client.events("topic~=|^/tasks/|") as events:
        w.fake.delay_events(5, 'topic=="/tasks/start"')
        began = anyio.current_time()
        await w.running()
        await until(events, lambda item: isinstance(item, TaskStart))
        assert 5 <= anyio.current_time() - began < 5.5


# --- connections --------------------------------------------------------------------------------------------------


async def test_connections_are_dropped() -> None:
    async with world() as w:
        await w.client.version()
        assert w.fake.connections == 1
        await w.fake.drop_connections()
        assert w.fake.connections == 0
        await w.client.version()


@looptime
async def test_freezing_lasts_until_it_is_thawed() -> None:
    async with world(timeout=5) as w, anyio.create_task_group() as group:
        answers = []

        async def ask() -> None:
            answers.append(await w.client.services.version.version(timeout=100))

        w.fake.freeze()
        with pytest.raises(DeadlineExceeded):
            await w.client.version()
        group.start_soon(ask)
        await anyio.sleep(50)
        assert answers == []
        w.fake.thaw()
        await w.client.version()
        assert len(answers) == 1


async def test_what_is_frozen_can_be_dropped_and_left() -> None:
    async with FakeContainerd() as fake:
        async with Client(fake.address) as client:
            fake.freeze()
            await fake.drop_connections()
            fake.thaw()
            await client.version()
            fake.freeze()
