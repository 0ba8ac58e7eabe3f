"""What the event core promises (E1-E36), where no scenario shows it by itself."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import (
    Client,
    ContainerdError,
    DeadlineExceeded,
    FailedPrecondition,
    Gap,
    TaskExit,
    Unknown,
)
from containerd_aio.events.hub import STABLE_AFTER
from containerd_aio.testing import FakeContainerd, Fate
from tests.unit.fake_support import RUNS, World, exits, until, world

looptime = pytest.mark.looptime

SENTINELS = "/containerd-aio/sync/"


# --- the subscription -------------------------------------------------------------------------------------------------


@looptime
async def test_E01_what_is_published_after_subscribing_is_delivered_however_late_the_daemon_subscribes() -> (
    None
):
    async with FakeContainerd() as fake:
        for n in range(50):
            fake.delay("Events/Subscribe", n / 100, times=1)
            async with Client(fake.address) as client, client.events('topic=="/at/once"') as events:
                fake.publish("/at/once", _empty())
                with anyio.fail_after(1):
                    assert (await anext(events)).topic == "/at/once"  # type: ignore[union-attr]


@looptime
async def test_E02_sentinels_are_private_empty_and_end_with_the_handshake() -> None:
    async with world(heartbeat=1000) as w, Client(w.fake.address) as other:
        with w.fake.delay("Events/Subscribe", 0.3):
            await w.client.barrier()
        sentinels = [event for event in w.fake.published if event.topic.startswith(SENTINELS)]
        assert len(sentinels) > 5
        assert {event.namespace for event in sentinels} == {"containerd-aio"}
        assert {event.type_url for event in sentinels} == {"google.protobuf.Empty"}
        await anyio.sleep(500)
        assert len([event for event in w.fake.published if event.topic.startswith(SENTINELS)]) == len(
            sentinels
        )
        # Those of other clients are not seen either, nor can a filter ask for them or keep them away.
        async with (
            other.events(all_namespaces=True) as everything,
            other.events("topic~=|containerd-aio|", all_namespaces=True) as wanted,
            other.events("namespace!=containerd-aio", all_namespaces=True) as unwanted,
        ):
            await w.client.barrier()
            await other.barrier()
            assert [everything.pending, wanted.pending, unwanted.pending] == [0, 0, 0]


@looptime
async def test_E03_a_daemon_that_cannot_read_a_filter_is_not_asked_again() -> None:
    async with FakeContainerd() as fake, Client(fake.address) as client:
        text = "subscription error: failed parsing subscription filters: unexpected rune '/'"
        fake.fail("Events/Subscribe", "UNKNOWN", text, times=None)
        with pytest.raises(Unknown, match="failed parsing"):
            await client.barrier()
        await anyio.sleep(600)
        assert [call.method for call in fake.calls].count(
            "/containerd.services.events.v1.Events/Subscribe"
        ) == 1
        with pytest.raises(Unknown, match="failed parsing"):
            async with client.events():
                pass


@looptime
async def test_E03_who_waits_or_reads_when_the_daemon_refuses_for_good_is_told() -> None:
    async with world() as w, w.client.events('topic=="/a"') as events:
        task = await w.running()
        await w.client.publish("/a")
        w.fake.fail("Events/Subscribe", "UNIMPLEMENTED", "unknown service", times=None)
        w.fake.end_subscriptions()
        with pytest.raises(ContainerdError, match="unknown service"):
            await task.wait(timeout=60)
        assert isinstance(await anext(events), object)
        with pytest.raises(ContainerdError, match="unknown service"):
            while True:
                await anext(events)


async def test_E05_after_closing_no_task_no_stream_and_no_descriptor_is_left() -> None:
    async with FakeContainerd() as fake:

        async def life() -> None:
            async with Client(fake.address) as client:
                async with client.events(), client.state_changes(_nothing):
                    fake.end_subscriptions()
                    await client.barrier()
                await fake.drop_connections()
                await client.barrier()

        await life()  # what is loaded and kept once
        await _until(lambda: not fake.connections)
        gc.collect()
        tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
        for _ in range(5):
            await life()
        await _until(lambda: not fake.connections)
        gc.collect()
        assert len(asyncio.all_tasks()) <= tasks
        assert _descriptors() <= descriptors


@looptime
async def test_E05_an_old_subscription_ends_before_the_next_begins() -> None:
    async with world(heartbeat=5) as w:
        await w.client.barrier()
        most = 0
        for _ in range(5):
            with w.fake.hold_events() as held:  # the heartbeat gives the stream up
                while w.client.statistics().sessions and not held.hits:
                    most = max(most, len(w.fake._world.exchange.subscribers))
                    await anyio.sleep(1)
                await anyio.sleep(12)
            await w.client.barrier()
            most = max(most, len(w.fake._world.exchange.subscribers))
        assert w.client.statistics().sessions >= 5
        assert most == 1


@looptime
async def test_E06_a_stream_that_goes_at_once_is_logged_once_for_each_attempt_at_most(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:
        w.fake.fail("Events/Subscribe", "UNAVAILABLE", "not today", times=None)
        with caplog.at_level(logging.INFO), anyio.move_on_after(600):
            async for _ in w.client.status():
                pass
        attempts = [call.at for call in w.fake.calls if call.method.endswith("/Subscribe")]
        assert len(attempts) < 1500
        assert len([r for r in caplog.records if "event stream lost" in r.getMessage()]) <= 1


@looptime
async def test_E06_the_first_delay_is_used_again_only_after_a_connection_that_held() -> None:
    async with world() as w:
        await w.client.barrier()
        backoff = w.client._scope.core.hub._backoff
        for _ in range(8):
            w.fake.end_subscriptions()
            await _status(w.client, "disconnected")
            await w.client.wait_ready()
            await _status(w.client, "connected")
        assert backoff.attempts >= 8
        await anyio.sleep(STABLE_AFTER + 1)
        w.fake.end_subscriptions()
        await _status(w.client, "disconnected")
        assert backoff.attempts == 1


# --- exits ------------------------------------------------------------------------------------------------------------


async def _only_event(w: World) -> None:
    w.fake.fail("Tasks/Get", "UNAVAILABLE", times=None)
    w.fake.fail("Tasks/List", "UNAVAILABLE", times=None)
    w.fake.swallow_events('topic=="/tasks/delete"', times=None)
    w.fake.exit("c1", 9)


async def _only_task_delete(w: World) -> None:
    w.fake.swallow_events('topic=="/tasks/exit"', times=None)
    w.fake.exit("c1", 9)
    await w.delete_behind_our_back()


async def _only_list(w: World) -> None:
    w.fake.swallow_events("topic~=|^/tasks/|", times=None)
    w.fake.fail("Tasks/Get", "UNAVAILABLE", times=None)
    w.fake.exit("c1", 9)
    await w.fake.drop_connections()


async def _only_get(w: World) -> None:
    w.fake.swallow_events("topic~=|^/tasks/|", times=None)
    w.fake.fail("Tasks/List", "UNKNOWN", "a shim does not answer", times=None)
    w.fake.exit("c1", 9)
    await w.fake.drop_connections()


async def _only_delete_reply(w: World) -> None:
    w.fake.swallow_events("topic~=|^/tasks/|", times=None)
    w.fake.fail("Tasks/List", "UNAVAILABLE", times=None)
    w.fake.exit("c1", 9)
    task = await (await w.client.container("c1")).task()
    await task.delete()


async def _nothing_at_all(w: World) -> None:
    w.fake.swallow_events("topic~=|^/tasks/|", times=None)
    w.fake.exit("c1", 9)
    await w.delete_behind_our_back()


@pytest.mark.parametrize(
    ("evidence", "source"),
    [
        (_only_event, "event"),
        (_only_task_delete, "task-delete"),
        (_only_list, "list"),
        (_only_get, "get"),
        (_only_delete_reply, "get"),  # a delete asks first whether it runs
        (_nothing_at_all, "missing"),
    ],
)
@looptime
async def test_E10_any_single_piece_of_evidence_is_enough(
    evidence: Callable[[World], Awaitable[None]], source: str
) -> None:
    async with world(audit=60) as w:
        task = await w.running()
        await evidence(w)
        status = await task.wait(timeout=100)
        assert status.source == source
        assert (status.code, status.unknown) == ((255, True) if source == "missing" else (9, False))


@looptime
async def test_E11_failures_are_no_exits() -> None:
    async with world(heartbeat=5, audit=20) as w:
        task = await w.running()
        for code in ("UNAVAILABLE", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED"):
            with (
                w.fake.fail("Tasks/Get", code, "ttrpc: closed", times=None),
                w.fake.fail("Tasks/List", code, "ttrpc: closed", times=None),
                w.fake.fail("Tasks/Kill", "NOT_FOUND", "process already finished: not found", times=1),
            ):
                with pytest.raises(ContainerdError):
                    await task.kill()  # which makes us ask
                await w.fake.drop_connections()
                with pytest.raises(DeadlineExceeded):
                    await task.wait(timeout=60)
        assert await w.still_runs(task)
        w.fake.exit("c1", 3)
        assert (await task.wait(timeout=10)).code == 3


async def test_E13_wait_may_come_before_the_start_after_the_exit_and_from_many() -> None:
    async with world() as w, anyio.create_task_group() as group:
        task = await w.created(fate=RUNS)
        results: list[Any] = []

        async def wait() -> None:
            results.append(await task.wait())

        for _ in range(50):
            group.start_soon(wait)
        await task.start()
        w.fake.exit("c1", 7)
        status = await task.wait(timeout=10)
        assert status.code == 7
        await wait()
        while len(results) < 51:
            await w.client.barrier()
        assert all(result is status for result in results)


async def test_E14_a_waiter_that_is_cancelled_concerns_nobody_else() -> None:
    async with world() as w, anyio.create_task_group() as group:
        task = await w.running()
        results: list[int] = []

        async def wait() -> None:
            results.append((await task.wait()).code)

        async def wait_and_be_cancelled(scope: anyio.CancelScope) -> None:
            with scope:
                await task.wait()

        scopes = [anyio.CancelScope() for _ in range(20)]
        for scope in scopes:
            group.start_soon(wait_and_be_cancelled, scope)
            group.start_soon(wait)
        await w.client.barrier()
        for scope in scopes:
            scope.cancel()
        await w.client.barrier()
        assert results == []
        w.fake.exit("c1", 7)
        assert (await task.wait(timeout=10)).code == 7
        while len(results) < 20:
            await w.client.barrier()
        assert results == [7] * 20


@looptime
async def test_E14_a_wait_that_runs_out_of_time_leaves_all_as_it_was() -> None:
    async with world() as w:
        task = await w.running()
        for error in (DeadlineExceeded, TimeoutError):
            with pytest.raises(error):
                await task.wait(timeout=5)
        assert not w.client._scope.core.hub._waiters
        w.fake.exit("c1", 7)
        assert (await task.wait(timeout=10)).code == 7


async def test_E14_cancelling_ten_thousand_waits_leaves_nothing() -> None:
    async with world() as w:
        tasks = [await w.running(f"c{n}") for n in range(100)]
        before = len(asyncio.all_tasks())
        async with anyio.create_task_group() as group:
            for n in range(10_000):
                group.start_soon(tasks[n % 100].wait)
            await w.client.barrier()
            assert len(asyncio.all_tasks()) >= 10_000
            group.cancel_scope.cancel()
        gc.collect()
        assert len(asyncio.all_tasks()) == before
        assert not w.client._scope.core.hub._waiters
        w.fake.exit("c7", 7)
        assert (await tasks[7].wait(timeout=10)).code == 7


@looptime
async def test_E15_a_real_255_is_not_unknown() -> None:
    async with world() as w:
        real = await (await w.running(fate=Fate(exit_code=255))).wait()
        assert (real.code, real.unknown, real.oom_known) == (255, False, True)
        lost = await w.running("c2")
        w.fake.swallow_events("topic~=|^/tasks/|", times=None)
        w.fake.exit("c2", 0)
        await w.delete_behind_our_back("c2")
        await w.fake.drop_connections()
        status = await lost.wait(timeout=60)
        assert (status.code, status.unknown, status.source) == (255, True, "missing")
        assert not status.success


async def test_E18_a_delete_of_what_runs_is_a_failed_precondition() -> None:
    async with world() as w:
        task = await w.running()
        with pytest.raises(FailedPrecondition, match="running"):
            await task.delete()
        # The daemon's own refusal, when the process was taken for dead.
        with w.fake.fail("Tasks/Get", "NOT_FOUND", "no such process"), pytest.raises(FailedPrecondition):
            await task.delete()
        assert await w.still_runs(task)


async def test_E20_an_oom_kill_is_not_inherited_by_the_next_life() -> None:
    async with world() as w:
        first = await w.running(fate=Fate(oom=True))
        assert (await first.wait(timeout=10)).oom_killed
        await first.delete()
        second = await w.again(fate=Fate(exit_code=0))
        status = await second.wait(timeout=10)
        assert (status.oom_killed, status.oom_known) == (False, True)
        assert first.exit_status is not None
        assert first.exit_status.oom_killed


# --- gaps -------------------------------------------------------------------------------------------------------------


@looptime
async def test_E30_what_comes_during_the_listing_is_told_after_what_the_listing_says() -> None:
    async with world("1.6") as w, w.client.events("topic~=|^/tasks/|") as events:
        first, second = await w.running("c1"), await w.running("c2")
        await until(events, lambda item: item.container_id == "c2" and item.topic == "/tasks/start")
        w.fake.swallow_events('topic=="/tasks/exit"', times=1)
        w.fake.exit("c1", 1)
        with w.fake.hold("Tasks/List") as hold:
            w.fake.end_subscriptions()
            await hold.reached()  # its reply says that c1 has stopped and c2 runs
            w.fake.exit("c2", 2)
            await _status(w.client, "resyncing")
            hold.release()
        assert ((await first.wait(timeout=10)).code, (await second.wait(timeout=10)).code) == (1, 2)
        seen = await until(events, lambda item: getattr(item, "container_id", "") == "c2")
        assert isinstance(seen[0], Gap)
        assert exits(seen) == [("c1", 1), ("c2", 2)]
        assert [item.origin for item in seen if isinstance(item, TaskExit)] == ["resync", "live"]


async def test_E36_a_barrier_returns_when_all_that_was_published_has_been_dispatched() -> None:
    async with world() as w, w.client.events("topic~=|^/n/|", buffer=10_000) as events:
        for n in range(5_000):
            w.fake.publish(f"/n/{n}", _empty())
        await w.client.barrier()
        assert events.pending == 5_000


# --- support ----------------------------------------------------------------------------------------------------------


def _empty() -> Any:
    from containerd_aio.api.google.protobuf import Empty

    return Empty()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _nothing(_: object) -> None:
    pass


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def _status(client: Client, state: str) -> None:
    with anyio.fail_after(120):
        async for status in client.status():
            if status.state == state:
                return
