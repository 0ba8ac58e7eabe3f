"""A backend that writes down what it is told, and the sequences that every containerd must lead to."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from containerd_aio import oci
from containerd_aio.libcontainerd import (
    Client,
    IOPipe,
    Remote,
    StateInfo,
    with_live_restore,
    with_remote_addr,
)
from containerd_aio.testing import FakeContainerd, Fate

EAT = "a=x; while :; do a=$a$a; done"
LIMIT = 30


class Book:
    """A backend that writes everything down."""

    def __init__(self) -> None:
        self.told: list[tuple[str, StateInfo]] = []
        self._news = anyio.Event()

    async def state_changed(self, container_id: str, state: StateInfo) -> None:
        self.told.append((container_id, state))
        news, self._news = self._news, anyio.Event()
        news.set()

    def of(self, container_id: str) -> list[str]:
        """What was told of a container, such as ``exit-process e 4``."""
        return [line(info) for name, info in self.told if name == container_id]

    def states(self, container_id: str) -> list[str]:
        return [info.state for name, info in self.told if name == container_id]

    async def until(self, container_id: str, state: str, count: int = 1, limit: float = LIMIT) -> StateInfo:
        """Wait until a state was told so many times; return what was told last."""
        with anyio.fail_after(limit):
            while True:
                found = [info for name, info in self.told if (name, info.state) == (container_id, state)]
                if len(found) >= count:
                    return found[-1]
                await self._news.wait()


class StreamBook(Book):
    """The same, and it takes the streams of every process, as backends of docker 1.11 did."""

    def __init__(self) -> None:
        super().__init__()
        self.pipes: dict[str, list[IOPipe]] = {}

    async def attach_streams(self, process_name: str, io: IOPipe) -> None:
        self.pipes.setdefault(process_name, []).append(io)


def line(info: StateInfo) -> str:
    words = [info.state]
    if info.process_id:
        words.append(info.process_id)
    if info.state in {"exit", "restart", "exit-process"}:
        words.append(str(info.exit_code))
    if info.oom_killed:
        words.append("oom")
    if info.unknown:
        words.append("unknown")
    return " ".join(words)


def spec(container_id: str, namespace: str, rootfs: str, script: str, **process: Any) -> Any:
    """The spec of a container that runs a script in a directory as root file system."""
    made: Any = oci.default_spec("linux", namespace=namespace, container_id=container_id)
    made["root"] = {"path": rootfs}
    made["process"]["args"] = ["sh", "-c", script]
    made["process"]["env"] = ["PATH=/bin"]
    made["process"].update(process)
    return made


def make_rootfs(path: Path) -> str:
    """Make a root file system of a static busybox."""
    (path / "bin").mkdir(parents=True)
    shutil.copy2("/bin/busybox", path / "bin" / "busybox")
    for name in ("sh", "sleep", "cat", "true", "echo", "test", "date", "stty", "kill", "touch", "rm", "id"):
        (path / "bin" / name).symlink_to("busybox")
    return str(path)


@dataclass
class Place:
    """A containerd, real or fake, and what is needed to run containers in it.

    Attributes:
        address: Where it listens.
        namespace: A namespace of its own.
        state_dir: A directory for remotes.
        rootfs: A root file system.
        fake: The fake, if it is one.
        settle: Makes sure that containers can be restored after a remote was left.
    """

    address: str
    namespace: str
    state_dir: Path
    rootfs: str
    fake: FakeContainerd | None = None
    book: Book = field(default_factory=Book)

    def spec(self, container_id: str, script: str = "sleep 1000", **process: Any) -> Any:
        return spec(container_id, self.namespace, self.rootfs, script, **process)

    def script(self, container_id: str, fate: Fate, exec_id: str = "") -> None:
        """Tell a fake what a process does that it can't work out itself."""
        if self.fake is not None:
            self.fake.script(container_id, fate, exec_id=exec_id)

    @asynccontextmanager
    async def remote(self, *options: Any, live_restore: bool = True) -> AsyncIterator[Remote]:
        options = (with_remote_addr(self.address), with_live_restore(live_restore), *options)
        async with Remote(self.state_dir, *options, namespace=self.namespace) as remote:
            yield remote

    @asynccontextmanager
    async def open(self, backend: Book | None = None, **options: Any) -> AsyncIterator[Client]:
        """A client that tells `book`, or another backend."""
        async with self.remote() as remote:
            yield await remote.client(backend or self.book, **options)


