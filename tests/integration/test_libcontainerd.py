"""libcontainerd on real daemons: the sequences of callbacks, standard streams, restarts of containerd."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from containerd_aio import AlreadyExists, ContainerdError, NotFound
from containerd_aio import Client as Containerd
from containerd_aio.libcontainerd import (
    INIT_FRIENDLY_NAME,
    IOPipe,
    Process,
    Resources,
    User,
    with_runtime,
    with_snapshot,
)
from tests.conftest import left_out
from tests.integration.conftest import BUSYBOX
from tests.unit.libcontainerd_support import (
    SEQUENCES,
    Place,
    Scenario,
    StreamBook,
    literal,
    make_rootfs,
    nothing_left,
)

if TYPE_CHECKING:
    from containerd_aio import Daemon


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root file system with a shell."""
    return make_rootfs(tmp_path_factory.mktemp("libcontainerd") / "rootfs")


@pytest.fixture(scope="session")
def criu() -> Path:
    """The folder of CRIU, for the PATH of a daemon."""
    folder: Path | None = sys.modules["testbed"].criu_dir()
    if folder is None:
        left_out("no CRIU in the test bed: run `make testbed`")
    assert folder is not None
    return folder


@pytest.fixture
def place(daemon: Daemon, namespace: str, tmp_path: Path, busybox_rootfs: str) -> Place:
    """A namespace of the shared daemon, and a directory for remotes."""
    return Place(daemon.address, namespace, tmp_path / "state", busybox_rootfs)


@pytest.mark.shows(
    "seed:libcontainerd.StateStart",
    "seed:libcontainerd.StatePause",
    "seed:libcontainerd.StateResume",
    "seed:libcontainerd.StateExit",
    "seed:libcontainerd.StateRestart",
    "seed:libcontainerd.StateRestore",
    "seed:libcontainerd.StateStartProcess",
    "seed:libcontainerd.StateExitProcess",
    "seed:libcontainerd.StateOOM",
    "seed:libcontainerd.Backend",
    "seed:libcontainerd.Backend.StateChanged",
    "seed:libcontainerd.Client",
    "seed:libcontainerd.Client.Create",
    "seed:libcontainerd.Client.Signal",
    "seed:libcontainerd.Client.AddProcess",
    "seed:libcontainerd.Client.Pause",
    "seed:libcontainerd.Client.Resume",
    "seed:libcontainerd.Client.Restore",
    "seed:libcontainerd.CreateOption",
    "seed:libcontainerd.CreateOption.Apply",
    "seed:libcontainerd.WithRestartManager",
    "seed:libcontainerd.Process",
    "seed:libcontainerd.Remote",
    "seed:libcontainerd.Remote.Client",
    "seed:libcontainerd.RemoteOption",
    "seed:libcontainerd.StateInfo",
    "seed:libcontainerd-types.Client.SignalProcess",
)
@pytest.mark.parametrize("scenario", SEQUENCES, ids=lambda scenario: scenario.__name__)
async def test_E24_what_is_told_is_literally_this(place: Place, scenario: Scenario) -> None:
    name = scenario.__name__.replace("_", "-")
    await scenario(place, name)
    assert literal(place.book.of(name)) == SEQUENCES[scenario]
    await nothing_left(place)


# --- processes, streams, limits ---------------------------------------------------------------------------------------


