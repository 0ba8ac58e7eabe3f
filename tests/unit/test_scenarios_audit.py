"""Scenario S12: a shim gives up publishing, everything else is well, and no event ever tells. The audit finds it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import structlog.testing

from containerd_aio import Client, DeadlineExceeded, Event, InvalidArgument, TaskExit
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.events.audit import GRACE, JITTER, SHARE
from containerd_aio.testing import Fate
from tests.unit.fake_support import RUNS, exits, until, world

pytestmark = pytest.mark.looptime

NEVER_TOLD = ('topic=="/tasks/exit"', 'topic=="/tasks/delete"')


def _calls(w: Any, method: str) -> int:
    return sum(call.method.endswith(method) for call in w.fake.calls)


async def test_E35_S12_an_exit_that_is_never_published_ends_the_wait() -> None:
    async with world(audit=60) as w, w.client.events("topic~=|^/tasks/|") as events:
        task = await w.running()
        w.fake.swallow_events(*NEVER_TOLD, times=None)
        w.fake.exit("c1", 5)
        began = anyio.current_time()
        status = await task.wait(timeout=100)
        assert anyio.current_time() - began <= 60 * (1 + JITTER) + GRACE + 1
        assert (status.code, status.unknown, status.source) == (5, False, "list")
        seen = await until(events, lambda item: isinstance(item, TaskExit))
        assert exits(seen) == [("c1", 5)]
        assert seen[-1].origin == "resync"
        statistics = w.client.statistics()
        assert (statistics.audits, statistics.resynced, statistics.sessions) == (1, 1, 1)
        assert statistics.open_tasks == 0


async def test_E35_S12_a_task_that_vanishes_without_a_word_is_unknown() -> None:
    async with world(audit=60) as w:
        task = await w.running()
        w.fake.swallow_events(*NEVER_TOLD, times=None)
        w.fake.exit("c1", 5)
        await w.delete_behind_our_back()
        status = await task.wait(timeout=100)
        assert (status.code, status.unknown, status.source) == (255, True, "missing")


async def test_E35_S12_the_exit_of_an_exec_is_found_too() -> None:
    async with world(audit=60) as w:
        task = await w.running()
        w.fake.script("c1", RUNS, exec_id="e1")
        process = await task.exec("e1", ["true"])
        await process.start()
        w.fake.swallow_events(*NEVER_TOLD, times=None)
        w.fake.exit("c1", 7, exec_id="e1")
        status = await process.wait(timeout=100)
        assert (status.code, status.source) == (7, "get")
        assert task.exit_status is None


async def test_E35_S12_a_life_of_others_that_was_never_told_is_told() -> None:
    async with world(audit=30) as w, w.client.events("topic~=|^/tasks/|") as events:
        await w.running("seen")
        with w.fake.swallow_events("topic~=|^/tasks/|", times=None), anyio.fail_after(100):
            async with Client(w.fake.address) as other:
                w.fake.script("other", RUNS)
                container = await other.new_container("other", spec={"process": {"args": ["x"], "cwd": "/"}})
                await (await container.new_task()).start()
            found = await until(events, lambda item: item.container_id == "other" and "start" in item.topic)
        assert [(item.topic, item.origin) for item in found if item.container_id == "other"] == [
            ("/tasks/create", "resync"),
            ("/tasks/start", "resync"),
        ]


async def test_E35_S45_a_pause_that_was_never_told_is_told() -> None:
    async with world(audit=60) as w, w.client.events('topic=="/tasks/paused"') as events:
        await w.running()
        w.fake.swallow_events('topic=="/tasks/paused"', times=None)
        w.fake.pause("c1")
        with anyio.fail_after(100):
            event = await anext(events)
        assert isinstance(event, Event)
        assert event.origin == "resync"


async def test_E35_an_exit_during_the_audit_is_told_once_and_by_containerd() -> None:
    async with world(audit=60) as w, w.client.events('topic=="/tasks/exit"') as events:
        task = await w.running()
        with w.fake.hold("Tasks/List") as hold:
            await hold.reached()  # its reply says that it runs
            w.fake.exit("c1", 3)
            hold.release()
        assert (await task.wait(timeout=10)).source == "event"
        with w.fake.delay_events(1, 'topic=="/tasks/exit"'):
            again = await w.running("c2")
            with w.fake.hold("Tasks/List", before=True) as hold:
                await hold.reached()
                w.fake.exit("c2", 4)  # the listing will show it before the event comes
                hold.release()
            assert (await again.wait(timeout=10)).source == "event"
        await anyio.sleep(GRACE * 2)
        await w.client.publish("/end")
        assert [(await anext(events)).origin for _ in range(2)] == ["live", "live"]  # type: ignore[union-attr]
        assert events.pending == 0
        assert w.client.statistics().resynced == 0


async def test_E35_without_open_tasks_nothing_is_asked() -> None:
    async with world(audit=60) as w, w.client.events():
        lists = _calls(w, "Tasks/List")
        await anyio.sleep(1000)
        await (await w.running(fate=Fate(exit_code=0))).wait()
        await anyio.sleep(1000)
        assert _calls(w, "Tasks/List") == lists
        assert w.client.statistics().audits == 0


async def test_E35_an_audit_costs_one_call_and_keeps_its_distance() -> None:
    async with world(audit=60) as w:
        for n in range(20):
            await w.running(f"c{n}")
        lists, gets = _calls(w, "Tasks/List"), _calls(w, "Tasks/Get")
        await anyio.sleep(3600)
        assert 3600 / (60 * (1 + JITTER)) - 2 <= _calls(w, "Tasks/List") - lists <= 3600 / (60 * (1 - JITTER))
        assert _calls(w, "Tasks/Get") == gets
        assert _calls(w, "Namespaces/List") == 1
        with w.fake.delay("Tasks/List", 10, times=None):
            await anyio.sleep(120)  # one that is under way already
            before = w.client.statistics().audits
            await anyio.sleep(3600)
            assert w.client.statistics().audits - before <= 3600 / (10 * SHARE * (1 - JITTER)) + 1


async def test_E35_an_audit_that_fails_harms_nothing() -> None:
    async with world(audit=60) as w:
        task = await w.running()
        with (
            w.fake.fail("Tasks/List", "UNAVAILABLE", "not now", times=None),
            w.fake.fail("Tasks/Get", "UNAVAILABLE", "not now", times=None),
        ):
            await anyio.sleep(600)
            assert task.exit_status is None
        w.fake.swallow_events(*NEVER_TOLD, times=None)
        w.fake.exit("c1", 5)
        assert (await task.wait(timeout=200)).code == 5
        assert w.client.statistics().sessions == 1


async def test_E35_it_may_be_turned_off() -> None:
    async with world(audit=None) as w:
        await w.running()
        lists = _calls(w, "Tasks/List")
        await anyio.sleep(3600)
        assert _calls(w, "Tasks/List") == lists
        assert w.client.statistics().audits == 0
        with pytest.raises(InvalidArgument, match="audit is 0"):
            Client(w.fake.address, audit=0)


async def test_E35_many_execs_are_asked_about_slowly() -> None:
    async with world(audit=60) as w:
        task = await w.running()
        processes = []
        for n in range(200):
            w.fake.script("c1", RUNS, exec_id=f"e{n}")
            processes.append(await task.exec(f"e{n}", ["true"]))
            await processes[-1].start()
        gets = _calls(w, "Tasks/Get")
        w.fake.swallow_events(*NEVER_TOLD, times=None)
        for n in range(200):
            w.fake.exit("c1", n % 100, exec_id=f"e{n}")
        with w.fake.hold("Tasks/List") as hold:
            await hold.reached()
            hold.release()
        await anyio.sleep(GRACE + 0.1)
        assert _calls(w, "Tasks/Get") - gets < 50
        for n, process in enumerate(processes):
            assert (await process.wait(timeout=10)).code == n % 100
        assert _calls(w, "Tasks/Get") - gets == 200
        assert w.client._scope.core.hub.registry.next_deadline() is None


async def test_E35_S15_a_shim_that_hangs_is_told_and_ends_no_wait() -> None:
    def unclear(reply: Any) -> Any:
        """Answer as the daemons do for a shim that does not."""
        for process in [*getattr(reply, "tasks", ()), *filter(None, [getattr(reply, "process", None)])]:
            process.status, process.pid = Status.UNKNOWN, 0
        return reply

    with structlog.testing.capture_logs() as logs:
        async with world(audit=60) as w:
            task = await w.running()
            w.fake.swallow_events(*NEVER_TOLD, times=None)
            hanging = [w.fake.alter(method, unclear) for method in ("Tasks/Get", "Tasks/List")]
            w.fake.exit("c1", 5)
            with pytest.raises(DeadlineExceeded, match=r"c1 had not ended after 600 s, as far as is known: "):
                await task.wait(timeout=600)
            assert await task.status() == "unknown"
            for fault in hanging:
                fault.remove()
            assert (await task.wait(timeout=100)).code == 5
    told = [entry for entry in logs if "its shim does not answer" in entry["event"]]
    assert [entry["container_id"] for entry in told] == ["c1"]
