"""A client on a fake daemon, and a container to play with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from containerd_aio import Client, Event, Gap, Lagged, Subscription, Task
from containerd_aio.api.containerd.services.tasks.v1 import DeleteTaskRequest, StartRequest
from containerd_aio.testing import FakeContainerd, Fate, Program

RUNS = Fate(exit_code=None)
SPEC: Any = {"ociVersion": "1.0.2", "process": {"args": ["program"], "cwd": "/"}}


class World:
    """A fake, a client of it, and short ways to common situations."""

    def __init__(self, fake: FakeContainerd, client: Client) -> None:
        self.fake = fake
        self.client = client

    async def created(self, name: str = "c1", fate: Program = RUNS, *, namespace: str = "default") -> Task:
        """Make a container and its task."""
        self.fake.script(name, fate)
        client = self.client if namespace == "default" else self.client.namespaced(namespace)
        container = await client.new_container(name, spec=SPEC)
        return await container.new_task()

    async def running(self, name: str = "c1", fate: Program = RUNS, *, namespace: str = "default") -> Task:
        """Make a container and start its task."""
        task = await self.created(name, fate, namespace=namespace)
        await task.start()
        return task

    async def again(self, name: str = "c1", fate: Program = RUNS) -> Task:
        """Make and start another task of a container that has been run before."""
        self.fake.script(name, fate)
        task = await (await self.client.container(name)).new_task()
        await task.start()
        return task

    async def start_behind_our_back(self, name: str = "c1") -> None:
        """Start a task as another client would."""
        await self.client.services.tasks.start(StartRequest(container_id=name))

    async def delete_behind_our_back(self, name: str = "c1") -> None:
        """Delete a task as another client would."""
        await self.client.services.tasks.delete(DeleteTaskRequest(container_id=name))

    async def still_runs(self, task: Task) -> bool:
        """Tell whether, with all that was published dispatched, nothing is known of an end."""
        await self.client.barrier()
        return task.exit_status is None


@asynccontextmanager
async def world(release: Any = "2.1", **options: Any) -> AsyncIterator[World]:
    """Open a fake and a client."""
    async with FakeContainerd(release=release) as fake, Client(fake.address, **options) as client:
        yield World(fake, client)


async def until(events: Subscription, wanted: Callable[[Event | Gap | Lagged], bool]) -> list[Any]:
    """Return the items of a subscription up to one that is wanted."""
    seen: list[Any] = []
    with anyio.fail_after(60):
        async for item in events:
            seen.append(item)
            if wanted(item):
                return seen
    raise AssertionError(f"the subscription ended after {seen}")


def exits(items: list[Any]) -> list[tuple[str, int]]:
    """Return exec id (or container id) and code of the exits among `items`."""
    return [(item.id, item.exit_status) for item in items if getattr(item, "topic", "") == "/tasks/exit"]
