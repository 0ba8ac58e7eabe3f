"""Docker's execdriver on real containerds."""

from __future__ import annotations

import io
import json
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import (
    AlreadyExists,
    Client,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from containerd_aio.execdriver import (
    Command,
    ContainerdDriver,
    Device,
    ExitStatus,
    Ipc,
    Mount,
    Network,
    NetworkInterface,
    NotRunning,
    Pipes,
    ProcessConfig,
    Resources,
    Terminal,
    TtyTerminal,
    drivers,
)

APPLETS = [
    "sh",
    "echo",
    "cat",
    "sleep",
    "id",
    "ls",
    "hostname",
    "stty",
    "ip",
    "grep",
    "mknod",
    "true",
    "mount",
    "dd",
    "env",
    "pwd",
    "kill",
    "ping",
    "tr",
]
READY = 'trap "exit 7" TERM; echo ready; while :; do /bin/sleep 0.05; done'


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory that can be a root filesystem."""
    path = tmp_path_factory.mktemp("execdriver")
    path.chmod(0o755)  # others than root come in, too
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (path / name).mkdir()
    (path / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (path / "bin/busybox").chmod(0o755)
    for name in APPLETS:
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:::\napp:x:1000:1001:::\n")
    (path / "etc/group").write_text("root:x:0:root\nwheel:x:10:app\napp:x:1001:\n")
    return str(path)


@pytest.fixture
async def client(daemon: Any, namespace: str) -> AsyncIterator[Client]:
    async with Client(daemon.address, namespace=namespace) as opened:
        yield opened


@pytest.fixture
def driver(client: Client, tmp_path: Path) -> ContainerdDriver:
    made = drivers.new_driver(
        "containerd", client, root=tmp_path / "driver", cni={"cache_dir": tmp_path / "cni"}
    )
    assert isinstance(made, ContainerdDriver)
    return made


@pytest.fixture
def command(root: str) -> Callable[..., Command]:
    """Make a command that runs a script."""

    def make(script: str, **changes: Any) -> Command:
        process = {"env": ["PATH=/bin"], **changes.pop("process", {})}
        config = ProcessConfig(entrypoint="/bin/sh", arguments=["-c", script], **process)
        name = changes.pop("id", f"c{secrets.token_hex(4)}")
        return Command(id=name, rootfs=changes.pop("rootfs", root), process_config=config, **changes)

    return make


class Running:
    """A command that runs in the background of a task group, from its start on."""

    def __init__(self, driver: ContainerdDriver, wanted: Command, pipes: Pipes | None = None) -> None:
        self.driver, self.command = driver, wanted
        self.output = io.BytesIO()
        self.pipes = pipes or Pipes(stdout=self.output)
        self.called: list[tuple[ProcessConfig, int]] = []
        self.status: ExitStatus | None = None

    async def run(self, *, task_status: Any) -> None:
        def callback(config: ProcessConfig, pid: int) -> None:
            self.called.append((config, pid))
            task_status.started(self)

        self.status = await self.driver.run(self.command, self.pipes, callback)


async def nothing_is_left(client: Client, driver: ContainerdDriver, wanted: Command) -> None:
    assert await client.containers() == []
    assert not driver.info(wanted.id).is_running()
    with pytest.raises(NotFound, match=f"active container for {wanted.id} does not exist"):
        await driver.get_pids_for_container(wanted.id)
    with pytest.raises(NotFound, match=f"No active container exists with ID {wanted.id}"):
        await driver.exec(wanted, ProcessConfig(entrypoint="true"), Pipes())


@pytest.mark.shows(
    "seed:execdriver.Driver.Run",
    "seed:execdriver.Driver.Name",
    "seed:execdriver.Driver.Clean",
    "seed:execdriver.Pipes",
    "seed:execdriver.ExitStatus",
    "seed:execdriver.StartCallback",
    "seed:execdriver.Command",
    "seed:execdriver.Mount",
    "seed:execdriver.Resources",
)
async def test_a_run_from_start_to_end(
    client: Client, driver: ContainerdDriver, command: Callable[..., Command], tmp_path: Path
) -> None:
    script = (
        "cat; echo $A $(hostname) $(pwd) $(id -u):$(id -g):$(id -G); echo oops >&2; cat /data/file;"
        "echo x 2>/dev/null >/data/new || echo read-only; dd if=/dev/zero of=/dev/null count=1 2>/dev/null; exit 3"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("mounted\n")
    wanted = command(
        script,
        working_dir="/tmp",
        process={"env": ["PATH=/bin", "A=b", "HOSTNAME=box"], "user": "app"},
        mounts=[Mount(source=str(tmp_path / "data"), destination="/data", private=True)],
        resources=Resources(memory=64 << 20, cpu_shares=512, cpuset="0"),
        allowed_devices=[Device(type="c", major=1, minor=3), Device(type="c", major=1, minor=5)],
    )
    out, err = io.BytesIO(), io.BytesIO()
    called: list[tuple[ProcessConfig, int, bool]] = []

    async def callback(config: ProcessConfig, pid: int) -> None:
        await anyio.lowlevel.checkpoint()
        called.append((config, pid, driver.info(wanted.id).is_running()))

    status = await driver.run(wanted, Pipes(b"typed\n", out, err), callback)
    assert status == ExitStatus(3, oom_killed=False)
    assert (err.getvalue(), out.getvalue().decode()) == (
        b"oops\n",
        "typed\nb box /tmp 1000:1001:1001 10\nmounted\nread-only\n",
    )
    [(config, pid, running)] = called
    assert config is wanted.process_config
    assert pid == wanted.container_pid == config.pid > 1
    assert running
    assert isinstance(config.terminal, Terminal)
    assert driver.name().startswith("containerd-")
    assert not (tmp_path / "driver" / wanted.id / "container.json").exists()
    await nothing_is_left(client, driver, wanted)
    await driver.clean(wanted.id)
    assert not (tmp_path / "driver" / wanted.id).exists()


@pytest.mark.shows(
    "seed:execdriver.Driver",
    "seed:execdriver.Driver.Exec",
    "seed:execdriver.Driver.Kill",
    "seed:execdriver.Driver.Pause",
    "seed:execdriver.Driver.Unpause",
    "seed:execdriver.Driver.Info",
    "seed:execdriver.Driver.GetPidsForContainer",
    "seed:execdriver.Info",
    "seed:execdriver.Info.IsRunning",
)
async def test_verbs_on_a_running_container(
    client: Client, driver: ContainerdDriver, command: Callable[..., Command]
) -> None:
    wanted = command(READY, process={"env": ["PATH=/bin", "A=own"]})
    async with anyio.create_task_group() as tg:
        running: Running = await tg.start(Running(driver, wanted).run)
        assert driver.info(wanted.id).is_running()
        assert wanted.container_pid in await driver.get_pids_for_container(wanted.id)
        called: list[tuple[ProcessConfig, int]] = []
        out = io.BytesIO()
        config = ProcessConfig(
            entrypoint="/bin/sh", arguments=["-c", "cat; echo $A $(id -u) $(id -G); exit 4"], user="app"
        )
        code = await driver.exec(
            wanted, config, Pipes(b"in ", out), lambda config, pid: called.append((config, pid))
        )
        assert code == 4
        assert out.getvalue() == b"in own 1000 1001 10\n"
        assert called == [(config, config.pid)]  # the exec's own, where Docker 1.4 gave the container's
        assert config.pid not in {0, wanted.container_pid}
        with pytest.raises(NotRunning, match="Process could not be started"):
            await driver.exec(wanted, ProcessConfig(entrypoint="/nope"), Pipes(), lambda *_: called.clear())
        assert called
        with pytest.raises(AlreadyExists, match="runs already"):
            await driver.run(wanted, Pipes())
        with pytest.raises(FailedPrecondition, match="runs; terminate it first"):
            await driver.clean(wanted.id)
        await driver.pause(wanted)
        with pytest.raises(ContainerdError):
            await driver.pause(wanted)
        await driver.unpause(wanted)
        await driver.kill(wanted, signal.SIGTERM)
    assert running.status == ExitStatus(7)
    assert running.output.getvalue() == b"ready\n"
    assert len(running.called) == 1
    await nothing_is_left(client, driver, wanted)
    with pytest.raises(NotFound):
        await driver.kill(wanted, signal.SIGTERM)


@pytest.mark.shows("seed:execdriver.ErrNotRunning")
async def test_what_cannot_be_started_leaves_nothing(
    client: Client, driver: ContainerdDriver, command: Callable[..., Command]
) -> None:
    wanted = command("true")
    wanted.process_config.entrypoint = "/nope"
    called: list[int] = []
    with pytest.raises(NotRunning, match=r"Process could not be started: .*nope") as caught:
        await driver.run(wanted, Pipes(), lambda _, pid: called.append(pid))
    assert caught.value.exit_status == ExitStatus(-1)
    assert not called
    await nothing_is_left(client, driver, wanted)
    with pytest.raises(NotFound, match="no user 'stranger'"):
        await driver.run(command("true", process={"user": "stranger"}), Pipes())
    with pytest.raises(InvalidArgument, match="rootfs"):
        await driver.run(command("true", rootfs="nowhere"), Pipes())
    with pytest.raises(FailedPrecondition, match="nobody is not a valid running container to join"):
        await driver.run(command("true", network=Network(container_id="nobody")), Pipes())
    assert await client.containers() == []


async def test_a_callback_that_raises_and_a_cancellation_kill_the_container(
    client: Client, driver: ContainerdDriver, command: Callable[..., Command]
) -> None:
    def refuse(_: ProcessConfig, pid: int) -> None:
        raise OSError(f"{pid} is not wanted")

    wanted = command(READY)
    with pytest.raises(OSError, match="is not wanted"):
        await driver.run(wanted, Pipes(), refuse)
    await nothing_is_left(client, driver, wanted)
    async with anyio.create_task_group() as tg:
        await tg.start(Running(driver, wanted).run)
        tg.cancel_scope.cancel()
    await nothing_is_left(client, driver, wanted)
    async with anyio.create_task_group() as tg:
        await tg.start(Running(driver, wanted).run)

        async def execed(*, task_status: Any) -> None:
            config = ProcessConfig(entrypoint="sleep", arguments=["1000"])
            await driver.exec(wanted, config, Pipes(), lambda *_: task_status.started(config))

        async with anyio.create_task_group() as inner:
            config: ProcessConfig = await inner.start(execed)
            inner.cancel_scope.cancel()
        assert not Path(f"/proc/{config.pid}").exists()
        await driver.kill(wanted, signal.SIGKILL)
    await nothing_is_left(client, driver, wanted)


@pytest.mark.shows("seed:execdriver.ExitStatus.OOMKilled")
async def test_an_oom_kill_is_told(driver: ContainerdDriver, command: Callable[..., Command]) -> None:
    wanted = command(
        "a=x; while :; do a=$a$a; done", resources=Resources(memory=20 << 20, memory_swap=20 << 20)
    )
    status = await driver.run(wanted, Pipes())
    assert status.oom_killed
    assert status.exit_code == 137


@pytest.mark.shows("seed:execdriver.Driver.Terminate")
async def test_terminate_kills_what_is_frozen_and_only_that(
    client: Client, driver: ContainerdDriver, command: Callable[..., Command], tmp_path: Path
) -> None:
    wanted = command(READY)
    await driver.terminate(wanted)  # of one that is not there nothing happens
    async with anyio.create_task_group() as tg:
        running: Running = await tg.start(Running(driver, wanted).run)
        await driver.pause(wanted)
        await driver.terminate(wanted)
        assert await client.containers() == []
    assert running.status == ExitStatus(137)
    await nothing_is_left(client, driver, wanted)
    # A pid that is another process's by now is not touched.
    async with await anyio.open_process(["sleep", "1000"]) as stranger:
        folder = tmp_path / "driver" / wanted.id
        (folder / "state.json").write_text(f'{{"pid": {stranger.pid}, "start_time": 1}}')
        await driver.terminate(wanted)
        assert stranger.returncode is None
        assert not (folder / "state.json").exists()
        stranger.kill()


ORPHAN = """
import asyncio, sys
from containerd_aio import Client
from containerd_aio.execdriver import Command, ContainerdDriver, Pipes

async def main():
    async with Client(sys.argv[1], namespace=sys.argv[2]) as client:
        driver = ContainerdDriver(client, root=sys.argv[3] + "/driver", cni={"cache_dir": sys.argv[3] + "/cni"})
        await driver.run(Command.from_json(sys.stdin.read()), Pipes(), lambda config, pid: print(pid, flush=True))

asyncio.run(main())
"""


@pytest.mark.shows("seed:execdriver.Driver.Terminate", "seed:execdriver.Info.IsRunning")
async def test_a_later_driver_ends_what_a_killed_one_began(
    client: Client, driver: ContainerdDriver, command: Callable[..., Command], namespace: str, tmp_path: Path
) -> None:
    interface = NetworkInterface(
        bridge=f"ca{secrets.token_hex(4)}",
        ip_address=f"10.215.{secrets.randbelow(250) + 1}.2",
        ip_prefix_len=24,
    )
    wanted = command(READY, network=Network(interface=interface))
    try:
        argv = [sys.executable, "-c", ORPHAN, client.address, namespace, str(tmp_path)]
        async with await anyio.open_process(argv, stderr=None) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send(json.dumps(wanted.to_json()).encode())
            await process.stdin.aclose()
            pid = int(await process.stdout.receive())
            process.kill()
            await process.wait()
        assert driver.info(wanted.id).is_running()
        assert pid in await driver.get_pids_for_container(wanted.id)
        with pytest.raises(AlreadyExists, match="runs since an earlier driver; terminate it first"):
            await driver.run(wanted, Pipes())
        assert await driver.exec(wanted, ProcessConfig(entrypoint="/bin/true"), Pipes()) == 0
        assert len(list((tmp_path / "cni/results").iterdir())) == 1
        await driver.terminate(wanted)
        assert list((tmp_path / "cni/results").iterdir()) == []
        assert not Path(f"/proc/{pid}").exists()
        await nothing_is_left(client, driver, wanted)
    finally:
        await anyio.run_process(["ip", "link", "delete", interface.bridge], check=False)


@pytest.mark.shows("seed:execdriver.TtyTerminal", "seed:execdriver.Terminal")
async def test_a_terminal_by_pipes_and_by_its_master(
    driver: ContainerdDriver, command: Callable[..., Command]
) -> None:
    out = io.BytesIO()
    wanted = command("stty size; exit 2", process={"tty": True})
    assert (await driver.run(wanted, Pipes(stdout=out))).exit_code == 2
    assert out.getvalue().endswith(b"\r\n")

    wanted = command("read -r line; stty size; echo [$line]", process={"tty": True})
    said = bytearray()

    async def type_in(config: ProcessConfig, _: int) -> None:
        assert isinstance(config.terminal, TtyTerminal)
        assert isinstance(config.terminal, Terminal)
        master = config.terminal.master()
        await config.terminal.resize(30, 100)  # the height comes first
        await master.send(b"hello\n")
        while b"[hello]" not in said:
            said.extend(await master.receive())

    with anyio.fail_after(30):
        assert (await driver.run(wanted, Pipes(), type_in)).exit_code == 0
    assert b"30 100\r\n[hello]" in said


async def _links(driver: ContainerdDriver, wanted: Command) -> dict[str, str]:
    out = io.BytesIO()
    assert (await driver.run(wanted, Pipes(stdout=out))).exit_code == 0
    lines = out.getvalue().decode().splitlines()
    return {line.split()[1].partition("@")[0].rstrip(":"): line for line in lines}


@pytest.mark.shows(
    "seed:execdriver.Network",
    "seed:execdriver.Network.HostNetworking",
    "seed:execdriver.Network.ContainerID",
    "seed:execdriver.NetworkInterface",
    "seed:execdriver.Ipc",
)
async def test_networks_host_joined_loopback_and_bridged(
    client: Client, driver: ContainerdDriver, command: Callable[..., Command], tmp_path: Path
) -> None:
    show = "ip -o link"
    loopback = await _links(driver, command(show))
    assert list(loopback) == ["lo"]
    assert "UP" in loopback["lo"]
    host = await _links(driver, command(show, network=Network(host_networking=True)))
    assert set(host) == {name for _, name in socket.if_nameindex()}

    bridge, third = f"ca{secrets.token_hex(4)}", secrets.randbelow(250) + 1
    interface = NetworkInterface(
        bridge=bridge,
        ip_address=f"10.214.{third}.2",
        ip_prefix_len=24,
        gateway=f"10.214.{third}.1",
        mac_address="02:42:0a:d6:00:02",
    )
    try:
        wanted = command(READY, network=Network(interface=interface, mtu=1400))
        async with anyio.create_task_group() as tg:
            await tg.start(Running(driver, wanted).run)
            joined = Network(container_id=wanted.id)
            inside = "ip -o link; ip -o -4 addr show eth0 >&2; ping -c 1 -w 5 " + interface.gateway + " >&2"
            other = command(inside, network=joined, ipc=Ipc(container_id=wanted.id))
            err, out = io.BytesIO(), io.BytesIO()
            assert (await driver.run(other, Pipes(stdout=out, stderr=err))).exit_code == 0, err.getvalue()
            links = out.getvalue().decode()
            assert "eth0" in links
            assert "mtu 1400" in links
            assert interface.mac_address in links
            assert f"{interface.ip_address}/24".encode() in err.getvalue()
            await driver.kill(wanted, signal.SIGKILL)
        await nothing_is_left(client, driver, wanted)
        assert list((tmp_path / "cni").rglob("*-eth0")) == []
    finally:
        await anyio.run_process(["ip", "link", "delete", bridge], check=False)


@pytest.mark.shows("seed:execdriver.ProcessConfig.Privileged")
async def test_privileged_capabilities_and_ipc(
    driver: ContainerdDriver, command: Callable[..., Command]
) -> None:
    async def said(wanted: Command) -> str:
        out = io.BytesIO()
        await driver.run(wanted, Pipes(stdout=out))
        return out.getvalue().decode()

    mounts = "mount -t tmpfs none /tmp 2>/dev/null && echo mounted || echo refused; ls /dev/fuse /dev/null 2>/dev/null"
    assert (await said(command(mounts))).split() == ["refused", "/dev/null"]
    assert "mounted" in await said(command(mounts, process={"privileged": True}))
    assert "mounted" in await said(command(mounts, cap_add=["sys_admin"], cap_drop=["ALL"]))
    node = Device(type="c", path="/dev/own", major=1, minor=5, permissions="r", file_mode=0o600)
    made = command("dd if=/dev/own bs=2 count=1 2>/dev/null | tr '\\0' x", auto_created_devices=[node])
    made.allowed_devices = [node]
    assert await said(made) == "xx"
    inode = "ls -li /proc/self/ns/ipc | grep -o 'ipc:.*'"
    own = await said(command(inode))
    shared = await said(command(inode, ipc=Ipc(host_ipc=True)))
    assert shared.strip() == str(Path("/proc/self/ns/ipc").readlink())
    assert own.strip() not in {"", shared.strip()}