@pytest.mark.shows(
    "seed:libcontainerd.InitFriendlyName",
    "seed:libcontainerd.IOPipe",
    "seed:libcontainerd.User",
    "seed:libcontainerd.Backend.AttachStreams",
    "seed:libcontainerd.Client.Resize",
    "seed:libcontainerd.Client.Stats",
    "seed:libcontainerd.Client.GetPidsForContainer",
    "seed:libcontainerd.Client.Summary",
    "seed:libcontainerd.Client.UpdateResources",
    "seed:libcontainerd-types.ServerVersion",
    "seed:libcontainerd-types.Client.GetServerVersion",
)
async def test_streams_processes_stats_and_limits(place: Place, containerd_version: str) -> None:
    book = StreamBook()
    async with place.open(book) as client:
        await client.create("io", place.spec("io", "cat; echo end >&2; exit 6"))
        version = await client.get_server_version()
        assert f"{version.major}.{version.minor}" == containerd_version
        [pipe] = book.pipes["io"]
        await pipe.stdin.send(b"through\n")
        assert await pipe.stdout.receive() == b"through\n"
        pid = await client.add_process(
            "io", "tty", Process(args=["sh", "-c", "test -t 1 && echo a terminal"], terminal=True)
        )
        assert pid in await client.get_pids_for_container("io") or await book.until("io", "exit-process")
        await book.until("io", "exit-process")
        [terminal] = book.pipes["tty"]
        assert terminal.terminal
        assert await terminal.stdout.receive() == b"a terminal\r\n"
        as_nobody = Process(
            args=["sh", "-c", "id -u; echo $A; pwd"], user=User(uid=99), env=["A=1", "PATH=/bin"], cwd="/bin"
        )
        await client.add_process("io", "user", as_nobody)
        script = "until test \"$(stty size)\" = '24 80'; do sleep 0.02; done"
        await client.add_process("io", "sized", Process(args=["sh", "-c", script], terminal=True))
        await client.resize("io", "sized", 80, 24)
        await client.resize("io", INIT_FRIENDLY_NAME, 80, 24)  # without a terminal nothing happens
        await book.until("io", "exit-process", 3)
        assert await _read(book.pipes["user"][0]) == b"99\n1\n/bin\n"

        before = await client.stats("io")
        await client.update_resources("io", Resources(memory_limit=64 << 20, memory_swap=-1, pids_limit=50))
        after = await client.stats("io")
        assert before.memory_limit != 64 << 20
        assert after.memory_limit == 64 << 20
        assert after.pids is not None
        assert after.pids >= 1
        assert after.cpu_usage_ns
        assert [s.command for s in await client.summary("io")] == ["sh -c cat; echo end >&2; exit 6"]

        await pipe.stdin.aclose()  # the end of its input
        assert (await book.until("io", "exit")).exit_code == 6
        assert await _read(pipe) == b""
        assert await pipe.stderr.receive() == b"end\n"
        for pipes in book.pipes.values():
            for one in pipes:
                await one.aclose()
    await nothing_left(place)


async def _read(pipe: IOPipe) -> bytes:
    data = b""
    with anyio.fail_after(20):
        async for chunk in pipe.stdout:
            data += chunk
    return data


@pytest.mark.shows(
    "seed:libcontainerd-types.StdioCallback",
)
async def test_the_output_of_a_container_is_not_lost_between_two_remotes(place: Place) -> None:
    taken: list[IOPipe] = []

    async def take(pipe: IOPipe) -> None:
        taken.append(pipe)

    script = "echo one; read line; echo got $line; exit 9"
    async with place.open() as client:
        await client.create("io", place.spec("io", script), attach_stdio=take)
        assert await taken[0].stdout.receive() == b"one\n"
    await taken[0].aclose()
    async with place.open() as client:
        await client.restore("io", attach_stdio=take)
        await taken[1].stdin.send(b"two\n")
        assert await taken[1].stdout.receive() == b"got two\n"
        await place.book.until("io", "exit")
        await taken[1].aclose()
    assert place.book.of("io") == ["start-container", "restore", "exit 9"]
    await nothing_left(place)


async def test_S44_an_exit_does_not_wait_for_the_output(place: Place) -> None:
    taken: list[IOPipe] = []

    async def take(pipe: IOPipe) -> None:
        taken.append(pipe)

    async with place.open() as client:
        await client.create("io", place.spec("io"))
        # A child of it keeps its output open.
        script = "sleep 1000 & exit 3"
        await client.add_process("io", "e", Process(args=["sh", "-c", script]), attach_stdio=take)
        with anyio.fail_after(3):
            assert (await place.book.until("io", "exit-process")).exit_code == 3
        await client.signal("io", "KILL")
        await place.book.until("io", "exit")
        assert await _read(taken[0]) == b""  # then it ends
        await taken[0].aclose()
    assert place.book.of("io") == ["start-container", "exit-process e 3", "exit 137"]


