"""OOM truth: containerd tells of only about four OOM kills in five under load; `wait()` tells of all."""

from __future__ import annotations

from collections import Counter

import anyio

from containerd_aio import Client, Event, ExitStatus, TaskExit, TaskOOM, TaskStart, oci

IMAGE = "docker.io/library/busybox:latest"
EAT = "a=x; while :; do a=$a$a; done"
KILLS = 100


def when(events: list[Event]) -> str:
    """Return when containerd told of the OOM kill of one container."""
    kinds = [type(event) for event in events]
    if TaskOOM not in kinds:
        return "never (S27)"
    oom = kinds.index(TaskOOM)
    if TaskExit in kinds[:oom]:
        return "after the exit (S26)"
    return "before the exit" if TaskStart in kinds[:oom] else "before the start (S28)"


async def test_E21_S26_S27_S28_100_parallel_oom_kills_are_all_told(
    client: Client, containerd_version: str
) -> None:
    statuses: dict[str, ExitStatus] = {}
    created, go = anyio.Semaphore(0), anyio.Event()
    limit = anyio.CapacityLimiter(8)

    async def one(name: str) -> None:
        async with limit:
            container = await client.new_container(
                name, image=IMAGE, args=["sh", "-c", EAT], spec_opts=[oci.with_memory_limit(20 << 20)]
            )
            task = await container.new_task()
        async with container, task:
            created.release()
            await go.wait()  # all die at once: under load is where containerd forgets to tell
            await task.start()
            statuses[name] = await task.wait(timeout=100)

    async with client.events("topic~=|^/tasks/|", buffer=10_000) as events:
        async with anyio.create_task_group() as group:
            for n in range(KILLS):
                group.start_soon(one, f"oom-{n}")
            for _ in range(KILLS):
                await created.acquire()
            go.set()
        await client.barrier()
        told = [e for e in [await anext(events) for _ in range(events.pending)] if isinstance(e, Event)]
    assert len(statuses) == KILLS
    assert {name for name, status in statuses.items() if not status.oom_killed} == set()
    assert {status.code for status in statuses.values()} == {137}
    moments = Counter(when([e for e in told if getattr(e, "container_id", "") == name]) for name in statuses)
    print(f"containerd {containerd_version} told of {KILLS} OOM kills: {dict(moments)}; wait() of all")
