"""Every option gives the same bytes as Go's: ``data/oci/specopts-2.1.9.json`` was made by the real functions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import oci
from containerd_aio.oci import (
    LinuxIDMapping,
    Spec,
    SpecContext,
    SpecOpt,
    apply_opts,
    from_json,
    generate_spec,
    to_json,
)

DATA = json.loads((Path(__file__).parent / "data" / "oci" / "specopts-2.1.9.json").read_text())
CASES: dict[str, dict[str, str]] = DATA["cases"]

FULL = {
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "User": "app:staff",
        "Env": ["PATH=/bin", "A=image", "B=image"],
        "Entrypoint": ["/entry", "-x"],
        "Cmd": ["serve"],
        "WorkingDir": "/srv",
    },
}
BARE: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {}}
MAP: list[LinuxIDMapping] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
MORE: list[LinuxIDMapping] = [{"containerID": 65536, "hostID": 300000, "size": 1}]
ENV = json.loads(CASES["args"]["base"])


def user_image(user: str) -> dict[str, Any]:
    return {"os": "linux", "config": {"User": user, "Cmd": ["sh"]}}


OPTS: dict[str, Callable[[], Sequence[SpecOpt]]] = {
    "default": list,
    "default-spec": lambda: [oci.with_default_spec()],
    "default-spec-windows": lambda: [oci.with_default_spec_for_platform("windows/amd64")],
    "default-spec-darwin": lambda: [oci.with_default_spec_for_platform("darwin/arm64")],
    "spec-from-bytes": lambda: [oci.with_spec_from_bytes(json.dumps(ENV))],
    "annotations": lambda: [
        oci.with_annotations({"b": "1", "a": '<&>\u2028é\b\f\n\x1f\x7f"\\/'}),
        oci.with_annotations({"b": "2", "B": ""}),
    ],
    "hostname": lambda: [oci.with_hostname("box"), oci.with_domainname("example")],
    "args": lambda: [oci.with_process_args("sleep", "60")],
    "cwd": lambda: [oci.with_process_cwd("/srv")],
    "env": lambda: [oci.with_env(["B=new", "C=3", "C=4", "GONE", "NEVER", "A=", "D=a=b"])],
    "env-empty": lambda: [oci.with_env([])],
    "env-file": lambda: [oci.with_env_file("env")],
    "default-path-env": lambda: [oci.with_default_path_env(), oci.with_default_path_env()],
    "tty": lambda: [oci.with_tty(), oci.with_tty_size(80, 24)],
    "tty-windows": lambda: [oci.with_tty(), oci.with_tty_size(0, 0)],
    "new-privileges": lambda: [oci.with_new_privileges()],
    "no-new-privileges": lambda: [oci.with_no_new_privileges()],
    "rootfs": lambda: [oci.with_rootfs_path("/other"), oci.with_rootfs_readonly()],
    "mounts": lambda: [
        oci.with_mounts(
            [
                {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]},
                {"destination": "/x"},
            ]
        )
    ],
    "without-mounts": lambda: [oci.without_mounts("/dev/shm", "/nowhere"), oci.without_run_mount()],
    "dev-shm-size": lambda: [oci.with_dev_shm_size(1024)],
    "host-files": lambda: [oci.with_host_hosts_file(), oci.with_host_resolvconf(), oci.with_host_localtime()],
    "writeable": lambda: [oci.with_writeable_sysfs(), oci.with_writeable_cgroupfs()],
    "host-namespace": lambda: [oci.with_host_namespace("network"), oci.with_host_namespace("uts")],
    "linux-namespace": lambda: [
        oci.with_linux_namespace("network", "/proc/1/ns/net"),
        oci.with_linux_namespace("cgroup"),
    ],
    "user-namespace": lambda: [oci.with_user_namespace(MAP, MAP), oci.with_user_namespace(MORE, [])],
    "user-name": lambda: [oci.with_user("app")],
    "user-uid": lambda: [oci.with_user("1000")],
    "user-uid-unknown": lambda: [oci.with_user("4242")],
    "user-uid-gid": lambda: [oci.with_user("4242:17")],
    "user-name-group": lambda: [oci.with_user("app:staff")],
    "user-uid-group": lambda: [oci.with_user("4242:staff")],
    "user-name-gid": lambda: [oci.with_user("app:17")],
    "user-name-colon": lambda: [oci.with_user("app:")],
    "user-windows-linux": lambda: [oci.with_user("app:staff")],
    "uid-gid": lambda: [oci.with_uid_gid(5, 6)],
    "user-id": lambda: [oci.with_user_id(1000)],
    "username": lambda: [oci.with_username("app")],
    "username-windows": lambda: [oci.with_username("ContainerAdministrator")],
    "additional-gids": lambda: [oci.with_additional_gids("app")],
    "additional-gids-uid": lambda: [oci.with_uid_gid(1000, 1000), oci.with_additional_gids("1000")],
    "additional-gids-unknown": lambda: [oci.with_uid_gid(4242, 7), oci.with_additional_gids(4242)],
    "append-groups": lambda: [oci.with_uid_gid(1, 2), oci.with_append_additional_groups("staff", "77")],
    "image-full": lambda: [oci.with_image_config(FULL)],
    "image-full-args": lambda: [oci.with_image_config_args(["other", "<x>"], FULL)],
    "image-bare": lambda: [oci.with_image_config(BARE)],
    "image-uid": lambda: [oci.with_image_config(user_image("1000"))],
    "image-stranger": lambda: [oci.with_image_config(user_image("4242"))],
    "capabilities": lambda: [oci.with_capabilities(["CAP_KILL", "CAP_SYS_ADMIN"])],
    "capabilities-none": lambda: [oci.with_capabilities([])],
    "capabilities-added": lambda: [
        oci.with_added_capabilities(["CAP_SYS_ADMIN", "CAP_KILL", "CAP_SYS_ADMIN"])
    ],
    "capabilities-dropped": lambda: [oci.with_dropped_capabilities(["CAP_KILL", "CAP_BPF"])],
    "capabilities-dropped-all": lambda: [oci.with_dropped_capabilities(["CAP_KILL", "CAP_CHOWN"])],
    "capabilities-ambient": lambda: [oci.with_ambient_capabilities(["CAP_NET_RAW"])],
    "capabilities-known": lambda: [oci.with_all_known_capabilities()],
    "labels": lambda: [
        oci.with_selinux_label("a_u:b_r:c_t:s0"),
        oci.with_apparmor_profile("docker-default"),
        oci.with_seccomp_unconfined(),
    ],
    "paths": lambda: [oci.with_masked_paths(["/m"]), oci.with_readonly_paths(["/r"])],
    "paths-none": lambda: [oci.with_masked_paths([]), oci.with_readonly_paths([])],
    "privileged": lambda: [oci.with_privileged(), oci.with_all_known_capabilities()],
    "cgroup": lambda: [oci.with_cgroup("/jobs/7")],
    "cgroup-none": lambda: [oci.with_cgroup("")],
    "cgroup-namespaced": lambda: [oci.with_namespaced_cgroup()],
    "memory": lambda: [oci.with_memory_limit(64 << 20), oci.with_memory_swap(-1)],
    "memory-zero": lambda: [oci.with_memory_limit(0), oci.with_memory_swap(0)],
    "memory-windows-linux": lambda: [oci.with_memory_limit(5)],
    "pids": lambda: [oci.with_pids_limit(100)],
    "pids-zero": lambda: [oci.with_pids_limit(0)],
    "cpu": lambda: [
        oci.with_cpu_shares(512),
        oci.with_cpus("0-2,7"),
        oci.with_cpus_mems("0"),
        oci.with_cpu_cfs(50000, 100000),
        oci.with_cpu_burst(1000),
        oci.with_cpu_rt(950000, 1000000),
    ],
    "cpu-zero": lambda: [
        oci.with_cpu_shares(0),
        oci.with_cpus(""),
        oci.with_cpu_cfs(-1, 0),
        oci.with_cpu_burst(0),
    ],
    "block-io": lambda: [
        oci.with_block_io(
            {
                "weight": 500,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}],
            }
        )
    ],
    "rdt": lambda: [oci.with_rdt("gold", mem_bw_schema="MB:0=20")],
    "rdt-empty": lambda: [oci.with_rdt("")],
    "devices-parent": lambda: [oci.with_parent_cgroup_devices()],
    "devices-all": lambda: [oci.with_all_devices_allowed()],
    "devices-default": lambda: [oci.with_default_unix_devices()],
    "linux-devices": lambda: [
        oci.with_linux_devices(
            [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 0, "uid": 0}]
        )
    ],
    "linux-device": lambda: [oci.with_linux_device("/dev/null", "rw")],
    "devices": lambda: [oci.with_devices("/dev/zero", "/dev/nothing", "r")],
    "devices-missing-sections": lambda: [oci.with_devices("/dev/null")],
}


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpecContext:
    """A container whose root filesystem and environment file are the ones Go saw."""
    etc = tmp_path / "etc"
    etc.mkdir()
    etc.joinpath("passwd").write_text(DATA["passwd"])
    etc.joinpath("group").write_text(DATA["group"])
    tmp_path.joinpath("env").write_text(DATA["env_file"])
    monkeypatch.chdir(tmp_path)

    @asynccontextmanager
    async def rootfs() -> AsyncIterator[Path]:
        yield tmp_path

    return SpecContext(
        namespace="moon", container_id="x", version="2.1.9", platform="linux/amd64", rootfs=rootfs
    )


async def before(case: str, context: SpecContext) -> Spec:
    base = CASES[case]["base"]
    return await generate_spec(context) if base == "default" else from_json(base)


@pytest.mark.shows(
    "seed:containerd.WithHostLocaltime",
    "seed:containerd.WithNoNewPrivileges",
    "seed:containerd.WithUserNamespace",
)
@pytest.mark.parametrize("case", CASES)
async def test_an_option_gives_the_bytes_gos_gives(case: str, context: SpecContext) -> None:
    spec = await before(case, context)
    await apply_opts(context, spec, *OPTS[case]())
    assert to_json(spec).decode() == CASES[case]["spec"]


def test_every_case_has_options_and_every_option_a_case() -> None:
    assert OPTS.keys() == CASES.keys()
    source = Path(__file__).read_text()
    # These two look at this very machine: see test_oci_devices and the integration tests.
    apart = {"with_all_current_capabilities", "with_host_devices", "with_linux_device_follow_symlinks"}
    # Of Go's client 2.3, newer than the data; tested below. The next is tested in test_oci_spec.
    apart |= {"with_umask", "with_rlimit", "with_spec_from_file"}
    source += Path(__file__).with_name("test_oci_more_opts.py").read_text()
    names = {name for name in oci.__all__ if name.startswith(("with_", "without_"))}
    assert {name for name in names if f"oci.{name}(" not in source} <= apart


async def test_umask_and_rlimits() -> None:
    spec: Spec = {"ociVersion": "1", "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/"}}
    opts = [
        oci.with_umask(0),
        oci.with_rlimit("RLIMIT_NOFILE", soft=1, hard=2),
        oci.with_rlimit("RLIMIT_CORE", soft=0, hard=2**64 - 1),
        oci.with_rlimit("RLIMIT_NOFILE", soft=3, hard=3),
    ]
    await apply_opts(SpecContext(), spec, *opts)
    assert to_json(spec).decode() == (
        '{"ociVersion":"1","process":{"user":{"uid":0,"gid":0,"umask":0},"cwd":"/","rlimits":['
        '{"type":"RLIMIT_NOFILE","hard":3,"soft":3},{"type":"RLIMIT_CORE","hard":18446744073709551615,"soft":0}]}}'
    )


async def test_env_from_a_mapping() -> None:
    spec: Spec = {
        "ociVersion": "1",
        "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["A=1", "B=2"]},
    }
    await apply_opts(SpecContext(), spec, oci.with_env({"A": None, "B": "x=y", "C": ""}))
    assert spec["process"]["env"] == ["B=x=y", "C="]


async def test_limits_do_nothing_without_a_linux_section() -> None:
    spec: Spec = {"ociVersion": "1", "windows": {}}
    for opt in (*OPTS["cpu"](), *OPTS["pids"](), *OPTS["block-io"](), oci.with_memory_swap(1)):
        await apply_opts(SpecContext(), spec, opt)
    assert spec == {"ociVersion": "1", "windows": {}}


async def test_the_image_config_of_the_context_is_the_default(context: SpecContext) -> None:
    given, default = await before("image-full", context), await before("image-full", context)
    await apply_opts(context, given, oci.with_image_config(FULL))
    with_config = SpecContext(image_config=FULL, rootfs=context.rootfs)
    await apply_opts(with_config, default, oci.with_image_config())
    assert given == default


async def test_a_linux_image_on_freebsd_gets_linux_mounts(context: SpecContext) -> None:
    freebsd = SpecContext(platform="freebsd", rootfs=context.rootfs)
    spec = await generate_spec(freebsd, oci.with_image_config(BARE))
    assert [mount["destination"] for mount in spec["mounts"]] == ["/proc", "/sys", "/dev", "/dev/fd"]
    spec = await generate_spec(freebsd, oci.with_image_config({"os": "freebsd"}))
    assert [mount["destination"] for mount in spec["mounts"]] == ["/dev", "/dev/fd"]


async def test_the_root_filesystem_of_the_spec_is_used_when_it_is_absolute(
    context: SpecContext, tmp_path: Path
) -> None:
    opts = [oci.with_rootfs_path(str(tmp_path)), oci.with_user("app:staff")]
    spec = await generate_spec(SpecContext(), *opts)
    assert spec["process"]["user"] == {"uid": 1000, "gid": 50, "additionalGids": [50]}


async def test_current_capabilities_are_those_of_this_process() -> None:
    spec = await generate_spec(SpecContext(), oci.with_all_current_capabilities())
    effective = int(
        (await anyio.Path("/proc/self/status").read_text()).partition("CapEff:")[2].split()[0], 16
    )
    assert len(spec["process"]["capabilities"].get("effective", [])) == effective.bit_count()
