"""Specs equal, byte for byte, what ``ctr`` of each release prints and what it stores in container records."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import anyio
import pytest

from containerd_aio import Client, stdio
from containerd_aio.api.containerd.services.containers.v1 import GetContainerRequest
from containerd_aio.daemon import Daemon
from containerd_aio.oci import (
    SpecContext,
    SpecOpt,
    from_json,
    generate_spec,
    to_json,
    with_added_capabilities,
    with_additional_gids,
    with_all_devices_allowed,
    with_annotations,
    with_apparmor_profile,
    with_cdi_devices,
    with_cgroup,
    with_cpu_cfs,
    with_cpu_shares,
    with_default_seccomp_profile,
    with_default_spec,
    with_default_unix_devices,
    with_devices,
    with_dropped_capabilities,
    with_env,
    with_env_file,
    with_host_devices,
    with_host_hosts_file,
    with_host_namespace,
    with_host_resolvconf,
    with_hostname,
    with_image_config,
    with_linux_namespace,
    with_memory_limit,
    with_mounts,
    with_new_privileges,
    with_privileged,
    with_process_args,
    with_process_cwd,
    with_rdt,
    with_rootfs_path,
    with_rootfs_propagation,
    with_rootfs_readonly,
    with_tty,
    with_user,
)
from containerd_aio.oci.opts.mounts import RootfsPropagation
from containerd_aio.testing.images import Entry, busybox_image

Ctr = Callable[..., Awaitable[bytes]]
USERS = "docker.io/library/users:latest"
BUSYBOX = "docker.io/library/busybox:latest"
MOUNTS = "grep ^Seccomp: /proc/self/status; mount -t tmpfs none /tmp 2>&- && echo mounted || echo refused"
ODD = "ODD=<a href='x'>&é\u2028\t\\\""


@pytest.fixture
def ctr(ctr_binary: str, daemon: Daemon, namespace: str) -> Ctr:
    """Run ``ctr`` of the daemon's release, in the test's namespace."""

    async def run(*args: str) -> bytes:
        process = await anyio.run_process([ctr_binary, "-a", daemon.address, "-n", namespace, *args])
        return process.stdout

    return run


@pytest.fixture(scope="session")
def users_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that runs as a user of its own, whose files are behind a symlink that is absolute."""
    layer: dict[str, bytes | Entry] = {
        "etc/passwd": Entry(link="/usr/users"),
        "usr/users": b"root:x:0:0:::\napp:x:1000:1001:::\n",
        "etc/group": b"root:x:0:root\nwheel:x:10:root,app\nstaff:x:50:app\napp:x:1001:app\n",
    }
    config = {
        "User": "app:staff",
        "Env": ["PATH=/bin", "FROM=image", "ODD=image"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["exit 0"],
        "WorkingDir": "/tmp",
        "Labels": {"from": "image"},
    }
    folder = tmp_path_factory.mktemp("users")
    return busybox_image(folder / "users.tar", name=USERS, extra_layers=[layer], config=config)


async def _version(ctr_binary: str) -> str:
    return (await anyio.run_process([ctr_binary, "--version"])).stdout.decode().split()[-1]


@pytest.mark.parametrize("platform", ["", "linux/amd64", "windows/amd64", "darwin/arm64"])
async def test_the_default_spec_is_that_of_ctr_oci_spec(
    ctr_binary: str, containerd_version: str, platform: str
) -> None:
    flags = ["--platform", platform] if platform else []
    if platform and containerd_version == "1.6":
        pytest.skip("ctr 1.6 knows no --platform")
    printed = (await anyio.run_process([ctr_binary, "oci", "spec", *flags])).stdout
    context = SpecContext(platform=platform or None, version=await _version(ctr_binary))
    spec = await generate_spec(context)
    assert to_json(spec, indent=4).decode() + "\n" == printed.decode()
    assert from_json(printed) == from_json(to_json(spec))


@dataclass(frozen=True)
class Case:
    """A command of ctr and the options that are the same.

    `before` and `after` stand around the image's config, as in ctr; every case starts from the default spec with the
    default devices, as ctr does.
    """

    flags: Sequence[str]
    args: Sequence[str] = ()
    before: Sequence[SpecOpt] = ()
    after: Sequence[SpecOpt] = ()
    image: str = USERS
    run: bool = False
    since: str = "1.6"
    files: dict[str, str] = field(default_factory=dict)


CASES = {
    "image": Case([]),
    "image without a user": Case([], image="docker.io/library/busybox:latest"),
    "args": Case([], args=["echo <hello> & more"], after=[with_process_args("echo <hello> & more")]),
    "process": Case(
        [
            "--env",
            ODD,
            "--env",
            "NEW=1",
            "--env",
            "FROM",
            "--env-file",
            "env",
            "--cwd",
            "/srv",
            "--tty",
            "--read-only",
        ],
        files={"env": "FILE=1\nNEW=file\n# x=y\n"},
        before=[with_env_file("env"), with_env([ODD, "NEW=1", "FROM"])],
        after=[with_rootfs_readonly(), with_process_cwd("/srv"), with_tty()],
    ),
    "mounts": Case(
        ["--mount", "type=bind,src=/tmp,dst=/host,options=rbind:ro", "--mount", "type=tmpfs,dst=/t"],
        before=[
            with_mounts(
                [
                    {"destination": "/host", "type": "bind", "source": "/tmp", "options": ["rbind", "ro"]},
                    {"destination": "/t", "type": "tmpfs"},
                ]
            )
        ],
    ),
    "privileged": Case(
        ["--privileged"], after=[with_privileged(), with_all_devices_allowed(), with_host_devices()]
    ),
    "host network": Case(
        ["--net-host"],
        after=[
            with_host_namespace("network"),
            with_host_hosts_file(),
            with_host_resolvconf(),
            with_env([f"HOSTNAME={socket.gethostname()}"]),
        ],
    ),
    "annotations and labels": Case(
        ["--annotation", "b=1", "--annotation", "a=<2>", "--label", "l=3"],
        after=[with_annotations({"b": "1", "a": "<2>"}), with_annotations({"l": "3"})],
    ),
    "security": Case(
        [
            *("--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_KILL", "--cap-drop", "CAP_MKNOD"),
            *("--apparmor-profile", "mine", "--allow-new-privs"),
        ],
        after=[
            with_added_capabilities(["CAP_SYS_ADMIN", "CAP_KILL"]),
            with_dropped_capabilities(["CAP_MKNOD"]),
            with_apparmor_profile("mine"),
            with_new_privileges(),
        ],
    ),
    "resources": Case(
        [
            *("--memory-limit", "67108864", "--cpu-quota", "50000", "--rdt-class", "gold"),
            *(
                "--with-ns",
                "network:/proc/1/ns/net",
                "--with-ns",
                "cgroup:/proc/1/ns/cgroup",
                "--device",
                "/dev/zero",
            ),
        ],
        after=[
            with_cpu_cfs(50000, 0),
            with_linux_namespace("network", "/proc/1/ns/net"),
            with_linux_namespace("cgroup", "/proc/1/ns/cgroup"),
            with_memory_limit(67108864),
            with_devices("/dev/zero", "", "rwm"),
            with_rdt("gold"),
        ],
    ),
    "run": Case(
        ["--null-io", "--cpu-quota", "-1", "--cgroup", ""],
        run=True,
        args=["/bin/true"],
        after=[with_process_args("/bin/true"), with_cpu_shares(1024), with_cgroup("")],
    ),
    "seccomp": Case(
        ["--null-io", "--seccomp", "--cap-add", "CAP_SYS_PTRACE"],
        run=True,
        args=["/bin/true"],
        after=[
            with_process_args("/bin/true"),
            with_added_capabilities(["CAP_SYS_PTRACE"]),
            with_default_seccomp_profile(),
            with_cpu_shares(1024),
        ],
    ),
    "run as": Case(
        ["--null-io", "--user", "root", "--hostname", "box", "--cpus", "0.5"],
        run=True,
        since="1.7",
        after=[
            with_user("root"),
            with_additional_gids("root"),
            with_cpu_cfs(50000, 100000),
            with_cpu_shares(1024),
            with_hostname("box"),
        ],
    ),
}


@pytest.mark.shows(
    "seed:containerd.GenerateSpec",
    "seed:containerd.SpecOpts",
    "seed:containerd.WithApparmorProfile",
    "seed:containerd.WithHostHosts",
    "seed:containerd.WithHostNamespace",
    "seed:containerd.WithHostResoveconf",
    "seed:containerd.WithImageConfig",
    "seed:containerd.WithLinuxNamespace",
    "seed:containerd.WithProcessArgs",
    "seed:containerd.WithTTY",
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_record_is_the_one_ctr_stores(
    case: Case,
    ctr: Ctr,
    client: Client,
    users_archive: Path,
    containerd_version: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if containerd_version < case.since:
        pytest.skip(f"ctr {containerd_version} has no such flags")
    monkeypatch.chdir(tmp_path)
    for name, content in case.files.items():
        await anyio.Path(name).write_text(content)
    await client.import_archive(users_archive, unpack=True)

    command = ["run"] if case.run else ["containers", "create"]
    await ctr(*command, *case.flags, case.image, "box", *case.args)
    stored = await _stored_spec(client)
    await ctr("containers", "rm", "box")

    opts = [with_default_spec(), with_default_unix_devices(), *case.before, with_image_config(), *case.after]
    async with await client.new_container("box", image=case.image, spec_opts=opts):
        assert (await _stored_spec(client)).decode() == stored.decode()


@pytest.mark.shows("seed:containerd.WithRootFSPath")
async def test_the_record_of_a_directory_as_root_filesystem(ctr: Ctr, client: Client, tmp_path: Path) -> None:
    await ctr("containers", "create", "--rootfs", str(tmp_path), "box", "sleep", "60")
    stored = await _stored_spec(client)
    await ctr("containers", "rm", "box")
    opts = [with_default_unix_devices(), with_rootfs_path(str(tmp_path)), with_process_args("sleep", "60")]
    async with await client.new_container("box", spec_opts=opts):
        assert (await _stored_spec(client)).decode() == stored.decode()


async def test_the_default_seccomp_profile_lets_a_shell_work_and_no_mount(client: Client) -> None:
    opts = [
        with_added_capabilities(["CAP_SYS_ADMIN"]),
        with_image_config(),
        with_process_args("sh", "-c", MOUNTS),
    ]
    for filtered, expected in ((False, b"Seccomp:\t0\nmounted\n"), (True, b"Seccomp:\t2\nrefused\n")):
        # The filter is made for a bounding set without CAP_SYS_ADMIN, which the process has all the same.
        order = [with_default_seccomp_profile(), *opts] if filtered else opts
        async with await client.new_container("box", image=BUSYBOX, spec_opts=order) as container:
            async with await container.new_task(io=stdio.capture()) as task:
                await task.start()
                await task.wait(timeout=30)
            assert task.captured is not None
            assert task.captured.stdout == expected, task.captured.stderr


async def _output(client: Client, script: str, *opts: SpecOpt) -> str:
    args = [with_image_config(), with_process_args("sh", "-c", script)]
    async with await client.new_container("box", image=BUSYBOX, spec_opts=[*args, *opts]) as container:
        async with await container.new_task(io=stdio.capture()) as task:
            await task.start()
            await task.wait(timeout=30)
        assert task.captured is not None
        return task.captured.stdout.decode()


async def test_a_device_of_cdi_is_there(client: Client, tmp_path: Path) -> None:
    edits = {
        "env": ["VENDOR=yes"],
        "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/zero", "permissions": "r"}],
        "mounts": [{"hostPath": str(tmp_path), "containerPath": "/vendor", "options": ["ro", "bind"]}],
        "additionalGids": [4242],
    }
    file = {
        "cdiVersion": "0.7.0",
        "kind": "vendor.com/dev",
        "devices": [{"name": "0", "containerEdits": edits}],
    }
    (tmp_path / "vendor.json").write_text(json.dumps(file))
    script = "echo $VENDOR; head -c 2 /dev/vendor0 | tr '\\0' x; echo; ls /vendor; id -G"
    opt = with_cdi_devices("vendor.com/dev=0", directories=[tmp_path])
    assert await _output(client, script, opt) == "yes\nxx\nvendor.json\n0 4242\n"


async def test_the_runtime_takes_every_propagation_of_the_root_filesystem(client: Client) -> None:
    for propagation in get_args(RootfsPropagation):
        assert await _output(client, "echo ok", with_rootfs_propagation(propagation)) == "ok\n"


async def _stored_spec(client: Client) -> bytes:
    reply = await client.services.containers.get(GetContainerRequest(id="box"))
    assert reply.container is not None
    assert reply.container.spec is not None
    assert reply.container.spec.type_url == "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    return reply.container.spec.value
