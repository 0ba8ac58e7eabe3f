"""Fixtures for every test.

Real daemons: `containerd_version` runs a test once per release line of the test bed, `daemon` is a daemon shared by all
tests of that line, `namespace` one namespace of its own, emptied afterwards, `private_daemon` makes daemons that a test
may kill, freeze and restart. Nothing of this is set up for a test that doesn't ask for it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import inspect
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import hypothesis
import pytest
import structlog
from anyio.from_thread import start_blocking_portal

if TYPE_CHECKING:
    from containerd_aio.daemon import Daemon
    from containerd_aio.testing.registry import RegistryServer
    from tests.integration.daemon_view import Ctr

# A shell that runs us in the background has these ignored, and our children would inherit that: they are tested here.
_USUAL = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
for _signum, _usual in _USUAL.items():
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _usual)

REPOSITORY = Path(__file__).resolve().parent.parent
#: Marks everything that this test run makes, to tell it from what others make on the same machine.
RUN = f"caio-{secrets.token_hex(3)}"


def _load_testbed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("testbed", REPOSITORY / "scripts" / "testbed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["testbed"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


testbed = _load_testbed()
# The same examples each time: CI is no place to find a new one by chance.
hypothesis.settings.register_profile("ci", derandomize=True)
if testbed.in_ci():
    hypothesis.settings.load_profile("ci")
_CONTAINERDS: dict[str, dict[str, Any]] = testbed.listing()
_LINES = sorted({*testbed.SUITES, *_CONTAINERDS})


def left_out(reason: str) -> None:
    """Leave a test out for lack of something; in CI nothing may be left out."""
    if testbed.in_ci():
        pytest.fail(f"left out, and CI allows no gaps: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """What a test, a snippet or an example configures is not there for the next."""
    yield
    structlog.reset_defaults()


# -- real daemons ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_machine(nothing_left: None) -> None:
    """A machine on which containers can be run."""
    for reason in testbed.obstacles():
        left_out(f"needs root, mounts and overlayfs: {reason}")


@pytest.fixture(scope="session")
def nothing_left() -> Iterator[None]:
    """After the last test no process, mount, FIFO, socket, directory or cgroup of this run remains."""
    before, dead = set(_leftovers()), _dead_shim_sockets()
    yield
    # containerd forgets the sockets of shims that were killed under it; the tests kill many.
    for path in _dead_shim_sockets() - dead:
        path.unlink(missing_ok=True)
    remains = sorted(set(_leftovers()) - before)
    assert not remains, "left behind by this test run:\n" + "\n".join(remains)


@pytest.fixture(scope="session", params=_LINES)
def containerd_version(request: pytest.FixtureRequest, real_machine: None) -> str:
    """A release line of containerd: ``1.6``, ``1.7``, ``2.1``. A test that asks for it runs on each."""
    line: str = request.param
    if line not in _CONTAINERDS:
        left_out(f"no containerd {line} in the test bed: run `make testbed`")
    return line


@pytest.fixture(scope="session")
def containerd_binary(containerd_version: str) -> str:
    """Path of that line's containerd."""
    return str(_CONTAINERDS[containerd_version]["containerd"])


@pytest.fixture(scope="session")
def ctr_binary(containerd_version: str) -> str:
    """Path of that line's ``ctr``."""
    return str(_CONTAINERDS[containerd_version]["ctr"])


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The least root file system: a static busybox."""
    path = tmp_path_factory.mktemp("rootfs")
    (path / "bin").mkdir()
    (path / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (path / "bin" / "busybox").chmod(0o755)
    (path / "bin" / "sleep").symlink_to("busybox")
    return str(path)


@pytest.fixture
def ctr(ctr_binary: str, rootfs: str) -> Ctr:
    """That line's ``ctr``, to call: ``await ctr(daemon, "tasks", "list")``; its namespace is of this run."""
    from tests.integration.daemon_view import Ctr

    return Ctr(ctr_binary, rootfs)


@pytest.fixture(scope="session")
def daemon(containerd_binary: str) -> Iterator[Daemon]:
    """A daemon shared by all tests of one release line. Its attributes are for all, its methods for nobody.

    CRIU is in its PATH, if the test bed has it.
    """
    criu = testbed.criu_dir()
    with shared_daemon(containerd_binary, path=[criu] if criu else []) as shared:
        yield shared


@contextmanager
def shared_daemon(binary: str, **options: Any) -> Iterator[Daemon]:
    """Run a daemon in a thread of its own; `options` are those of `Daemon`."""
    from containerd_aio.daemon import Daemon

    name = f"{RUN}-shared-{secrets.token_hex(2)}"
    with start_blocking_portal() as portal:
        shared = Daemon(
            f"/var/lib/{name}", f"/run/{name}", **{"binary": binary, "log_level": "warn"} | options
        )
        with portal.wrap_async_context_manager(shared):
            yield shared


