"""A command as an OCI spec: every row of the table."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.execdriver import (
    Command,
    Device,
    Ipc,
    Mount,
    Network,
    NetworkInterface,
    ProcessConfig,
    Resources,
)
from containerd_aio.execdriver.spec import Joined, check, current_capabilities, exec_process, spec_opts
from containerd_aio.oci import Spec, SpecContext, default_spec, generate_spec


@pytest.fixture
def rootfs(tmp_path: Path) -> str:
    etc = tmp_path / "etc"
    etc.mkdir()
    etc.joinpath("passwd").write_text("root:x:0:0:::\napp:x:1000:1001:::\n")
    etc.joinpath("group").write_text("root:x:0:root\nwheel:x:10:root,app\napp:x:1001:app\n")
    return str(tmp_path)


async def made(command: Command, joined: Joined | None = None, *, apparmor: bool = False) -> Any:
    @asynccontextmanager
    async def root() -> AsyncIterator[str]:
        yield command.rootfs

    context = SpecContext(namespace="moon", container_id=command.id, rootfs=root)
    return await generate_spec(context, *spec_opts(command, joined or Joined(), apparmor=apparmor))


def command(rootfs: str, **changes: Any) -> Command:
    process = {"entrypoint": "/bin/sh", **changes.pop("process", {})}
    return Command(id="x", rootfs=rootfs, process_config=ProcessConfig(**process), **changes)


async def test_a_plain_command(rootfs: str) -> None:
    env = ["PATH=/bin", "HOSTNAME=box", "A=b=c"]
    spec = await made(command(rootfs, process={"arguments": ["-c", "x"], "env": env}))
    assert spec["root"] == {"path": rootfs}
    assert spec["hostname"] == "box"
    process = spec["process"]
    assert process["args"] == ["/bin/sh", "-c", "x"]
    assert process["env"] == env
    assert process["cwd"] == "/"
    assert not process["terminal"]
    assert process["user"] == {"uid": 0, "gid": 0, "additionalGids": [0, 10]}
    assert "noNewPrivileges" not in process
    assert "rlimits" not in process
    default = default_spec("linux", namespace="moon", container_id="x")
    assert spec["linux"] == default["linux"]  # no network, no IPC, no resources: all its own, nothing limited
    assert spec["mounts"] == default["mounts"]
    assert process["capabilities"] == dict.fromkeys(
        ("bounding", "effective", "permitted"), default["process"]["capabilities"]["bounding"]
    )


@pytest.mark.shows("seed:execdriver.Context")
@pytest.mark.parametrize(
    ("changes", "section", "value"),
    [
        ({"working_dir": "/srv"}, "process.cwd", "/srv"),
        ({"process": {"tty": True}}, "process.terminal", True),
        (
            {"process": {"user": "app"}},
            "process.user",
            {"uid": 1000, "gid": 1001, "additionalGids": [1001, 10]},
        ),
        ({"process": {"user": "1000:5"}}, "process.user", {"uid": 1000, "gid": 5, "additionalGids": [5, 10]}),
        ({"process_label": "l"}, "process.selinuxLabel", "l"),
        ({"mount_label": "m"}, "linux.mountLabel", "m"),
        ({"apparmor_profile": "p"}, "process.apparmorProfile", "p"),
        (
            {"cap_add": ["net_admin"], "cap_drop": ["ALL"]},
            "process.capabilities.effective",
            ["CAP_NET_ADMIN"],
        ),
        ({"cap_drop": ["all"]}, "process.capabilities.bounding", []),
        (
            {"resources": Resources(memory=5, memory_swap=-1, cpu_shares=7, cpuset="0-1")},
            "linux.resources",
            {
                "devices": [{"allow": False, "access": "rwm"}],
                "memory": {"limit": 5, "reservation": 5, "swap": -1},
                "cpu": {"shares": 7, "cpus": "0-1"},
            },
        ),
        ({"resources": Resources()}, "linux.resources", {"devices": [{"allow": False, "access": "rwm"}]}),
        (
            {
                "allowed_devices": [
                    Device(type="c", major=-1, minor=-1, permissions="m"),
                    Device(type="c", major=1, minor=3, permissions="rw"),
                ]
            },
            "linux.resources.devices",
            [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "access": "m"},
                {"allow": True, "type": "c", "access": "rw", "major": 1, "minor": 3},
            ],
        ),
        (
            {
                "auto_created_devices": [
                    Device(type="c", path="/dev/n", major=1, minor=3, file_mode=0o20666, uid=4)
                ]
            },
            "linux.devices",
            [{"path": "/dev/n", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 4, "gid": 0}],
        ),
        (
            {"init_path": "/i", "config_path": "/c", "lxc_config": ["a = b"]},
            "annotations",
            {
                "org.containerd_aio.execdriver.init_path": "/i",
                "org.containerd_aio.execdriver.config_path": "/c",
                "org.containerd_aio.execdriver.lxc_config": json.dumps(["a = b"]),
            },
        ),
    ],
)
async def test_a_row_of_the_table(rootfs: str, changes: dict[str, Any], section: str, value: Any) -> None:
    found: Any = await made(command(rootfs, **changes))
    for part in section.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ({}, ["rbind", "ro"]),
        ({"writable": True}, ["rbind"]),
        ({"writable": True, "private": True}, ["rbind", "rprivate"]),
        ({"slave": True}, ["rbind", "ro", "rslave"]),
    ],
)
async def test_mounts_of_the_host(rootfs: str, flags: dict[str, bool], options: list[str]) -> None:
    spec = await made(command(rootfs, mounts=[Mount(source="/s", destination="/d", **flags)]))
    assert spec["mounts"][-1] == {"destination": "/d", "type": "bind", "source": "/s", "options": options}


@pytest.mark.parametrize(
    ("network", "ipc", "kinds"),
    [
        (None, None, {"network": "", "ipc": ""}),
        (Network(), Ipc(), {"network": "", "ipc": ""}),
        (Network(host_networking=True, container_id="o"), None, {"ipc": ""}),
        (None, Ipc(host_ipc=True, container_id="o"), {"network": ""}),
        (
            Network(container_id="o"),
            Ipc(container_id="o"),
            {"network": "/proc/7/ns/net", "ipc": "/proc/7/ns/ipc"},
        ),
    ],
)
async def test_namespaces(
    rootfs: str, network: Network | None, ipc: Ipc | None, kinds: dict[str, str]
) -> None:
    joined = Joined(
        network="/proc/7/ns/net" if network and network.container_id else "",
        ipc="/proc/7/ns/ipc" if ipc and ipc.container_id else "",
    )
    spec = await made(command(rootfs, network=network, ipc=ipc), joined)
    found = {each["type"]: each.get("path", "") for each in spec["linux"]["namespaces"]}
    assert {kind: path for kind, path in found.items() if kind in {"network", "ipc"}} == kinds


async def test_privileged_wins_over_capabilities_and_devices(rootfs: str) -> None:
    wanted = command(
        rootfs,
        process={"privileged": True},
        cap_add=["nonsense"],
        allowed_devices=[Device(type="?")],
    )
    spec = await made(wanted, apparmor=True)
    process, linux = spec["process"], spec["linux"]
    assert process["capabilities"]["effective"] == current_capabilities()
    assert "CAP_AUDIT_READ" not in current_capabilities()  # newer than Docker 1.4
    assert process["apparmorProfile"] == "unconfined"
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "/dev/null" in {device["path"] for device in linux["devices"]}
    assert linux["maskedPaths"] == linux["readonlyPaths"] == []
    assert "rw" in next(mount for mount in spec["mounts"] if mount["destination"] == "/sys")["options"]
    assert "apparmorProfile" not in (await made(wanted))["process"]
    explicit = replace(wanted, apparmor_profile="mine")
    assert (await made(explicit, apparmor=True))["process"]["apparmorProfile"] == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cap_add": ["nope"]}, 'Unknown capability to add: "nope"'),
        ({"cap_drop": ["nope"]}, 'Unknown capability drop: "nope"'),
        ({"working_dir": "srv"}, "cwd is 'srv'"),
        ({"allowed_devices": [Device(type="x")]}, "the type of an allowed device is 'x'"),
        ({"auto_created_devices": [Device(type="c", path="x")]}, "the path of a device is 'x'"),
        ({"mounts": [Mount(source="/x", destination="x")]}, "the destination of mounts"),
        ({"resources": Resources(memory=-1)}, "limit is -1"),
        ({"resources": Resources(cpuset="a")}, "cpus is 'a'"),
        ({"process": {"user": "a:b:c"}}, "user is 'a:b:c'"),
    ],
)
def test_refused_before_anything_is_made(rootfs: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        spec_opts(command(rootfs, **changes), Joined())


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Command(id="x"), "rootfs is ''; it must be an absolute directory"),
        (Command(id="x", rootfs="r"), "rootfs is 'r'"),
        (Command(id="x", rootfs="/r"), "no entrypoint"),
        (
            Command(
                id="x",
                rootfs="/r",
                process_config=ProcessConfig(entrypoint="sh"),
                network=Network(interface=NetworkInterface()),
            ),
            "the network interface has no ip",
        ),
    ],
)
def test_a_command_that_cannot_be_run(wanted: Command, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check(wanted)


async def test_a_user_that_is_not_there(rootfs: str) -> None:
    with pytest.raises(NotFound, match="no user 'nobody-here'"):
        await made(command(rootfs, process={"user": "nobody-here"}))


async def test_an_exec_is_the_containers_process_but_for_what_it_says(rootfs: str) -> None:
    spec: Spec = await made(command(rootfs, process={"user": "app", "env": ["A=1"]}, working_dir="/srv"))
    plain = exec_process(spec, ProcessConfig(entrypoint="ps", arguments=["-a"]), None)
    assert plain["args"] == ["ps", "-a"]
    assert (plain["env"], plain["cwd"]) == (["A=1"], "/srv")
    assert plain["user"]["uid"] == 1000
    other = ProcessConfig(entrypoint="ps", env=["B=2"], tty=True, privileged=True)
    changed = exec_process(spec, other, (5, 6, [6]))
    assert (changed["env"], changed["terminal"]) == (["B=2"], True)
    assert changed["user"] == {"uid": 5, "gid": 6, "additionalGids": [6]}
    assert changed["capabilities"].get("effective") == current_capabilities()
    assert spec["process"]["env"] == ["A=1"]  # the container's stays as it was
    with pytest.raises(InvalidArgument, match="no entrypoint"):
        exec_process(spec, ProcessConfig(), None)