async def test_a_container_from_a_snapshot(place: Place, client: Containerd) -> None:
    image = await client.image(BUSYBOX)
    snapshots = await client.snapshotter()
    made = place.spec("snap", "echo x >/file; exit 2")
    made["root"] = {"path": "rootfs"}
    async with client.lease(), place.open() as lib:
        await snapshots.prepare("root", await image.chain_id())
        await lib.create("snap", made, with_snapshot("root"))
        await place.book.until("snap", "exit")
        await snapshots.stat("root")  # it is the caller's
        await snapshots.remove("root")
    assert place.book.of("snap") == ["start-container", "exit 2"]
    await nothing_left(place)


async def test_another_runtime(place: Place) -> None:
    async with place.open() as client:
        with pytest.raises(ContainerdError, match="no-such-runtime"):
            await client.create("rt", place.spec("rt"), with_runtime("/no-such-runtime"))
        assert place.book.of("rt") == []
        await nothing_left(place)
        runc = shutil.which("runc")
        assert runc is not None
        await client.create("rt", place.spec("rt", "exit 1"), with_runtime(runc))
        await place.book.until("rt", "exit")
    assert place.book.of("rt") == ["start-container", "exit 1"]


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.shows(
    "seed:libcontainerd-types.Client.CreateCheckpoint",
    "seed:libcontainerd-types.Client.DeleteCheckpoint",
    "seed:libcontainerd-types.Client.ListCheckpoints",
)
async def test_checkpoints(
    private_daemon: Callable[..., Daemon], criu: Path, tmp_path: Path, busybox_rootfs: str
) -> None:
    count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
    async with private_daemon(path=[criu]) as daemon:
        name = f"cp-{secrets.token_hex(3)}"
        place = Place(daemon.address, f"ns-{name}", tmp_path / "state", busybox_rootfs)
        taken: list[IOPipe] = []

        async def take(pipe: IOPipe) -> None:
            taken.append(pipe)

        async with place.open() as client:
            assert list((await client.list_checkpoints(name)).checkpoints) == []
            await client.create(name, place.spec(name, count), attach_stdio=take)
            assert (await taken[0].stdout.receive()).startswith(b"1\n")
            await client.create_checkpoint(name, "first")
            assert client.containers == [name]  # it goes on
            with pytest.raises(AlreadyExists, match="'first'"):
                await client.create_checkpoint(name, "first")
            await client.create_checkpoint(name, "last", tmp_path / "elsewhere", exit=True)
            await place.book.until(name, "exit")
            seen = int((await _read(taken[0])).split()[-1])
            [found] = (await client.list_checkpoints(name)).checkpoints
            assert (found.name, found.exit, found.tcp, list(found.empty_ns)) == (
                "first",
                False,
                True,
                ["network"],
            )
            [last] = (await client.list_checkpoints(name, tmp_path / "elsewhere")).checkpoints
            assert (last.name, last.exit) == ("last", True)
            with pytest.raises(NotFound, match="no checkpoint 'none'"):
                await client.create(name, place.spec(name, count), checkpoint="none")
            await client.create(
                name,
                place.spec(name, count),
                attach_stdio=take,
                checkpoint="last",
                checkpoint_dir=tmp_path / "elsewhere",
            )
            goes_on = int((await taken[1].stdout.receive()).split()[0])
            assert goes_on == seen + 1
            await client.signal(name, "KILL")
            await place.book.until(name, "exit", 2)
            await client.delete_checkpoint(name, "first")
            assert list((await client.list_checkpoints(name)).checkpoints) == []
            with pytest.raises(NotFound):
                await client.delete_checkpoint(name, "first")
            for pipe in taken:
                await pipe.aclose()
        assert place.book.states(name) == ["start-container", "exit"] * 2