@pytest.fixture(scope="session")
def registry(real_machine: None) -> Iterator[RegistryServer]:
    """A real registry, open to all, shared by all tests: each uses repositories of its own."""
    from containerd_aio.testing.registry import RegistryServer

    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(RegistryServer()) as shared:
            yield shared


@pytest.fixture
def private_daemon(containerd_binary: str) -> Callable[..., Daemon]:
    """Make a daemon for one test: ``async with private_daemon(**options_of_Daemon) as daemon``."""
    from containerd_aio.daemon import Daemon

    def make(**options: Any) -> Daemon:
        name = f"{RUN}-{secrets.token_hex(4)}"
        places = {"root": f"/var/lib/{name}", "state": f"/run/{name}"}
        given = places | {"binary": containerd_binary, "log_level": "warn"}
        return Daemon(**given | options)

    return make


@pytest.fixture
def namespace(daemon: Daemon) -> Iterator[str]:
    """The name of a namespace of the shared daemon that only this test uses; emptied and removed afterwards."""
    name = f"{RUN}-{secrets.token_hex(4)}"
    yield name
    anyio.run(_remove_namespace, daemon.address, name)
    for folder in (Path("/run/containerd/runc", name), *Path("/sys/fs/cgroup").glob(f"*/{name}")):
        with suppress(OSError):
            folder.rmdir()


async def _remove_namespace(address: str, name: str) -> None:
    from containerd_aio._transport.channel import Channel
    from containerd_aio._transport.dial import Address
    from containerd_aio.api.containerd.services.namespaces.v1 import (
        DeleteNamespaceRequest,
        ListNamespacesRequest,
        NamespacesStub,
    )

    channel = Channel(Address.parse(address), timeout=20, connect_timeout=5)
    try:
        stub = NamespacesStub(channel)
        if all(ns.name != name for ns in (await stub.list(ListNamespacesRequest())).namespaces):
            return
        headers = {"containerd-namespace": name}
        await _remove_containers(channel, headers)
        await _remove_data(channel, headers)
        await stub.delete(DeleteNamespaceRequest(name=name))
    finally:
        channel.close()


async def _remove_containers(channel: Any, headers: dict[str, str]) -> None:
    from containerd_aio.api.containerd.services.containers.v1 import (
        ContainersStub,
        DeleteContainerRequest,
        ListContainersRequest,
    )
    from containerd_aio.api.containerd.services.tasks.v1 import (
        DeleteTaskRequest,
        KillRequest,
        ListTasksRequest,
        ResumeTaskRequest,
        TasksStub,
        WaitRequest,
    )
    from containerd_aio.errors import ContainerdError

    tasks = TasksStub(channel)
    for process in (await tasks.list(ListTasksRequest(), metadata=headers)).tasks:
        with suppress(ContainerdError):  # not paused
            await tasks.resume(ResumeTaskRequest(container_id=process.id), metadata=headers)
        with suppress(ContainerdError):  # ended already
            await tasks.kill(KillRequest(container_id=process.id, signal=9, all=True), metadata=headers)
            await tasks.wait(WaitRequest(container_id=process.id), metadata=headers, timeout=10)
        with suppress(ContainerdError):
            await tasks.delete(DeleteTaskRequest(container_id=process.id), metadata=headers)
    containers = ContainersStub(channel)
    for container in (await containers.list(ListContainersRequest(), metadata=headers)).containers:
        await containers.delete(DeleteContainerRequest(id=container.id), metadata=headers)


async def _remove_data(channel: Any, headers: dict[str, str]) -> None:
    from containerd_aio.api.containerd.services.content.v1 import (
        AbortRequest,
        ContentStub,
        DeleteContentRequest,
        ListContentRequest,
        ListStatusesRequest,
    )
    from containerd_aio.api.containerd.services.images.v1 import (
        DeleteImageRequest,
        ImagesStub,
        ListImagesRequest,
    )
    from containerd_aio.api.containerd.services.introspection.v1 import IntrospectionStub, PluginsRequest
    from containerd_aio.api.containerd.services.leases.v1 import (
        CreateRequest,
        DeleteRequest,
        LeasesStub,
        ListRequest,
    )
    from containerd_aio.api.containerd.services.snapshots.v1 import SnapshotsStub
    from containerd_aio.errors import NotFound

    images = ImagesStub(channel)
    for image in (await images.list(ListImagesRequest(), metadata=headers)).images:
        await images.delete(DeleteImageRequest(name=image.name), metadata=headers)
    leases = LeasesStub(channel)
    for lease in (await leases.list(ListRequest(), metadata=headers)).leases:
        with suppress(NotFound):  # a lease may expire by itself
            await leases.delete(DeleteRequest(id=lease.id), metadata=headers)
    # A collection that is waited for: a call cancelled by a test may still have been carried out behind its back.
    last = await leases.create(CreateRequest(), metadata=headers)
    assert last.lease is not None
    await leases.delete(DeleteRequest(id=last.lease.id, sync=True), metadata=headers)
    introspection = IntrospectionStub(channel)
    for plugin in (await introspection.plugins(PluginsRequest())).plugins:
        if plugin.type == "io.containerd.snapshotter.v1" and plugin.init_err is None:
            await _remove_snapshots(SnapshotsStub(channel), plugin.id, headers)
    content = ContentStub(channel)
    for status in (await content.list_statuses(ListStatusesRequest(), metadata=headers)).statuses:
        with suppress(NotFound):
            await content.abort(AbortRequest(ref=status.ref), metadata=headers)
    digests = [
        info.digest
        async for reply in content.list(ListContentRequest(), metadata=headers)
        for info in reply.info
    ]
    for digest in digests:
        with suppress(NotFound):  # the garbage collector was faster
            await content.delete(DeleteContentRequest(digest=digest), metadata=headers)


