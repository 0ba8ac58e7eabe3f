"""Scenarios S1-S16, S21-S25, S32, S33, S41-S46: exits that come early, late, twice, in the wrong order or not at all."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from containerd_aio import (
    Client,
    ContainerdError,
    DeadlineExceeded,
    Event,
    Gap,
    NotFound,
    Process,
    TaskExit,
    Unknown,
    stdio,
)
from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.testing import Fate
from tests.unit.fake_support import RUNS, SPEC, World, exits, until, world

looptime = pytest.mark.looptime
RELEASES = pytest.mark.parametrize("release", ["1.6", "1.7", "2.1"])


def _exit(pid: int, code: int, *, container_id: str = "c1", exec_id: str = "") -> wire.TaskExit:
    from containerd_aio.api.google.protobuf import Timestamp

    return wire.TaskExit(
        container_id=container_id,
        id=exec_id or container_id,
        pid=pid,
        exit_status=code,
        exited_at=Timestamp(seconds=1_800_000_000),
    )


# --- early --------------------------------------------------------------------------------------------------------


async def test_E13_S01_the_exit_is_read_before_the_reply_to_start() -> None:
    async with world() as w, anyio.create_task_group() as group:
        task = await w.created(fate=Fate(exit_code=3))
        hold = w.fake.hold("Tasks/Start")
        group.start_soon(task.start)
        await hold.reached()
        await w.client.barrier()
        hold.release()
        status = await task.wait(timeout=10)
        assert (status.code, status.source, status.unknown) == (3, "event", False)
        assert status.pid == task.pid


async def test_E13_S02_the_exit_is_read_before_the_reply_to_create() -> None:
    async with world() as w, anyio.create_task_group() as group:
        hold = w.fake.hold("Tasks/Create")
        tasks = []

        async def create() -> None:
            tasks.append(await w.created(fate=Fate(exit_code=4)))

        group.start_soon(create)
        await hold.reached()
        await w.start_behind_our_back()
        await w.client.barrier()
        hold.release()
        await w.fake.called("Tasks/Create")
        while not tasks:
            await w.client.barrier()
        status = await tasks[0].wait(timeout=10)
        assert (status.code, status.unknown) == (4, False)


async def test_S03_the_exit_comes_before_the_start() -> None:
    async with world() as w, w.client.events("topic~=|^/tasks/|") as events:
        with w.fake.hold_events('topic=="/tasks/start"') as held:
            task = await w.running(fate=Fate(exit_code=5))
            assert (await task.wait(timeout=10)).code == 5
            held.release()
        await w.client.barrier()
        assert task.exit_status is not None
        assert task.exit_status.code == 5
        seen = await until(events, lambda item: getattr(item, "topic", "") == "/tasks/start")
        assert exits(seen) == [("c1", 5)]
        assert w.client.statistics().open_tasks == 0


async def test_E13_S41_the_exit_comes_while_a_task_is_taken_over() -> None:
    async with world() as w:
        await w.running()
        async with Client(w.fake.address) as other, anyio.create_task_group() as group:
            container = await other.container("c1")
            with w.fake.hold("Tasks/Get") as hold:
                found = []

                async def take_over() -> None:
                    found.append(await container.task())

                group.start_soon(take_over)
                await hold.reached()  # its reply will say that it runs
                w.fake.exit("c1", 6)
                await other.barrier()
                hold.release()
                while not found:
                    await w.client.barrier()
            assert (await found[0].wait(timeout=10)).code == 6


# --- twice --------------------------------------------------------------------------------------------------------


async def test_E12_S04_a_second_exit_with_another_code_changes_nothing() -> None:
    async with world() as w, w.client.events() as events:
        task = await w.running()
        w.fake.exit("c1", 5)
        w.fake.duplicate_exit("c1", 137)
        status = await task.wait(timeout=10)
        await w.client.barrier()
        assert task.exit_status is status
        assert status.code == 5
        assert w.client.statistics().duplicate_exits == 1
        await task.delete()  # its reply and its event say what is known, and are no exits
        await w.client.barrier()
        assert w.client.statistics().duplicate_exits == 1
        assert exits(await until(events, lambda item: isinstance(item, TaskExit)))[0] == ("c1", 5)


async def test_E07_S05_a_second_exit_of_the_last_run_comes_in_the_next() -> None:
    async with world() as w:
        first = await w.running()
        assert first.pid is not None
        w.fake.exit("c1", 5)
        assert (await first.delete()).code == 5
        second = await w.again()
        w.fake.publish("/tasks/exit", _exit(first.pid, 137))
        assert await w.still_runs(second)
        w.fake.exit("c1", 0)
        assert (await second.wait(timeout=10)).code == 0
        assert first.exit_status is not None
        assert first.exit_status.code == 5


async def test_E07_S06_the_same_with_a_clock_that_was_set_back() -> None:
    async with world() as w:
        first = await w.running()
        assert first.pid is not None
        w.fake.exit("c1", 5)
        await first.delete()
        w.fake.shift_clock(-86_400)
        second = await w.again()
        w.fake.publish("/tasks/exit", _exit(first.pid, 137))
        assert await w.still_runs(second)
        w.fake.exit("c1", 1)
        status = await second.wait(timeout=10)
        assert status.code == 1
        assert first.exit_status is not None
        assert status.exited_at_ns is not None
        assert first.exit_status.exited_at_ns is not None
        assert status.exited_at_ns < first.exit_status.exited_at_ns


@looptime
async def test_E07_S07_the_same_with_the_same_pid() -> None:
    async with world() as w:
        first = await w.running()
        assert first.pid is not None
        w.fake.exit("c1", 5)
        await first.delete()
        w.fake.reuse_pid(first.pid)
        second = await w.again()
        assert second.pid == first.pid
        w.fake.publish("/tasks/exit", _exit(first.pid, 137))
        with pytest.raises(DeadlineExceeded):
            await second.wait(timeout=30)  # Get says that it runs, and goes on to say so
        w.fake.exit("c1", 2)
        assert (await second.wait(timeout=30)).code == 2


@looptime
async def test_E07_S08_get_lags_behind_the_exit() -> None:
    def runs(reply: Any) -> Any:
        reply.process.status, reply.process.exit_status = Status.RUNNING, 0
        return reply

    async with world() as w:
        first = await w.running()
        assert first.pid is not None
        w.fake.exit("c1", 5)
        await first.delete()
        w.fake.reuse_pid(first.pid)  # so that the exit is in doubt, and Get is asked
        second = await w.again()
        with w.fake.alter("Tasks/Get", runs, times=1) as lie:
            w.fake.exit("c1", 3)
            status = await second.wait(timeout=30)
            assert lie.hits == 1
        assert (status.code, status.unknown) == (3, False)


@RELEASES
async def test_E12_S09_exit_and_delete_are_sent_again(release: str) -> None:
    async with world(release) as w, w.client.events("topic~=/tasks.(exit|delete)$/") as events:
        w.fake.repeat_events("topic~=/tasks.(exit|delete)$/")
        task = await w.running(fate=Fate(exit_code=7))
        assert (await task.wait(timeout=10)).code == 7
        assert (await task.delete()).code == 7
        await w.fake.restart()
        await until(events, lambda item: isinstance(item, Gap))
        assert task.exit_status is not None
        assert task.exit_status.code == 7
        assert w.client.statistics().duplicate_exits >= 1


# --- late, or never -----------------------------------------------------------------------------------------------


@looptime
async def test_E30_S10_an_exit_in_a_gap_that_the_daemon_remembers() -> None:
    async with world("1.6") as w, w.client.events() as events:
        task = await w.running()
        w.fake.swallow_events('topic=="/tasks/exit"')
        await w.fake.stop()
        w.fake.exit("c1", 137)
        await w.fake.start()
        status = await task.wait(timeout=30)
        assert (status.code, status.unknown, status.source) == (137, False, "list")
        seen = await until(events, lambda item: isinstance(item, TaskExit))
        assert [type(item) for item in seen[-2:]] == [Gap, TaskExit]
        assert seen[-1].origin == "resync"


@pytest.mark.parametrize("release", ["1.7", "2.1"])
@looptime
async def test_E15_S11_an_exit_in_a_gap_that_the_daemon_forgets(release: str) -> None:
    async with world(release) as w, w.client.events() as events:
        task = await w.running()
        await w.fake.stop(graceful=True)
        w.fake.exit("c1", 3)
        await w.fake.start()
        status = await task.wait(timeout=30)
        assert (status.code, status.unknown, status.source) == (255, True, "missing")
        seen = await until(events, lambda item: isinstance(item, TaskExit))
        assert (seen[-1].origin, seen[-1].exit_status) == ("resync", 255)


async def test_S12_an_exit_that_is_never_published_is_learnt_by_delete() -> None:
    async with world() as w, anyio.create_task_group() as group:
        task = await w.running()
        w.fake.swallow_events('topic=="/tasks/exit"')
        group.start_soon(task.wait)
        w.fake.exit("c1", 8)
        assert await w.still_runs(task)
        assert (await task.delete()).code == 8
        assert task.exit_status is not None
        assert task.exit_status.code == 8


async def test_S12_an_exit_that_is_never_published_is_learnt_after_a_reconnect() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.swallow_events('topic=="/tasks/exit"')
        w.fake.exit("c1", 8)
        assert await w.still_runs(task)
        await w.fake.drop_connections()
        status = await task.wait(timeout=10)
        assert (status.code, status.unknown) == (8, False)
        assert status.source in {"list", "get"}


@looptime
async def test_S13_a_killed_shim() -> None:
    async with world() as w, anyio.create_task_group() as group:
        task = await w.running()
        for _ in range(3):
            group.start_soon(task.wait)
        w.fake.kill_shim("c1")
        status = await task.wait(timeout=10)
        assert (status.code, status.unknown, status.source) == (137, False, "event")


@looptime
async def test_E15_S14_a_shim_that_cannot_even_be_cleaned_up() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.kill_shim("c1", code=255, pid=0)
        status = await task.wait(timeout=30)
        assert (status.code, status.unknown) == (255, True)


@looptime
async def test_S15_get_hangs_and_others_do_not_wait_for_it() -> None:
    async with world() as w:
        task, other = await w.running(), await w.running("c2")
        w.fake.swallow_events('topic=="/tasks/exit",event.container_id==c1')
        hold = w.fake.hold("Tasks/Get")
        w.fake.exit("c1", 9)
        w.fake.exit("c2", 1)
        assert (await other.wait(timeout=10)).code == 1
        await w.fake.drop_connections()
        status = await task.wait(timeout=60)  # the listing told
        assert (status.code, status.unknown) == (9, False)
        hold.remove()


@RELEASES
@looptime
async def test_E11_S16_a_restart_is_not_an_exit(release: str) -> None:
    async with world(release) as w, w.client.events() as events, anyio.create_task_group() as group:
        task = await w.running()
        group.start_soon(task.wait)
        await w.fake.restart()
        await until(events, lambda item: isinstance(item, Gap))
        assert await w.still_runs(task)
        w.fake.exit("c1", 4)
        status = await task.wait(timeout=10)
        assert (status.code, status.source) == (4, "event")


@looptime
async def test_E10_S33_only_the_deletion_is_published() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.swallow_events('topic=="/tasks/exit"')
        w.fake.exit("c1", 6)
        await w.delete_behind_our_back()
        status = await task.wait(timeout=10)
        assert (status.code, status.unknown, status.source) == (6, False, "task-delete")


@RELEASES
async def test_E16_S32_a_task_that_was_never_started_is_deleted(release: str) -> None:
    async with world(release) as w:
        task = await w.created()
        status = await task.delete()
        assert status.exited_at is None
        assert task.exit_status is not None
        assert task.exit_status.exited_at is None
        await w.client.barrier()
        assert w.client.statistics().open_tasks == 0


# --- whose exit it is ---------------------------------------------------------------------------------------------


async def test_E04_S21_the_same_id_in_another_namespace() -> None:
    async with world() as w, w.client.events() as events:
        ours, theirs = await w.running(), await w.running(namespace="other")
        w.fake.exit("c1", 3, namespace="other")
        assert (await theirs.wait(timeout=10)).code == 3
        assert await w.still_runs(ours)
        w.fake.exit("c1", 4, namespace="default")
        assert (await ours.wait(timeout=10)).code == 4
        seen = await until(events, lambda item: isinstance(item, TaskExit))
        assert exits(seen) == [("c1", 4)]


async def test_E09_S22_the_exit_of_an_exec_is_not_the_containers() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.script("c1", Fate(exit_code=5), exec_id="e1")
        process = await task.exec("e1", ["program"])
        await process.start()
        assert (await process.wait(timeout=10)).code == 5
        assert await w.still_runs(task)


async def test_E08_S23_an_exec_with_the_id_of_the_container() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.script("c1", Fate(exit_code=5), exec_id="c1")
        process = await task.exec("c1", ["program"])
        await process.start()
        assert (await process.wait(timeout=10)).code == 5
        assert await w.still_runs(task)
        w.fake.exit("c1", 6)
        assert (await task.wait(timeout=10)).code == 6


@looptime
async def test_E09_S24_the_exit_of_an_exec_comes_after_inits() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.script("c1", RUNS, exec_id="e1")
        process = await task.exec("e1", ["program"])
        await process.start()
        with w.fake.hold_events('topic=="/tasks/exit"') as held:
            w.fake.exit("c1", 1)
            held.release(reverse=True)
        assert (await task.wait(timeout=10)).code == 1
        status = await process.wait(timeout=10)
        assert (status.code, status.source) == (137, "event")


@asynccontextmanager
async def _exec_whose_exit_is_lost() -> AsyncIterator[tuple[World, Process]]:
    async with world() as w:
        task = await w.running()
        w.fake.script("c1", RUNS, exec_id="e1")
        process = await task.exec("e1", ["program"])
        await process.start()
        w.fake.swallow_events('topic=="/tasks/exit"', times=1)
        w.fake.exit("c1", 1)
        assert (await task.wait(timeout=10)).code == 1
        yield w, process


@looptime
async def test_E09_E10_S24_the_exit_of_an_exec_never_comes_and_the_daemon_knows_it() -> None:
    async with _exec_whose_exit_is_lost() as (_, process):
        status = await process.wait(timeout=10)
        assert (status.code, status.unknown, status.source) == (137, False, "get")


@looptime
async def test_E09_S24_the_exit_of_an_exec_never_comes_and_nobody_knows_it() -> None:
    async with _exec_whose_exit_is_lost() as (w, process):
        w.fake.fail("Tasks/Get", "UNKNOWN", "ttrpc: closed", times=None)
        status = await process.wait(timeout=20)
        assert (status.code, status.unknown, status.source) == (255, True, "exec-orphaned")


@looptime
async def test_E09_E10_S24_the_exit_of_an_exec_never_comes_and_the_daemon_is_away_for_long() -> None:
    async with _exec_whose_exit_is_lost() as (w, process):
        with w.fake.fail("Events/Subscribe", "UNAVAILABLE", "not now", times=None):
            await w.fake.drop_connections()
            with pytest.raises(DeadlineExceeded):
                await process.wait(timeout=30)
        status = await process.wait(timeout=30)
        assert (status.code, status.unknown, status.source) == (137, False, "get")


async def test_E17_S25_an_exec_that_cannot_be_started_has_no_exit() -> None:
    async with world() as w, w.client.events("topic~=|^/tasks/exit|") as events:
        task = await w.running()
        w.fake.script("c1", Fate(start_error="no such program"), exec_id="e1")
        process = await task.exec("e1", ["program"])
        with pytest.raises(Unknown, match="no such program"):
            await process.start()
        assert await w.still_runs(task)
        assert events.pending == 0
        w.fake.script("c1", Fate(exit_code=3), exec_id="e1")
        again = await task.exec("e1", ["program"])  # its id is free
        await again.start()
        assert (await again.wait(timeout=10)).code == 3


async def test_E17_S25_an_exit_and_a_failed_start() -> None:
    async with world() as w:
        task = await w.running()
        process = await task.exec("e1", ["program"])
        w.fake.fail("Tasks/Start", "UNKNOWN", "no such program")
        w.fake.publish("/tasks/exit", _exit(77, 128, exec_id="e1"))
        with pytest.raises(Unknown, match="no such program"):
            await process.start()
        assert await w.still_runs(task)


# --- deletions ----------------------------------------------------------------------------------------------------


async def test_E18_S42_a_delete_whose_reply_is_lost_is_tried_again() -> None:
    async with world() as w:
        task = await w.running(fate=Fate(exit_code=7))
        await task.wait(timeout=10)
        with w.fake.fail("Tasks/Delete", "DEADLINE_EXCEEDED", "too late", after=True):
            with pytest.raises(DeadlineExceeded):
                await task.delete()
            assert (await task.delete()).code == 7


async def test_E18_S43_of_two_deletes_one_finds_the_shim_gone() -> None:
    async with world() as w:
        task = await w.running(fate=Fate(exit_code=7))
        await task.wait(timeout=10)
        with w.fake.fail("Tasks/Delete", "UNKNOWN", "ttrpc: closed", after=True) as fault:
            assert (await task.delete()).code == 7
        assert fault.hits == 1


async def test_E19_S44_an_exit_does_not_wait_for_output() -> None:
    async with world() as w:
        container = await w.client.new_container("c1", spec=SPEC)
        w.fake.script("c1", Fate(exit_code=2, stdout=b"some"))
        async with await container.new_task(io=stdio.capture()) as task:
            # A grandchild that goes on to hold the FIFO open.
            grandchild = os.open(w.fake.task("c1").init.paths.stdout, os.O_RDWR | os.O_NONBLOCK)
            try:
                await task.start()
                assert (await task.wait(timeout=10)).code == 2
                assert (await task.delete(drain_timeout=0.05)).code == 2
                assert task.captured is not None
                assert task.captured.stdout == b"some"
            finally:
                os.close(grandchild)


async def test_S45_a_pause_whose_event_is_lost() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.swallow_events('topic=="/tasks/paused"')
        with anyio.fail_after(10):
            await task.pause()
        assert await task.status() == "paused"
        await task.resume()
        assert await task.status() == "running"


async def test_E17_S46_a_failed_create_is_no_exit() -> None:
    async with world() as w, w.client.events("topic~=|^/tasks/|") as events:
        container = await w.client.new_container("c1", spec=SPEC)
        w.fake.script("c1", Fate(create_error="no such program"))
        with pytest.raises(Unknown, match="no such program"):
            await container.new_task()
        w.fake.publish("/tasks/exit", _exit(4711, 137))  # as a 1.6 once did
        await until(events, lambda item: isinstance(item, Event))
        with pytest.raises(NotFound):
            await container.task()
        task = await w.again(fate=RUNS)
        assert await w.still_runs(task)
        w.fake.exit("c1", 0)
        assert (await task.wait(timeout=10)).code == 0


async def test_closing_the_client_ends_waits_without_an_exit() -> None:
    async with world() as w, anyio.create_task_group() as group:
        failures = []

        async def wait(task: Any) -> None:
            try:
                await task.wait()
            except ContainerdError as exc:
                failures.append(type(exc).__name__)

        async with Client(w.fake.address) as other:
            await w.running()
            task = await (await other.container("c1")).task()
            group.start_soon(wait, task)
            await other.barrier()
        await w.client.barrier()
        assert failures == ["Closed"]
