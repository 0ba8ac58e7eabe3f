"""Docker's structs, capabilities, errors and registry: as Docker 1.4.1 has them."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import execdriver
from containerd_aio.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from containerd_aio.execdriver import (
    Command,
    Device,
    DriverAlreadyRegistered,
    DriverNotFound,
    Ipc,
    Mount,
    Network,
    NetworkInterface,
    NotRunning,
    Pipes,
    ProcessConfig,
    Registry,
    Resources,
    StdConsole,
    Terminal,
    TtyConsole,
    TtyTerminal,
    WaitTimeoutReached,
    drivers,
    new_pipes,
    new_std_console,
    tweak_capabilities,
)
from containerd_aio.execdriver.network import capabilities, cni_network
from containerd_aio.execdriver.state import ProcessState, StateFiles

FOLDER = Path(__file__).parent / "data" / "execdriver"
TWEAK = json.loads((FOLDER / "tweak.json").read_text())
COMMANDS = json.loads((FOLDER / "commands.json").read_text())

FULL = Command(
    id="i",
    rootfs="/r",
    init_path="/init",
    working_dir="/w",
    config_path="/c",
    network=Network(
        interface=NetworkInterface(
            gateway="10.0.0.1",
            ip_address="10.0.0.2",
            ip_prefix_len=24,
            mac_address="02:42:0a:00:00:02",
            bridge="docker0",
        ),
        mtu=1500,
        container_id="n",
        host_networking=True,
    ),
    ipc=Ipc(container_id="c", host_ipc=True),
    resources=Resources(memory=1, memory_swap=-1, cpu_shares=3, cpuset="0-1"),
    mounts=[
        Mount(source="/s", destination="/d", writable=True, private=True),
        Mount(source="/s2", destination="/d2", slave=True),
    ],
    allowed_devices=[Device(type="c", major=-1, minor=-1, permissions="m")],
    auto_created_devices=[
        Device(type="b", path="/dev/x", major=8, permissions="rwm", file_mode=0o666 | 0o60000, uid=1, gid=2)
    ],
    cap_add=["A"],
    cap_drop=["B"],
    container_pid=7,
    process_config=ProcessConfig(
        privileged=True, user="u", tty=True, entrypoint="/e", arguments=["a", "<b>"]
    ),
    process_label="pl",
    mount_label="ml",
    lxc_config=["x = y"],
    apparmor_profile="aa",
)
SOME = Command(
    id="", network=Network(), ipc=Ipc(), resources=Resources(), mounts=[Mount()], allowed_devices=[Device()]
)


# -- JSON -----------------------------------------------------------------------------------------------------


@pytest.mark.shows(
    "seed:execdriver.Command",
    "seed:execdriver.Ipc",
    "seed:execdriver.Mount",
    "seed:execdriver.Network",
    "seed:execdriver.NetworkInterface",
    "seed:execdriver.ProcessConfig",
    "seed:execdriver.Resources",
)
@pytest.mark.parametrize(("name", "command"), [("full", FULL), ("some", SOME), ("empty", Command(id=""))])
def test_the_json_is_dockers_both_ways(name: str, command: Command) -> None:
    assert list(command.to_json().items()) == list(COMMANDS[name].items())  # order included
    assert Command.from_json(COMMANDS[name]) == command
    assert Command.from_json(json.dumps(COMMANDS[name])) == command


def test_what_is_not_part_of_the_json() -> None:
    config = ProcessConfig(entrypoint="/e", env=["A=1"], console="/dev/pts/1", pid=7)
    assert config.to_json().keys() == {"privileged", "user", "tty", "entrypoint", "arguments"}
    assert ProcessConfig.from_json(config.to_json()) == ProcessConfig(entrypoint="/e")
    assert Command.from_json({"id": "x", "unknown": 1}) == Command(id="x")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "not a Command"),
        ([], "Command must be an object"),
        ({"id": 1}, r"Command\.id must be of type str, not 1"),
        ({"id": "x", "container_pid": True}, r"Command\.container_pid must be of type int, not True"),
        ({"id": "x", "mounts": {}}, r"Command\.mounts must be a list"),
        ({"id": "x", "mounts": ["/x"]}, r"Command\.mounts\[0\] must be an object"),
        (
            {"id": "x", "network": {"interface": {"ip": 1}}},
            r"Command\.network\.interface\.ip must be of type str",
        ),
        ({"id": "x", "cap_add": ["A", 1]}, r"Command\.cap_add\[1\] must be of type str"),
        ({"id": "x", "allowed_devices": [{"type": -5}]}, "is not a device"),
        ({"id": "x", "allowed_devices": ["c"]}, "a device must be an object"),
        ({"id": "x", "process_config": {"tty": "yes"}}, r"ProcessConfig\.tty must be of type bool"),
    ],
)
def test_json_that_is_no_command(value: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Command.from_json(value)


# -- capabilities ---------------------------------------------------------------------------------------------


@pytest.mark.shows("seed:execdriver.TweakCapabilities")
def test_capabilities_are_tweaked_as_docker_does() -> None:
    for basics, adds, drops, result in TWEAK["cases"]:
        given = TWEAK["basics"][basics], TWEAK["lists"][adds], TWEAK["lists"][drops]
        expected = TWEAK["results"][result]
        if "error" in expected:
            with pytest.raises(InvalidArgument) as caught:
                tweak_capabilities(*given)
            assert caught.value.message == expected["error"], given
        else:
            assert tweak_capabilities(*given) == expected["names"].split(), given
    assert len(TWEAK["cases"]) == 363


# -- errors and registry --------------------------------------------------------------------------------------


@pytest.mark.shows(
    "seed:execdriver.ErrNotRunning",
    "seed:execdriver.ErrWaitTimeoutReached",
    "seed:execdriver.ErrDriverAlreadyRegistered",
    "seed:execdriver.ErrDriverNotFound",
)
def test_the_errors_have_dockers_texts() -> None:
    texts: list[tuple[Any, type[Exception], str]] = [
        (NotRunning, FailedPrecondition, "Process could not be started"),
        (WaitTimeoutReached, DeadlineExceeded, "Wait timeout reached"),
        (DriverAlreadyRegistered, AlreadyExists, "A driver already registered this docker init function"),
        (DriverNotFound, NotFound, "The requested docker init has not been found"),
    ]
    for cls, base, text in texts:
        assert issubclass(cls, base)
        assert str(cls()) == text
        assert str(cls("why")) == f"{text}: why"
    assert NotRunning().exit_status == execdriver.ExitStatus(-1, oom_killed=False)


@pytest.mark.shows("seed:execdriver.ErrDriverAlreadyRegistered", "seed:execdriver.ErrDriverNotFound")
def test_a_driver_is_registered_once() -> None:
    made: list[tuple[Any, ...]] = []

    def factory(*args: Any, **options: Any) -> Any:
        made.append((args, options))
        return "driver"

    registry = Registry()
    with pytest.raises(DriverNotFound, match="'lxc'; there are none"):
        registry.new_driver("lxc")
    registry.register("lxc", factory)
    with pytest.raises(DriverAlreadyRegistered, match="lxc"):
        registry.register("lxc", factory)
    assert str(registry.new_driver("lxc", 1, a=2)) == "driver"
    assert made == [((1,), {"a": 2})]
    assert drivers.names() == ["containerd"]
    with pytest.raises(DriverNotFound, match="'native'; there are containerd"):
        drivers.new_driver("native")


# -- pipes and terminals --------------------------------------------------------------------------------------


@pytest.mark.shows("seed:execdriver.Pipes")
def test_pipes_have_a_stdin_only_when_it_is_used() -> None:
    out = io.BytesIO()
    assert new_pipes(b"in", out, out, True) == Pipes(b"in", out, out)
    assert new_pipes(b"in", out, out, False) == Pipes(None, out, out)


@pytest.mark.shows(
    "seed:execdriver.StdConsole",
    "seed:execdriver.NewStdConsole",
    "seed:execdriver.StdConsole.AttachPipes",
    "seed:execdriver.StdConsole.Close",
    "seed:execdriver.StdConsole.Resize",
    "seed:execdriver.Terminal",
)
async def test_a_console_without_a_terminal() -> None:
    config = ProcessConfig(entrypoint="sh")
    console = new_std_console(config, Pipes(b"in", io.BytesIO(), None))
    assert isinstance(console, Terminal)
    assert not isinstance(console, TtyTerminal)
    assert config.io is not None
    assert not config.io.terminal
    before = config.io
    console.attach_pipes(config, Pipes())
    assert config.io is not before
    await console.resize(24, 80)
    await console.close()
    with pytest.raises(InvalidArgument, match="stdout must be"):
        StdConsole(config, Pipes(stdout=io.StringIO()))  # type: ignore[arg-type]


@pytest.mark.shows("seed:execdriver.TtyTerminal", "seed:execdriver.Terminal")
async def test_a_terminal_before_it_is_there() -> None:
    config = ProcessConfig(entrypoint="sh", tty=True)
    console = TtyConsole(config, Pipes())
    assert isinstance(console, Terminal)
    assert isinstance(console, TtyTerminal)
    assert config.io is not None
    assert config.io.terminal
    await console.resize(24, 80)
    await console.close()
    with pytest.raises(FailedPrecondition, match="is not there yet"):
        console.master()
    with pytest.raises(FailedPrecondition, match="attached to pipes"):
        TtyConsole(config, Pipes(stdout=io.BytesIO())).master()


# -- what is kept of processes --------------------------------------------------------------------------------


async def test_a_process_is_told_from_another_of_its_pid() -> None:
    async with await anyio.open_process(["sleep", "1000"]) as child:
        process = ProcessState.of(child.pid)
        assert process is not None
        assert process.is_alive()
        later = ProcessState(process.pid, process.start_time + 1)
        assert not later.is_alive()
        signalled: list[str] = []

        async def thaw() -> None:
            await anyio.lowlevel.checkpoint()
            signalled.append("thaw")

        await later.destroy(5, signalled=thaw)  # has that pid by chance: is left alone
        assert child.returncode is None
        assert not signalled
        await process.destroy(5, signalled=thaw)
        assert await child.wait() == -signal.SIGKILL
        assert signalled == ["thaw"]
        await process.destroy(5, signalled=thaw)
        assert signalled == ["thaw"]
        assert ProcessState.of(child.pid) is None


@pytest.mark.shows("seed:execdriver.ErrWaitTimeoutReached")
async def test_a_wait_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    # A process in the depths of the kernel does not die of SIGKILL at once.
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    async with await anyio.open_process(["sleep", "1000"]) as child:
        process = ProcessState.of(child.pid)
        assert process is not None
        with pytest.raises(WaitTimeoutReached, match="Wait timeout reached: process"):
            await process.destroy(0.01, signalled=anyio.sleep_forever)
        child.kill()


def test_files_of_a_driver(tmp_path: Path) -> None:
    files = StateFiles(tmp_path / "driver")
    assert files.process("a") is None
    assert not files.knows("a")
    assert files.command("a") is None
    files.write("a", {"id": "a"})
    assert files.knows("a")
    assert files.command("a") == {"id": "a"}
    own = ProcessState.of(os.getpid())
    assert own is not None
    files.write_process("a", own)
    assert files.process("a") == own
    (tmp_path / "driver/a/state.json").write_text("[]")
    assert files.process("a") is None
    files.remove("a")
    files.remove("a")
    assert not files.knows("a")
    assert (tmp_path / "driver/a").is_dir()
    files.clean("a")
    files.clean("a")
    assert not (tmp_path / "driver/a").exists()
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(InvalidArgument, match="is not the id of a container"):
            files.clean(name)


# -- networks -------------------------------------------------------------------------------------------------


def test_a_bridged_interface_is_a_cni_network() -> None:
    interface = NetworkInterface(
        ip_address="10.0.0.2",
        ip_prefix_len=24,
        gateway="10.0.0.1",
        bridge="b0",
        mac_address="02:42:0a:00:00:02",
    )
    network = cni_network(Network(interface=interface, mtu=1400))
    assert network is not None
    assert network.plugins == [
        {
            "type": "bridge",
            "bridge": "b0",
            "isGateway": True,
            "capabilities": {"mac": True},
            "mtu": 1400,
            "ipam": {
                "type": "static",
                "addresses": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1"}],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ]
    assert capabilities(interface) == {"mac": "02:42:0a:00:00:02"}
    plain = cni_network(Network(interface=NetworkInterface(ip_address="fd00::2", ip_prefix_len=64)))
    assert plain is not None
    assert plain.plugins[0]["bridge"] == "docker0"
    assert plain.plugins[0]["ipam"] == {"type": "static", "addresses": [{"address": "fd00::2/64"}]}
    assert cni_network(Network()) is None
    assert cni_network(Network(interface=interface, host_networking=True)) is None
    assert cni_network(Network(interface=interface, container_id="x")) is None


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        (
            NetworkInterface(ip_address="10.0.0", ip_prefix_len=24),
            "the ip of the network interface is '10.0.0'",
        ),
        (NetworkInterface(ip_address="10.0.0.2"), "ip_prefix_len is 0; it must be from 1 to 32"),
        (
            NetworkInterface(ip_address="10.0.0.2", ip_prefix_len=8, gateway="x"),
            "the gateway of the network interface is 'x'",
        ),
    ],
)
def test_an_interface_that_cannot_be(interface: NetworkInterface, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        cni_network(Network(interface=interface))