async def _remove_snapshots(stub: Any, snapshotter: str, headers: dict[str, str]) -> None:
    from containerd_aio.api.containerd.services.snapshots.v1 import (
        ListSnapshotsRequest,
        RemoveSnapshotRequest,
    )
    from containerd_aio.errors import NotFound

    listing = stub.list(ListSnapshotsRequest(snapshotter=snapshotter), metadata=headers)
    infos = [info async for reply in listing for info in reply.info]
    while infos:
        parents = {info.parent for info in infos}
        for info in [info for info in infos if info.name not in parents]:
            with suppress(NotFound):
                request = RemoveSnapshotRequest(snapshotter=snapshotter, key=info.name)
                await stub.remove(request, metadata=headers)
            infos.remove(info)


# -- nothing is left ------------------------------------------------------------------------------------------


def _leftovers() -> Iterator[str]:
    """Everything on this machine that carries the mark of this run, or could come from nowhere else."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            command = entry.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if RUN in command:
                yield f"process {entry.name}: {command}"
            elif "/_daemon/cleanup.py" in command and command.split()[-1] == str(os.getpid()):
                yield f"guardian {entry.name}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if RUN in line:
            yield f"mount: {line}"
    for pattern in (
        "/run/*",
        "/var/lib/*",
        "/run/containerd/runc/*",
        "/sys/fs/cgroup/*",
        "/sys/fs/cgroup/*/*",
    ):
        for path in Path("/").glob(f"{pattern[1:]}{RUN}*"):
            yield f"path: {path}"
    yield from (f"path: {path}" for path in Path("/run/containerd").glob("fifo/*") if RUN in str(path))


def _dead_shim_sockets() -> set[Path]:
    dead: set[Path] = set()
    for path in Path("/run/containerd/s").glob("*"):
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                dead.add(path)
            except OSError:
                pass
    return dead


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tests are recorded on request."""
    parser.addoption(
        "--tables", metavar="PATH", type=Path, help="add what the tests show to the record at PATH"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Record what the tests show, when asked to."""
    if path := config.getoption("--tables"):
        from tests.evidence import Recorder

        config.pluginmanager.register(Recorder(path))


def pytest_sessionstart() -> None:
    """Say that there is no event loop: a plugin that asks for it would otherwise make one that nobody closes."""
    asyncio.set_event_loop(None)


_BEFORE = pytest.StashKey[tuple[set[threading.Thread], set[str]]]()


def _is_unit(item: pytest.Item) -> bool:
    return item.path.is_relative_to(REPOSITORY / "tests" / "unit")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Note what there is before a unit test and its fixtures, event loop included."""
    if _is_unit(item):
        item.stash[_BEFORE] = set(threading.enumerate()), _descriptors()
    yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """After a unit test and its fixtures there are no more threads and descriptors than before."""
    yield
    if not _is_unit(item):
        return
    threads, descriptors = item.stash[_BEFORE]
    for thread in set(threading.enumerate()) - threads:
        thread.join(2)  # anyio's idle worker threads end with the loop, a moment after it
        assert not thread.is_alive(), f"the test left a thread behind: {thread}"
    if leaked := _descriptors() - descriptors:
        gc.collect()
        leaked &= _descriptors()
    assert not leaked, f"the test left descriptors behind: {leaked}"


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> None:
    """After an async unit test there are no more tasks in its loop than before."""
    if _is_unit(request.node) and inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_no_leaked_tasks")


@pytest.fixture
async def _no_leaked_tasks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(5):  # what was cancelled needs a few rounds to end
        await anyio.lowlevel.checkpoint()
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not leaked, f"the test left tasks behind: {leaked}"


def _descriptors() -> set[str]:
    found: set[str] = set()
    for entry in os.scandir("/proc/self/fd"):
        with suppress(OSError):
            target = os.readlink(entry.path)  # noqa: PTH115
            if target.startswith(("socket:", "pipe:", "anon_inode:")):
                found.add(f"{entry.name} -> {target}")
    return found
