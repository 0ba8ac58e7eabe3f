"""Scenarios S26-S31: who was killed for lack of memory, and how it is known."""

from __future__ import annotations

from typing import Any

import pytest

from containerd_aio import TaskOOM
from containerd_aio.testing import Fate
from tests.unit.fake_support import RUNS, until, world

looptime = pytest.mark.looptime


@pytest.mark.parametrize("moment", ["before-start", "before-exit", "after-exit", "never"])
@pytest.mark.parametrize("cgroup", ["v1", "v2"])
@looptime
async def test_E20_E21_S26_S27_S28_an_oom_kill_is_known_whenever_its_event_comes(
    moment: str, cgroup: Any
) -> None:
    from containerd_aio import Client
    from containerd_aio.testing import FakeContainerd
    from tests.unit.fake_support import World

    async with FakeContainerd(cgroup=cgroup) as fake, Client(fake.address) as client:
        task = await World(fake, client).running(fate=Fate(oom=True, oom_event=moment, after=1))
        status = await task.wait(timeout=30)
        assert (status.code, status.oom_killed, status.oom_known) == (137, True, True)


@looptime
async def test_E21_S27_without_metrics_the_answer_is_that_nobody_knows() -> None:
    async with world() as w:
        task = await w.running(fate=Fate(oom=True, oom_event="never"))
        w.fake.fail("Tasks/Metrics", "UNKNOWN", "no metrics", times=None)
        status = await task.wait(timeout=30)
        assert (status.code, status.oom_killed, status.oom_known) == (137, False, False)


@looptime
async def test_E21_S27_metrics_that_are_never_answered_do_not_hold_up_the_exit() -> None:
    async with world() as w:
        hold = w.fake.hold("Tasks/Metrics")
        task = await w.running(fate=Fate(exit_code=137))
        status = await task.wait(timeout=5)
        assert (status.code, status.oom_killed, status.oom_known) == (137, False, False)
        hold.remove()


async def test_E21_S27_a_kill_without_oom_is_no_oom() -> None:
    async with world() as w:
        task = await w.running()
        await task.kill("KILL")
        status = await task.wait(timeout=10)
        assert (status.code, status.oom_killed, status.oom_known) == (137, False, True)


async def test_E23_S29_something_else_in_the_container_was_killed() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.oom("c1")
        assert await w.still_runs(task)  # an OOM is no exit
        w.fake.exit("c1", 0)
        status = await task.wait(timeout=10)
        assert (status.code, status.oom_killed) == (0, True)


@looptime
async def test_E20_S30_the_oom_of_the_last_run_comes_in_the_next() -> None:
    async with world() as w:
        first = await w.running(fate=Fate(oom=True, oom_event="never"))
        assert (await first.wait(timeout=10)).oom_killed
        await first.delete()
        second = await w.again(fate=RUNS)
        from containerd_aio.api.containerd.events import TaskOom

        w.fake.publish("/tasks/oom", TaskOom(container_id="c1"))
        assert await w.still_runs(second)
        w.fake.exit("c1", 0)
        assert not (await second.wait(timeout=10)).oom_killed


@looptime
async def test_E22_S26_an_oom_that_is_told_long_after_the_exit_amends_it() -> None:
    async with world() as w:
        w.fake.fail("Tasks/Metrics", "UNKNOWN", "no metrics", times=None)
        with w.fake.hold_events('topic=="/tasks/oom"') as held:
            task = await w.running(fate=Fate(oom=True))
            assert not (await task.wait(timeout=10)).oom_killed
            held.release()
        await w.client.barrier()
        assert task.exit_status is not None
        assert task.exit_status.oom_killed


async def test_E23_S31_every_oom_is_told() -> None:
    async with world() as w, w.client.events('topic=="/tasks/oom"', 'topic=="/tasks/exit"') as events:
        task = await w.running()
        for _ in range(3):
            w.fake.oom("c1")
        w.fake.exit("c1", 1)
        assert (await task.wait(timeout=10)).oom_killed
        seen = await until(events, lambda item: getattr(item, "topic", "") == "/tasks/exit")
        assert [type(item) for item in seen[:-1]] == [TaskOOM] * 3
