"""``client.run()`` on every release line: the result, the limits, and that nothing remains whatever happens."""

from __future__ import annotations

import io
from pathlib import Path

import anyio
import pytest

from containerd_aio import (
    UNKNOWN_EXIT_STATUS,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    RunFailed,
    RunTimeout,
    TaskStart,
    Unknown,
    oci,
    stdio,
)
from containerd_aio.services.snapshots import Snapshotter
from containerd_aio.testing.registry import RegistryServer
from tests.integration.conftest import BUSYBOX


@pytest.fixture
async def nothing_of_it(client: Client):
    """After the test neither container nor snapshot of a run is there."""
    yield
    assert await client.containers() == []
    assert await Snapshotter(client.services).list("kind==active") == []


pytestmark = pytest.mark.usefixtures("nothing_of_it")


async def test_what_it_wrote_and_how_it_ended(client: Client) -> None:
    result = await client.run(BUSYBOX, ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"given\n")
    assert (result.code, result.stdout, result.stderr) == (3, b"given\n", b"err\n")
    assert not result.exit_status.unknown


async def test_one_megabyte_each_way(client: Client) -> None:
    data = bytes(range(256)) * 4096
    result = await client.run(BUSYBOX, ["cat"], stdin=data, timeout=60)
    assert result.stdout == data


async def test_its_surroundings(client: Client, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "note").write_text("from the host")
    script = "echo $A; echo ${HOME-unset}; id -u; id -g; pwd; cat /data/note; echo; cat /data/note > /data/copy || echo ro"
    result = await client.run(
        BUSYBOX,
        ["sh", "-c", script],
        env={"A": "b c"},
        user="12:34",
        cwd="/tmp",
        mounts=[
            {"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["rbind", "ro"]}
        ],
        spec_opts=[oci.with_hostname("own")],
        check=True,
    )
    assert result.stdout.decode().splitlines()[2:] == ["12", "34", "/tmp", "from the host", "ro"]
    assert result.stdout.startswith(b"b c\n")


async def test_limits_are_in_force(client: Client) -> None:
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max"
    cgroups = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
    result = await client.run(
        BUSYBOX,
        ["sh", "-c", script],
        memory_limit=64 << 20,
        cpus=0.5,
        pids_limit=50,
        mounts=[cgroups],
    )
    assert result.stdout.split() == [str(64 << 20).encode()]
    doubling = "a=x; while true; do a=$a$a; done"
    killed = await client.run(BUSYBOX, ["sh", "-c", doubling], memory_limit=20 << 20, timeout=60)
    assert (killed.code, killed.exit_status.oom_killed) == (137, True)


async def test_a_timeout_kills_and_keeps_the_output(client: Client) -> None:
    with pytest.raises(RunTimeout, match="not ended after 1 s") as raised:
        await client.run(BUSYBOX, ["sh", "-c", "echo begun; sleep 1000"], timeout=1)
    assert isinstance(raised.value, DeadlineExceeded)
    assert raised.value.result.stdout == b"begun\n"
    assert raised.value.result.code == 137


async def test_check_raises_with_the_result(client: Client) -> None:
    with pytest.raises(RunFailed, match="the command ended with 4: last words") as raised:
        await client.run(BUSYBOX, ["sh", "-c", "echo first >&2; echo last words >&2; exit 4"], check=True)
    assert raised.value.result.code == 4


@pytest.mark.shows("seed:containerd.NewIO", "seed:containerd.IO", "seed:containerd.IOCreation")
async def test_output_as_it_comes(client: Client) -> None:
    out, err = io.BytesIO(), io.BytesIO()
    io_ = stdio.streams(stdout=out, stderr=err)
    result = await client.run(BUSYBOX, ["sh", "-c", "echo one; echo two >&2"], io=io_)
    assert (result.stdout, result.stderr) == (b"", b"")
    assert (out.getvalue(), err.getvalue()) == (b"one\n", b"two\n")


@pytest.mark.shows("seed:containerd.NewIOWithTerminal", "seed:containerd.IO.Terminal")
async def test_a_terminal(client: Client) -> None:
    out = io.BytesIO()
    await client.run(BUSYBOX, ["tty"], io=stdio.streams(stdout=out, terminal=True))
    assert out.getvalue().startswith(b"/dev/")


async def test_cancelled_while_it_runs_it_leaves_nothing(client: Client) -> None:
    async with client.events('topic=="/tasks/start"') as events:
        async with anyio.create_task_group() as group:
            group.start_soon(client.run, BUSYBOX, ["sleep", "1000"])
            with anyio.fail_after(20):
                async for event in events:
                    if isinstance(event, TaskStart):
                        break
            group.cancel_scope.cancel()


async def test_ten_at_once(client: Client) -> None:
    codes: dict[int, int] = {}

    async def one(n: int) -> None:
        codes[n] = (await client.run(BUSYBOX, ["sh", "-c", f"exit {n}"])).code

    async with anyio.create_task_group() as group:
        for n in range(10):
            group.start_soon(one, n)
    assert codes == {n: n for n in range(10)}


async def test_what_is_wrong_is_said(client: Client) -> None:
    with pytest.raises(Unknown, match="executable file not found"):
        await client.run(BUSYBOX, ["no-such-program"])
    with pytest.raises(NotFound, match="nowhere"):
        await client.run("nowhere", ["true"])
    for wrong, text in (
        ({"network": "bridge"}, "'none', 'host', the path"),
        ({"cpus": 0}, "cpus is 0"),
        ({"timeout": -1}, "timeout is -1"),
        ({"stdin": b"", "io": stdio.null()}, "stdin or io, not both"),
        ({"args": "echo hello"}, "list of strings"),
        ({"id": "not valid"}, "container id"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            await client.run(BUSYBOX, **wrong)  # type: ignore[arg-type]


async def test_an_image_that_is_not_there_is_pulled_if_it_may_be(client: Client) -> None:
    async with RegistryServer() as registry:
        name = f"{registry.host}/tools:1"
        await client.push(name, await client.image(BUSYBOX))
        with pytest.raises(NotFound, match="run\\(pull='missing'\\)"):
            await client.run(name, ["true"])
        assert (await client.run(name, ["echo", "pulled"], pull="missing")).stdout == b"pulled\n"
    assert (await client.run(name, ["echo", "there"], pull="missing")).stdout == b"there\n"
    assert (await client.run("busybox", ["echo", "familiar"])).stdout == b"familiar\n"


@pytest.mark.shows("seed:containerd.Stdio", "seed:containerd.UnknownExitStatus")
async def test_our_own_outputs(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["sh", "-c", "echo out; echo err >&2; exit 255"]
    status = (await client.run(BUSYBOX, command, io=stdio.inherit())).exit_status
    assert capfd.readouterr() == ("out\n", "err\n")
    assert (status.code, status.unknown) == (UNKNOWN_EXIT_STATUS, False)  # the number alone says nothing
