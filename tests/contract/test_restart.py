"""What is left of tasks when the daemon was away, or their shim."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import Client, Daemon, Event, Subscription, TaskDelete, TaskExit
from containerd_aio.api.containerd.services.tasks.v1 import PauseTaskRequest
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.testing.fake import FakeContainerd
from tests.contract.backend import Backend, refused


class Restartable:
    """A daemon that a test may take away."""

    def __init__(self, backend: Backend, daemon: Daemon | None) -> None:
        self.backend = backend
        self._daemon = daemon

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Kill the daemon, and start it again after the block."""
        if self._daemon is not None:
            await self._daemon.kill(signal.SIGKILL)
            yield
            await self._daemon.restart()
        else:
            assert self.backend.fake is not None
            await self.backend.fake.stop()
            yield
            await self.backend.fake.start()

    async def kill(self, container_id: str, pid: int) -> None:
        """Kill an init process past the daemon."""
        if self.backend.fake is not None:
            self.backend.fake.exit(container_id, 137)
        else:
            with _watching(pid) as descriptor:
                os.kill(pid, signal.SIGKILL)
                await anyio.wait_readable(descriptor)

    async def ended(self, container_id: str, exec_id: str, pid: int) -> None:
        """Wait until a process has ended, past the daemon."""
        if self.backend.fake is not None:
            await self.backend.fake.task(container_id).process(exec_id).ended.wait()
        else:
            with suppress(ProcessLookupError), _watching(pid) as descriptor:
                await anyio.wait_readable(descriptor)


@contextmanager
def _watching(pid: int) -> Iterator[int]:
    """Yield a descriptor that becomes readable when a process ends."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def private_place(
    backend_name: str, request: pytest.FixtureRequest
) -> tuple[Callable[..., Daemon] | None, Path]:
    """How to make a daemon of the test's own, and the image for it."""
    if backend_name.startswith("real-"):
        return request.getfixturevalue("private_daemon"), request.getfixturevalue("real_archive")
    return None, request.getfixturevalue("fake_archive")


@pytest.fixture
async def restartable(
    backend_name: str, private_place: tuple[Callable[..., Daemon] | None, Path]
) -> AsyncIterator[Restartable]:
    """A daemon of the test's own."""
    make, archive = private_place
    release: Any = backend_name.partition("-")[2]
    if make is None:
        async with FakeContainerd(release=release) as fake, Client(fake.address) as client:
            yield Restartable(Backend(client, release, fake, archive), None)
        return
    async with make() as daemon, Client(daemon.address) as client:
        await client.import_archive(archive, unpack=True)
        yield Restartable(Backend(client, release), daemon)


async def test_tasks_after_a_restart(restartable: Restartable) -> None:
    backend = restartable.backend
    async with (
        backend.running("sh", "-c", "exit 5") as (ended, _),
        backend.running() as (runs, task),
        backend.running() as (dies, dying),
        backend.running() as (paused, _),
        backend.container("sleep", "1000") as container,
    ):
        created = container.id
        await container.new_task()
        await backend.wait(ended)
        await backend.tasks.pause(PauseTaskRequest(container_id=paused))
        assert dying.pid is not None
        async with restartable.away():
            await restartable.kill(dies, dying.pid)
        assert (await backend.get(runs)).status == Status.RUNNING
        assert (await backend.get(runs)).pid == task.pid
        assert (await backend.get(paused)).status == Status.PAUSED
        assert (await backend.get(created)).status == Status.CREATED
        for name, code in ((ended, 5), (dies, 137)):
            if backend.release == "1.6":
                process = await backend.get(name)
                assert (process.status, process.exit_status) == (Status.STOPPED, code)
                assert await backend.wait(name) == code
            else:  # forgotten, without a word
                assert await refused(backend.get(name)) == ("NotFound", f"task {name} not found")
                assert await refused(backend.wait(name)) == ("NotFound", f"task {name} not found")


async def test_the_exit_of_an_exec_meanwhile_is_told_afterwards(restartable: Restartable) -> None:
    backend = restartable.backend
    async with backend.running() as (name, task):
        process = await task.exec("e1", ["sh", "-c", "sleep 0.2; exit 9"])
        await process.start()
        assert process.pid is not None
        async with backend.client.events("topic~=|^/tasks/exit|") as events:
            async with restartable.away():
                await restartable.ended(name, "e1", process.pid)
            # The shim tries again about a second after its first attempt.
            exit_ = await _next(events, TaskExit)
            assert isinstance(exit_, TaskExit)
            assert (exit_.id, exit_.pid, exit_.exit_status) == ("e1", process.pid, 9)
        assert (await backend.get(name, "e1")).exit_status == 9


async def _next(events: Subscription, kind: type[Event]) -> Event:
    with anyio.fail_after(10):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError


def _kill_shim(backend: Backend, name: str, pid: int | None) -> None:
    if backend.fake is not None:
        backend.fake.kill_shim(name)
    else:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(parent), signal.SIGKILL)


async def test_a_killed_shim(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.running() as (name, task):
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                assert await refused(backend.wait(name)) == ("Unknown", backend.shim("ttrpc: closed"))

            group.start_soon(wait)
            for _ in range(3):
                await backend.client.version()
            _kill_shim(backend, name, task.pid)
        events = await recorder.until_topic("/tasks/delete")
        ends = [event for event in events if isinstance(event, TaskExit | TaskDelete)]
        assert [(type(end).__name__, end.id, end.pid, end.exit_status) for end in ends] == [
            ("TaskExit", name, task.pid, 137),
            ("TaskDelete", "", task.pid, 137),
        ]
        assert ends[0].exited_at_ns == ends[1].exited_at_ns
        while await _is_there(backend, name):  # the events come a moment before it is forgotten
            await backend.client.version()
        assert await refused(backend.get(name)) == ("NotFound", f"task {name} not found")


async def _is_there(backend: Backend, name: str) -> bool:
    return (await refused(backend.get(name)))[1] == "not found"


async def test_a_shim_killed_after_the_exit_tells_another(backend: Backend) -> None:
    async with backend.recorder() as recorder, backend.container("sh", "-c", "exit 5") as container:
        task = await container.new_task()
        pid, name = task.pid, container.id
        shim = None if backend.fake else Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        await task.start()
        assert await backend.wait(name) == 5
        await recorder.until_topic("/tasks/exit")  # else the shim may be killed before it has told
        if shim is None:
            _kill_shim(backend, name, pid)
        else:
            os.kill(int(shim), signal.SIGKILL)
        events = await recorder.until_topic("/tasks/delete")
        exits = [event for event in events if isinstance(event, TaskExit)]
        assert [(event.pid, event.exit_status) for event in exits] == [(pid, 5), (pid, 137)]
        assert (await task.wait()).code == 5  # the first is the truth
