"""Tasks and their processes on three releases: every method, and what the kernel and runc say about it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import (
    AlreadyExists,
    Cgroup1Metrics,
    Cgroup2Metrics,
    Client,
    Container,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Task,
    TaskExit,
    Unknown,
    oci,
    stdio,
)

IMAGE = "docker.io/library/busybox:latest"


@asynccontextmanager
async def running(
    client: Client, name: str, *args: str, io: stdio.IOCreator | None = None, **options: Any
) -> AsyncIterator[tuple[Container, Task]]:
    """Run a container; by default it sleeps."""
    command = args or ("sleep", "1000")
    async with await client.new_container(name, image=IMAGE, args=command, **options) as container:
        async with await container.new_task(io=io) as task:
            await task.start()
            yield container, task


def cgroup_file(pid: int | None, controller: str, *names: str) -> str:
    """Return what the cgroup of a process says, in the first of `names` that it has."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in names:
            for root in (f"/sys/fs/cgroup/{controller}", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                file = Path(f"{root}{path}", name)
                if (
                    controller in controllers.split(",") + ([controller] if not controllers else [])
                    and file.exists()
                ):
                    return file.read_text().strip()
    raise AssertionError(f"no {names} for {pid}")


@pytest.mark.shows(
    "go:TestContainerStart",
    "go:TestContainerOutput",
    "go:TestContainerHostname",
    "go:TestContainerExitedAtSet",
    "go:TestShortRunningTaskPid",
    "go:TestWaitStoppedTask",
    "go:TestTaskSpec",
    "seed:containerd.Container.NewTask",
    "seed:containerd.Task",
    "seed:containerd.Task.Start",
    "seed:containerd.Task.Wait",
    "seed:containerd.Task.Pid",
    "seed:containerd.Task.Delete",
    "seed:containerd.Task.Status",
    "seed:containerd.Status",
)
async def test_a_task_from_create_to_delete(client: Client) -> None:
    container = await client.new_container(
        "life", image=IMAGE, args=["sh", "-c", "hostname; exit 7"], spec_opts=[oci.with_hostname("myhost")]
    )
    async with container:
        task = await container.new_task(io=stdio.capture())
        assert await task.status() == "created"
        assert task.pid is not None
        assert await task.spec() == await container.spec()
        await task.start()
        assert task.pid > 1
        status = await task.wait(timeout=20)
        assert (status.code, status.pid) == (7, task.pid)
        assert status.exited_at is not None
        assert await task.wait() == status  # once it has ended, at once
        again = await container.task()
        assert (again.pid, await again.wait()) == (task.pid, status)
        assert await again.spec() == await container.spec()
        assert await task.status() == "stopped"
        assert await task.delete() == status
        assert task.captured is not None
        assert task.captured.stdout == b"myhost\n"
        for gone in (task.status, task.pids, task.processes, task.metrics, task.checkpoint):
            with pytest.raises(NotFound):
                await gone()
        with pytest.raises(NotFound):
            await container.task()


@pytest.mark.shows(
    "go:TestContainerPids",
    "go:TestContainerExec",
    "go:TestContainerLargeExecArgs",
    "go:TestWaitStoppedProcess",
    "go:TestDeleteContainerExecCreated",
    "go:TestContainerExecNoBinaryExists",
    "go:TestRegressionIssue6429",
    "go:TestProcessForceDelete",
    "go:TestContainerLoadUnexistingProcess",
    "seed:containerd.Task.Exec",
    "seed:containerd.Task.Pids",
    "seed:containerd.Process",
    "seed:containerd.Process.Pid",
    "seed:containerd.Process.Start",
    "seed:containerd.Process.Delete",
    "seed:containerd.Process.Kill",
    "seed:containerd.Process.Wait",
    "seed:containerd.Process.Status",
)
async def test_execs(client: Client) -> None:
    async with client.events('topic=="/tasks/exit"') as events, running(client, "execs") as (_, task):
        created = await task.exec("created", ["true"])
        assert (await created.status(), created.pid) == ("created", None)
        with pytest.raises(AlreadyExists):
            await task.exec("created", ["true"])
        with pytest.raises(FailedPrecondition):
            await created.kill("KILL")
        await created.delete()  # one that never ran

        large = "x" * 20_000
        async with await task.exec("large", ["sh", "-c", "exit ${#0}", large[:-1] + "x"]) as process:
            await process.start()
            assert (await process.wait(timeout=20)).code == 20_000 % 256
            assert (await process.wait()).pid == process.pid

        sleeper = await task.exec("sleeper", ["sleep", "1000"])
        await sleeper.start()
        found = {info.exec_id: info.pid for info in await task.processes()}
        assert found == {None: task.pid, "sleeper": sleeper.pid}
        assert sorted(await task.pids()) == sorted(found.values())
        with pytest.raises(FailedPrecondition, match="kill it first"):
            await sleeper.delete()
        assert (await sleeper.delete(kill=True)).code == 137
        with pytest.raises(NotFound):
            await task.load_process("sleeper")

        missing = await task.exec("missing", ["/no/such/binary"])
        with pytest.raises(Unknown, match="no such file"):
            await missing.start()
        with pytest.raises(InvalidArgument, match="command is empty"):
            await task.exec("empty", [])
        assert await task.status() == "running"
        await client.barrier()
        exits = [await anext(events) for _ in range(events.pending)]
        assert [(e.id, e.exit_status) for e in exits if isinstance(e, TaskExit)] == [
            ("large", 20_000 % 256),
            ("sleeper", 137),
        ]


@pytest.mark.shows(
    "go:TestContainerAttachProcess", "seed:containerd.Container.Task", "seed:containerd.IOAttach"
)
async def test_an_exec_that_somebody_else_made(client: Client) -> None:
    async with running(client, "loaded") as (_, task):
        theirs = await task.exec("theirs", ["sh", "-c", "cat; exit 3"], io=stdio.pipes(stdin=True))
        async with Client(client.address, namespace=client.namespace) as other:
            same_task = await (await other.container("loaded")).task()
            loaded = await same_task.load_process("theirs")
            assert (loaded.id, loaded.pid, await loaded.status()) == ("theirs", None, "created")
            await loaded.start()
            running_now = await same_task.load_process("theirs")
            assert running_now.pid == loaded.pid != task.pid
            assert await theirs.status() == "running"
            await theirs.aclose()  # FIFOs have one reader
            attached = await same_task.load_process("theirs", io=stdio.pipes(stdin=True))
            assert attached.stdin is not None
            assert attached.stdout is not None
            await attached.stdin.send(b"hello")
            assert await attached.stdout.receive() == b"hello"
            await attached.stdin.aclose()
            assert (await attached.wait(timeout=20)).code == 3
            assert (await loaded.wait()).code == (await running_now.wait()).code == 3
            late = await same_task.load_process("theirs")
            assert (await late.wait(timeout=5)).code == 3
            await attached.delete()
            # Another exec under the same id is another process.
            async with await task.exec("theirs", ["sh", "-c", "exit 4"]) as second:
                found = await same_task.load_process("theirs")
                await second.start()
                assert (await found.wait(timeout=20)).code == 4


@pytest.mark.shows("go:TestContainerAttach")
async def test_a_task_that_somebody_else_left(client: Client) -> None:
    container = await client.new_container("left", image=IMAGE, args=["cat"])
    async with container:
        async with Client(client.address, namespace=client.namespace) as first:
            task = await (await first.container("left")).new_task(io=stdio.pipes(stdin=True))
            await task.start()
            assert task.stdin is not None
            assert task.stdout is not None
            await task.stdin.send(b"one")
            assert await task.stdout.receive() == b"one"
            await task.aclose()
        again = await container.task(io=stdio.pipes(stdin=True))
        async with again:
            assert again.stdin is not None
            assert again.stdout is not None
            await again.stdin.send(b"two")
            assert await again.stdout.receive() == b"two"
            await again.stdin.aclose()
            assert (await again.wait(timeout=20)).code == 0


@pytest.mark.shows(
    "go:TestContainerCloseIO",
    "go:TestContainerNoSTDIN",
    "go:TestContainerPTY",
    "go:TestTaskResize",
    "go:TestContainerExecLargeOutputWithTTY",
    "seed:containerd.Task.CloseIO",
    "seed:containerd.Task.Resize",
    "seed:containerd.Task.IO",
    "seed:containerd.Process.CloseIO",
    "seed:containerd.Process.Resize",
    "seed:containerd.Process.IO",
    "seed:containerd.WithStdinCloser",
    "seed:containerd.IOCloseInfo",
    "seed:containerd.IOCloserOpts",
)
async def test_standard_streams(client: Client) -> None:
    async with running(client, "cat", "cat", io=stdio.pipes(stdin=True)) as (_, task):
        assert task.stdin is not None
        await task.stdin.aclose()
        await task.close_io()  # again, and with a stdin that is closed: nothing happens
        assert (await task.wait(timeout=20)).code == 0
    async with running(client, "no-stdin", "sh", "-c", "cat; exit 5", io=stdio.pipes()) as (_, task):
        assert task.stdin is None
        await task.close_io()
        await task.resize(1, 1)  # without a terminal nothing happens
        assert (await task.wait(timeout=20)).code == 5
    terminal = stdio.pipes(terminal=True, stdin=True)
    async with running(client, "tty", "sh", io=terminal, spec_opts=[oci.with_tty()]) as (_, task):
        assert task.stdin is not None
        assert task.stdout is not None
        assert task.stderr is None
        await task.resize(123, 45)
        await task.stdin.send(b"stty size; exit 6\n")
        text = b"".join([chunk async for chunk in task.stdout])
        assert b"45 123\r\n" in text
        assert (await task.wait(timeout=20)).code == 6
    async with running(client, "large") as (_, task):
        for n in range(3):
            script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
            io = stdio.pipes(terminal=True)
            async with await task.exec(f"large-{n}", ["sh", "-c", script], io=io) as process:
                await process.start()
                assert process.stdout is not None
                text = b"".join([chunk async for chunk in process.stdout])
                assert text == b"".join(b"line %d\r\n" % i for i in range(20000))
                assert (await process.wait(timeout=20)).code == 0


@pytest.mark.shows(
    "go:TestContainerKill",
    "go:TestTaskForceDelete",
    "go:TestContainerKillInitKillsChildWhenNotHostPid",
    "go:TestRegressionIssue4769",
    "seed:containerd.Task.Kill",
)
async def test_kill(client: Client) -> None:
    script = "sleep 1000 & echo started; wait"
    async with client.events('topic=="/tasks/exit"') as events:
        async with running(client, "kill", "sh", "-c", script, io=stdio.pipes()) as (_, task):
            assert task.stdout is not None
            await task.stdout.receive()
            pids = await task.pids()
            assert len(pids) == 2
            with pytest.raises(FailedPrecondition, match="kill it first"):
                await task.delete()
            async with await task.exec("e", ["sleep", "1000"]) as process:
                await process.start()
                await task.kill("USR1", exec_id="e")
                assert (await process.wait(timeout=20)).code == 128 + 10
            with pytest.raises(NotFound):
                await task.kill(exec_id="e")
            with pytest.raises(InvalidArgument, match="contradict"):
                await task.kill(all=True, exec_id="e")
            with pytest.raises(InvalidArgument, match="no signal"):
                await task.kill("NOSUCH")
            await task.kill("KILL")
            assert (await task.wait(timeout=20)).code == 137
            assert not [pid for pid in pids if Path(f"/proc/{pid}/cwd").is_symlink() and _lives(pid)]
            with pytest.raises(NotFound):
                await task.kill("KILL")
        async with running(client, "forced") as (_, task):
            assert (await task.delete(kill=True)).code == 137
        await client.barrier()
        exits = [await anext(events) for _ in range(events.pending)]
    assert [(e.id, e.exit_status) for e in exits if isinstance(e, TaskExit)] == [
        ("e", 138),
        ("kill", 137),
        ("forced", 137),
    ]


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.shows("go:TestContainerKillAll", "go:TestContainerKillInitPidHost")
async def test_kill_in_the_pid_namespace_of_the_host(client: Client) -> None:
    host = {"spec_opts": [oci.with_host_namespace("pid")]}
    script = "sleep 1000 & echo started; wait"
    for kill_all in (True, False):
        async with running(
            client, f"host-{kill_all}".lower(), "sh", "-c", script, io=stdio.pipes(), **host
        ) as (_, task):
            assert task.stdout is not None
            await task.stdout.receive()
            assert len(await task.pids()) == 2
            await task.kill("KILL", all=kill_all)
            assert (await task.wait(timeout=20)).code == 137
            with anyio.fail_after(20):  # the shim kills what is left when init has ended
                async for _ in task.stdout:
                    pass
            await task.delete()


@pytest.mark.shows("go:TestKillContainerDeletedByRunc")
async def test_a_container_that_runc_was_told_to_delete(client: Client) -> None:
    async with running(client, "deleted") as (_, task):
        root = f"/run/containerd/runc/{client.namespace}"
        await anyio.run_process(["runc", "--root", root, "delete", "--force", "deleted"])
        assert (await task.wait(timeout=20)).code == 137
        with pytest.raises(NotFound):
            await task.kill("KILL")
        assert (await task.delete()).code == 137


@pytest.mark.shows(
    "go:TestContainerMetrics",
    "go:TestDeletedContainerMetrics",
    "go:TestTaskUpdate",
    "seed:containerd.Task.Update",
    "seed:containerd.Task.Pause",
    "seed:containerd.Task.Resume",
    "seed:containerd.WithResources",
    "seed:containerd.UpdateTaskInfo",
    "seed:containerd.UpdateTaskOpts",
)
async def test_metrics_and_limits(client: Client) -> None:
    limits = [oci.with_memory_limit(64 << 20), oci.with_pids_limit(50)]
    async with running(client, "limits", spec_opts=limits) as (container, task):
        metrics = await task.metrics()
        assert metrics.id == "limits"
        assert metrics.timestamp is not None
        assert isinstance(metrics.data, Cgroup1Metrics | Cgroup2Metrics)
        assert metrics.pids
        assert metrics.oom_kills == 0
        assert metrics.memory_usage
        assert metrics.cpu_usage
        assert metrics.data.pids is not None
        assert metrics.data.pids.limit == 50
        names = ("memory.limit_in_bytes", "memory.max")
        assert cgroup_file(task.pid, "memory", *names) == str(64 << 20)
        await task.update({"memory": {"limit": 32 << 20}, "pids": {"limit": 20}})
        assert cgroup_file(task.pid, "memory", *names) == str(32 << 20)
        await task.pause()
        await task.update({"memory": {"limit": 48 << 20}}, annotations={"a": "b"})
        assert cgroup_file(task.pid, "memory", *names) == str(48 << 20)
        await task.resume()
        await task.update(annotations={"a": "c"})
        metrics = await task.metrics()
        assert isinstance(metrics.data, Cgroup1Metrics | Cgroup2Metrics)
        assert metrics.data.pids is not None
        assert metrics.data.pids.limit == 20
        assert (await container.spec())["linux"]["resources"]["memory"] == {"limit": 64 << 20}
        with pytest.raises(InvalidArgument, match="give resources"):
            await task.update()
        with pytest.raises(InvalidArgument, match="give resources"):
            await task.update({}, windows={})
        much: Any = {"memory": {"limit": "much"}}
        with pytest.raises(InvalidArgument, match="limit"):
            await task.update(much)
        await task.kill("KILL")
        await task.wait(timeout=20)
        await task.delete()
        with pytest.raises(NotFound):
            await task.metrics()


@pytest.fixture
async def group(namespace: str) -> AsyncIterator[str]:
    """The name of a cgroup in all hierarchies of the machine."""
    root, name = Path("/sys/fs/cgroup"), f"{namespace}-shim"
    parents = (
        [root] if (root / "cgroup.procs").exists() else [p for p in root.iterdir() if not p.is_symlink()]
    )
    groups = [parent / name for parent in parents]
    for folder in groups:
        folder.mkdir()
        if folder.parent.name == "cpuset":  # of version 1, whose groups start without any
            for file in ("cpuset.cpus", "cpuset.mems"):
                (folder / file).write_text((root / "cpuset" / file).read_text())
    yield name
    with anyio.fail_after(20):
        for folder in groups:
            while (folder / "cgroup.procs").read_text():  # noqa: ASYNC110 - the kernel tells nobody
                await anyio.sleep(0.02)
            folder.rmdir()


@pytest.mark.shows(
    "go:TestNewTaskWithRuntimeOption",
    "go:TestShimInCgroup",
    "go:TestContainerRuntimeOptionsv2",
    "go:TestContainerNoBinaryExists",
    "seed:containerd.NewTaskOpts",
    "seed:containerd.TaskInfo",
)
async def test_runtime_options(client: Client, tmp_path: Path, group: str) -> None:
    own = oci.RuncOptions(root=str(tmp_path / "state"))
    async with await client.new_container(
        "options", image=IMAGE, args=["sleep", "1000"], runtime_options=own
    ) as container:
        assert (await container.info()).runtime_options == own
        # The task's are put over the container's: its state is where these say, the rest is as those say.
        wanted = oci.RuncOptions(shim_cgroup=f"/{group}", io_gid=4321)
        async with await container.new_task(io=stdio.pipes(), options=wanted) as task:
            await task.start()
            assert (tmp_path / "state" / client.namespace / "options" / "state.json").exists()
            assert Path(f"/proc/{task.pid}/fd/1").stat().st_gid == 4321
            shim = re.search(r"PPid:\s+([0-9]+)", Path(f"/proc/{task.pid}/status").read_text())
            assert shim is not None
            assert f"/{group}\n" in Path(f"/proc/{shim.group(1)}/cgroup").read_text()
        with pytest.raises(Unknown, match="no-such-runc"):
            await container.new_task(options=oci.RuncOptions(binary_name="no-such-runc"))
        with pytest.raises(InvalidArgument, match="must be absolute"):
            await container.new_task(runtime_path="shim")
    from containerd_aio.api.runtimeoptions.v1 import Options

    async with await client.new_container(
        "generic", image=IMAGE, args=["true"], runtime_options=Options(config_path="/x")
    ) as container:
        with pytest.raises(InvalidArgument, match="options of another kind"):
            await container.new_task(options=wanted)
    async with await client.new_container("nothing", image=IMAGE, args=["/no/such"]) as container:
        with pytest.raises(Unknown, match="no such file"):
            await container.new_task()
        with pytest.raises(NotFound):
            await container.task()


@pytest.mark.shows("go:TestContainerStartWithAbsRuntimePath")
async def test_a_shim_by_its_path(client: Client, containerd_binary: str) -> None:
    shim = str(Path(containerd_binary).parent / "containerd-shim-runc-v2")
    container = await client.new_container("by-path", image=IMAGE, args=["sleep", "1000"])
    async with container, await container.new_task(runtime_path=shim) as task:
        await task.start()
        parent = re.search(r"PPid:\s+([0-9]+)", Path(f"/proc/{task.pid}/status").read_text())
        assert parent is not None
        assert str(Path(f"/proc/{parent.group(1)}/exe").resolve()) == str(Path(shim).resolve())


@pytest.mark.shows("go:TestContainerHook")
async def test_a_hook_of_the_spec(client: Client, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ncat > {tmp_path}/told\n")
    hook.chmod(0o755)

    def with_hook(_: oci.SpecContext, spec: oci.Spec) -> None:
        spec["hooks"] = {"createRuntime": [{"path": str(hook)}]}

    async with running(client, "hook", "true", spec_opts=[with_hook]) as (_, task):
        assert (await task.wait(timeout=20)).code == 0
    assert '"id":"hook"' in (tmp_path / "told").read_text()


@pytest.mark.shows("go:TestShimSockLength", "seed:containerd.WithRootFS", "seed:containerd.WithRootFSPath")
async def test_the_longest_names(client: Client, rootfs: str) -> None:
    other = client.namespaced((client.namespace + "n" * 76)[:76])
    opts = [oci.with_rootfs_path(rootfs), oci.with_process_args("/bin/busybox", "sleep", "1000")]
    container = await other.new_container("c" * 76, spec_opts=opts)
    async with container, await container.new_task() as task:
        await task.start()
        async with await task.exec("e" * 76, ["/bin/busybox", "true"]) as process:
            await process.start()
            assert (await process.wait(timeout=20)).code == 0
        await task.kill("KILL")
        assert (await task.wait(timeout=20)).code == 137
    await client.namespaces.delete(other.namespace)
    for folder in (Path("/run/containerd/runc"), *Path("/sys/fs/cgroup").glob("*")):
        if (folder / other.namespace).is_dir():
            (folder / other.namespace).rmdir()


@pytest.mark.shows("go:TestBindLowPortNonRoot", "go:TestBindLowPortNonOpt")
async def test_low_ports_and_capabilities(client: Client) -> None:
    may = [
        oci.with_capabilities(["CAP_NET_BIND_SERVICE"]),
        oci.with_ambient_capabilities(["CAP_NET_BIND_SERVICE"]),
    ]
    listens = "nc -l -p 80 & until grep -qs ':0050 ' /proc/net/tcp*; do usleep 20000; done; exit 3"
    for name, opts, script, code in (("may", may, listens, 3), ("may-not", [], "nc -l -p 80", 1)):
        user = [oci.with_uid_gid(1000, 1000), *opts]
        async with running(client, name, "sh", "-c", script, spec_opts=user) as (_, task):
            assert (await task.wait(timeout=20)).code == code