async def seen(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Return when a condition holds that nobody tells of."""
    with anyio.fail_after(limit):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def ended(place: Place, container_id: str) -> None:
    """Wait until containerd says that a task has stopped."""
    from containerd_aio import Client as Containerd
    from containerd_aio.api.containerd.services.tasks.v1 import WaitRequest

    async with Containerd(place.address, namespace=place.namespace) as containerd:
        await containerd.services.tasks.wait(WaitRequest(container_id=container_id), timeout=LIMIT)


async def nothing_left(place: Place) -> None:
    """Assert that neither records nor tasks are left."""
    from containerd_aio import Client as Containerd
    from containerd_aio.api.containerd.services.tasks.v1 import ListTasksRequest

    async with Containerd(place.address, namespace=place.namespace) as containerd:
        assert list((await containerd.services.tasks.list(ListTasksRequest())).tasks) == []
        assert [container.id for container in await containerd.containers()] == []


# --- the sequences ----------------------------------------------------------------------------------------------------

Scenario = Callable[[Place, str], Awaitable[None]]


async def plain_run(place: Place, name: str) -> None:
    async with place.open() as client:
        await client.create(name, place.spec(name, "exit 3"))
        await place.book.until(name, "exit")


async def killed(place: Place, name: str) -> None:
    async with place.open() as client:
        await client.create(name, place.spec(name))
        await client.signal(name, 9)
        await place.book.until(name, "exit")


async def an_exec(place: Place, name: str) -> None:
    from containerd_aio.libcontainerd import Process

    async with place.open(start_process=True) as client:
        await client.create(name, place.spec(name))
        await client.add_process(name, "e", Process(args=["sh", "-c", "exit 4"]))
        await place.book.until(name, "exit-process")
        await client.add_process(name, "f", Process(args=["sleep", "1000"]))
        await client.signal_process(name, "f", "KILL")
        await place.book.until(name, "exit-process", 2)
        await client.signal(name, "KILL")
        await place.book.until(name, "exit")


async def an_exec_that_does_not_start(place: Place, name: str) -> None:
    import pytest

    from containerd_aio import ContainerdError
    from containerd_aio.libcontainerd import Process

    place.script(name, Fate(start_error='exec: "/no/such": no such file or directory'), "e")
    async with place.open(start_process=True) as client:
        await client.create(name, place.spec(name))
        with pytest.raises(ContainerdError, match="/no/such"):
            await client.add_process(name, "e", Process(args=["/no/such"]))
        place.script(name, Fate(exit_code=4), "e")
        await client.add_process(name, "e", Process(args=["sh", "-c", "exit 4"]))  # the name is free again
        await place.book.until(name, "exit-process")
        await client.signal(name, "KILL")
        await place.book.until(name, "exit")


async def pause_and_resume(place: Place, name: str) -> None:
    async with place.open() as client:
        await client.create(name, place.spec(name))
        await client.pause(name)
        assert place.book.states(name) == ["start-container", "pause"]
        await client.resume(name)
        assert place.book.states(name) == ["start-container", "pause", "resume"]
        await client.signal(name, "KILL")
        await place.book.until(name, "exit")


async def out_of_memory(place: Place, name: str) -> None:
    place.script(name, Fate(oom=True, after=0.1))
    limited = place.spec(name, EAT)
    limited["linux"]["resources"]["memory"] = {"limit": 20 << 20, "swap": 20 << 20}
    async with place.open() as client:
        await client.create(name, limited)
        await place.book.until(name, "exit")


async def restarted_three_times(place: Place, name: str) -> None:
    from containerd_aio.libcontainerd import RestartManager, with_restart_manager

    async with place.open() as client:
        manager = RestartManager("on-failure:3")
        await client.create(name, place.spec(name, "exit 1"), with_restart_manager(manager))
        await place.book.until(name, "exit")
        assert manager.restart_count == 3


async def restart_canceled(place: Place, name: str) -> None:
    from containerd_aio.libcontainerd import RestartManager, with_restart_manager

    async with place.open() as client:
        manager = RestartManager("always")
        await client.create(name, place.spec(name, "exit 2"), with_restart_manager(manager))
        await place.book.until(name, "restart")
        manager.cancel()
        await place.book.until(name, "exit")


async def restored_running(place: Place, name: str) -> None:
    async with place.open() as client:
        await client.create(name, place.spec(name))
    async with place.open() as client:
        await client.restore(name)
        await client.signal(name, "KILL")
        await place.book.until(name, "exit")


async def restored_paused(place: Place, name: str) -> None:
    async with place.open() as client:
        await client.create(name, place.spec(name))
        await client.pause(name)
    async with place.open() as client:
        await client.restore(name)
        await client.resume(name)
        await client.signal(name, "KILL")
        await place.book.until(name, "exit")


async def restored_dead(place: Place, name: str) -> None:
    async with place.open() as client:
        await client.create(name, place.spec(name, "sleep 0.3; exit 5"))
    await ended(place, name)
    async with place.open() as client:
        await client.restore(name)


async def restored_missing(place: Place, name: str) -> None:
    async with place.open() as client:
        await client.restore(name)


async def ended_by_restore(place: Place, name: str) -> None:
    trap = "trap 'exit 7' TERM; echo; while :; do sleep 0.02; done"
    place.script(name, Fate(exit_code=None, traps={15: 7}))
    taken: list[IOPipe] = []

    async def take(pipe: IOPipe) -> None:
        taken.append(pipe)

    async with place.open() as client:
        await client.create(name, place.spec(name, trap), attach_stdio=take)
        if place.fake is None:
            await taken[0].stdout.receive()  # the trap is there
        await client.pause(name)
        await taken[0].aclose()
    async with place.remote(live_restore=False) as remote:
        client = await remote.client(place.book)
        await client.restore(name)


async def a_backend_that_raises(place: Place, name: str) -> None:
    class Raises(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await place.book.state_changed(container_id, state)
            if state.state != "start-container":
                raise RuntimeError("not now")

    failures: list[Any] = []
    async with place.open(Raises(), on_error=failures.append) as client:
        await client.create(name, place.spec(name))
        await client.pause(name)
        await client.resume(name)
        await client.signal(name, "KILL")
        await place.book.until(name, "exit")
    assert [line(failure.item.state) for failure in failures] == ["pause", "resume", "exit 137"]


async def a_backend_that_refuses_the_start(place: Place, name: str) -> None:
    import pytest

    class Refuses(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await place.book.state_changed(container_id, state)
            raise RuntimeError("no room")

    async with place.open(Refuses(), on_error=lambda _: None) as client:
        with pytest.raises(RuntimeError, match="no room"):
            await client.create(name, place.spec(name))
        assert client.containers == []


async def a_backend_that_blocks(place: Place, name: str) -> None:
    class Blocks(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await place.book.state_changed(container_id, state)
            if (container_id, state.state) == (name, "pause"):
                await anyio.sleep_forever()

    async with place.open(Blocks(), callback_timeout=1, on_error=lambda _: None) as client:
        other = f"{name}-other"
        await client.create(name, place.spec(name))
        async with anyio.create_task_group() as group:
            group.start_soon(client.pause, name)
            await place.book.until(name, "pause")
            await client.create(other, place.spec(other, "exit 2"))  # another container is not held up
            await place.book.until(other, "exit")
        await client.resume(name)
        await client.signal(name, "KILL")
        await place.book.until(name, "exit")
    assert place.book.of(other) == ["start-container", "exit 2"]


SEQUENCES: dict[Scenario, list[str]] = {
    plain_run: ["start-container", "exit 3"],
    killed: ["start-container", "exit 137"],
    an_exec: [
        "start-container",
        "start-process e",
        "exit-process e 4",
        "start-process f",
        "exit-process f 137",
        "exit 137",
    ],
    an_exec_that_does_not_start: [
        "start-container",
        "start-process e",
        "exit-process e 4",
        "exit 137",
    ],
    pause_and_resume: ["start-container", "pause", "resume", "exit 137"],
    out_of_memory: ["start-container", "oom", "exit 137 oom"],
    restarted_three_times: [*["start-container", "restart 1"] * 3, "start-container", "exit 1"],
    restart_canceled: ["start-container", "restart 2", "exit 2"],
    restored_running: ["start-container", "restore", "exit 137"],
    restored_paused: ["start-container", "pause", "restore", "pause", "resume", "exit 137"],
    restored_dead: ["start-container", "exit 5"],
    restored_missing: ["exit 255 unknown"],
    ended_by_restore: ["start-container", "pause", "exit 7"],
    a_backend_that_raises: ["start-container", "pause", "resume", "exit 137"],
    a_backend_that_refuses_the_start: ["start-container"],
    a_backend_that_blocks: ["start-container", "pause", "resume", "exit 137"],
}
"""What every containerd must lead to, literally."""


def literal(told: list[str]) -> list[str]:
    """Leave out what the kernel may do more than once: further OOM reports, also late ones."""
    kept: list[str] = []
    for entry in told:
        if entry.startswith("oom") and (kept[-1].startswith("oom") or kept[-1].startswith("exit ")):
            continue
        kept.append("oom" if entry.startswith("oom") else entry)
    return kept
