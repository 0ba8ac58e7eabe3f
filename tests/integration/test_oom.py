"""OOM truth: containerd tells of only about four OOM kills in five under load; `wait()` tells of all (E21, S26-S28)."""

from __future__ import annotations

import anyio

from containerd_aio import Client, ExitStatus, TaskOOM, oci

IMAGE = "docker.io/library/busybox:latest"
EAT = "a=x; while :; do a=$a$a; done"


async def test_e21_100_parallel_oom_kills_are_all_told(client: Client) -> None:
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

    async with client.events('topic=="/tasks/oom"') as events:
        async with anyio.create_task_group() as group:
            for n in range(100):
                group.start_soon(one, f"oom-{n}")
            for _ in range(100):
                await created.acquire()
            go.set()
        await client.barrier()
        told = {
            e.container_id
            for e in [await anext(events) for _ in range(events.pending)]
            if isinstance(e, TaskOOM)
        }
    assert len(statuses) == 100
    assert {name for name, status in statuses.items() if not status.oom_killed} == set()
    assert {status.code for status in statuses.values()} == {137}
    print(f"containerd told of {len(told)} of 100 OOM kills by events; wait() of 100")
