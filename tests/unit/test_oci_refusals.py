"""Wrong arguments are refused when the option is made, before any spec is touched; the text names cause and cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from containerd_aio import oci
from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci import NoShmMount, NotADevice, Spec, SpecContext, SpecOpt, apply_opts, generate_spec

REFUSED: list[tuple[Callable[..., SpecOpt], tuple[Any, ...], dict[str, Any], str]] = [
    (oci.with_memory_limit, (-1,), {}, r"limit is -1; it must be from 0 to \d+ \(bytes\)"),
    (oci.with_memory_limit, (2**63,), {}, "limit is 9223372036854775808"),
    (oci.with_memory_limit, ("64m",), {}, r"limit must be an integer \(bytes\), not '64m' \(str\)"),
    (oci.with_memory_limit, (True,), {}, "limit must be an integer"),
    (oci.with_memory_limit, (1e6,), {}, "limit must be an integer"),
    (oci.with_memory_swap, (-2,), {}, "swap is -2; .* -1 for no limit"),
    (oci.with_pids_limit, (-2,), {}, "limit is -2"),
    (oci.with_cpu_shares, (-1,), {}, "shares is -1"),
    (oci.with_cpus, ("0-",), {}, "cpus is '0-'; write numbers and ranges, such as '0-2,7'"),
    (oci.with_cpus, ("0 1",), {}, "cpus is '0 1'"),
    (oci.with_cpus_mems, ("a",), {}, "mems is 'a'"),
    (oci.with_cpu_cfs, (-2, 100000), {}, "quota is -2"),
    (oci.with_cpu_cfs, (1, -1), {}, "period is -1"),
    (oci.with_cpu_burst, (-1,), {}, "burst is -1"),
    (oci.with_cpu_rt, (-2, 1), {}, "runtime is -2"),
    (oci.with_block_io, ({"weight": "10"},), {}, r"LinuxResources\.blockIO\.weight must be an integer"),
    (oci.with_rdt, (None,), {}, "clos_id must be a string"),
    (oci.with_cgroup, (None,), {}, "path must be a string"),
    (oci.with_env, (["=x"],), {}, "environment variable '=x' has no name; write NAME=value"),
    (oci.with_env, ([""],), {}, "environment variable '' has no name"),
    (oci.with_env, ("A=1",), {}, "env must be a list of strings, not 'A=1'"),
    (oci.with_env, (["A=\0"],), {}, "can't hold a NUL"),
    (oci.with_env, ({"": "x"},), {}, "environment variable '=x' has no name"),
    (oci.with_env, ({"A=B": "x"},), {}, "can't contain '='"),
    (oci.with_env, ([b"A=1"],), {}, r"env\[0\] must be a string"),
    (oci.with_process_args, (), {}, "needs the program and its arguments"),
    (oci.with_process_args, (["sh"],), {}, r"args\[0\] must be a string"),
    (oci.with_process_cwd, ("srv",), {}, "cwd is 'srv'; it must be an absolute path"),
    (oci.with_tty_size, (-1, 24), {}, "width is -1"),
    (oci.with_tty_size, (80, 65536), {}, "height is 65536"),
    (oci.with_umask, (0o1000,), {}, "umask is 512"),
    (
        oci.with_rlimit,
        ("NOFILE",),
        {"soft": 1, "hard": 1},
        "kind is 'NOFILE'; it must be one of .*RLIMIT_NOFILE",
    ),
    (
        oci.with_rlimit,
        ("RLIMIT_NOFILE",),
        {"soft": 2, "hard": 1},
        "the soft limit 2 is above the hard limit 1",
    ),
    (oci.with_rlimit, ("RLIMIT_NOFILE",), {"soft": -1, "hard": 1}, "soft is -1"),
    (oci.with_hostname, ("x" * 65,), {}, "hostname is 65 bytes long; Linux allows 64"),
    (oci.with_domainname, ("é" * 33,), {}, "domainname is 66 bytes long"),
    (oci.with_annotations, ({"": "x"},), {}, "the key of an annotation is empty"),
    (oci.with_annotations, ({"a": 1},), {}, "annotation 'a' must be a string"),
    (oci.with_annotations, (["a"],), {}, "annotations must be a mapping"),
    (
        oci.with_mounts,
        ([{"destination": "data"}],),
        {},
        r"the destination of mounts\[0\] is 'data'; .* absolute",
    ),
    (oci.with_mounts, ([{"source": "/x"}],), {}, r"the destination of mounts\[0\] is ''"),
    (
        oci.with_mounts,
        ([{"destination": "/x", "options": "ro"}],),
        {},
        r"the options of mounts\[0\] must be a list",
    ),
    (oci.with_mounts, ({"destination": "/x"},), {}, r"mounts\[0\] must be a dict"),
    (oci.with_mounts, (["/x"],), {}, r"mounts\[0\] must be a dict"),
    (oci.with_dev_shm_size, (0,), {}, r"kb is 0; it must be from 1 to \d+ \(KiB\)"),
    (oci.with_rootfs_path, ("",), {}, "path is empty"),
    (oci.with_host_namespace, ("net",), {}, "kind is 'net'; it must be one of pid, network"),
    (oci.with_linux_namespace, ("network", "proc/1/ns/net"), {}, "absolute path on the host"),
    (
        oci.with_user_namespace,
        ([{"containerID": 0}], []),
        {},
        r"uid_map\[0\] is .* needs containerID, hostID and size",
    ),
    (
        oci.with_user_namespace,
        ([], [{"containerID": 0, "hostID": -1, "size": 1}]),
        {},
        r"hostID of gid_map\[0\] is -1",
    ),
    (
        oci.with_user_namespace,
        ([{"containerID": 0, "hostID": 0, "size": 0}], []),
        {},
        r"size of uid_map\[0\] is 0",
    ),
    (oci.with_user, ("",), {}, "user is empty"),
    (oci.with_user, (":5",), {}, "user is ':5'; it must be a name or uid"),
    (oci.with_user, ("a:b:c",), {}, "user is 'a:b:c'"),
    (oci.with_user, ("2147483648",), {}, "the uid must be from 0 to 2147483647"),
    (oci.with_user, ("-1",), {}, "the uid must be from 0"),
    (oci.with_user, ("app:99999999999999999999",), {}, "the gid must be from 0"),
    (oci.with_uid_gid, (2**31, 0), {}, "uid is 2147483648"),
    (oci.with_uid_gid, (0, -1), {}, "gid is -1"),
    (oci.with_user_id, ("5",), {}, "uid must be an integer"),
    (oci.with_username, ("a:b",), {}, "with a group, use with_user"),
    (oci.with_username, ("",), {}, "name is empty"),
    (oci.with_additional_gids, ("",), {}, "user is empty"),
    (oci.with_additional_gids, (-1,), {}, "user is -1"),
    (oci.with_append_additional_groups, (2**32,), {}, "gid is 4294967296"),
    (oci.with_append_additional_groups, ("",), {}, "group is empty"),
    (oci.with_capabilities, (["NET_ADMIN"],), {}, "capability 'NET_ADMIN' is not known: write CAP_NET_ADMIN"),
    (oci.with_added_capabilities, (["cap_kill"],), {}, "write CAP_KILL"),
    (oci.with_dropped_capabilities, (["ALL"],), {}, r"'ALL' is not known: see capabilities\(7\)"),
    (oci.with_ambient_capabilities, ("CAP_KILL",), {}, "must be a list of strings"),
    (oci.with_masked_paths, (["proc"],), {}, r"masked paths\[0\] is 'proc'"),
    (oci.with_readonly_paths, ("/proc",), {}, "must be a list of strings"),
    (oci.with_linux_device, ("dev/null", "rw"), {}, "path is 'dev/null'"),
    (oci.with_linux_device, ("/dev/null", "rx"), {}, "permissions is 'rx'; combine r"),
    (oci.with_linux_device, ("/dev/null", ""), {}, "permissions is ''"),
    (oci.with_devices, ("/dev/null", "x"), {}, "container_path is 'x'"),
    (oci.with_devices, ("/dev/null", "", "rr"), {}, "permissions is 'rr'"),
    (oci.with_linux_device_follow_symlinks, ("x", "r"), {}, "path is 'x'"),
    (
        oci.with_linux_devices,
        ([{"path": "/dev/x"}],),
        {},
        r"devices\[0\] .* needs path, type, major and minor",
    ),
    (
        oci.with_linux_devices,
        ([{"path": "/dev/x", "type": "c", "major": "1", "minor": 2}],),
        {},
        r"Linux\.devices\[0\]\.major must be an integer",
    ),
    (oci.with_spec_from_bytes, ("[]",), {}, "Spec must be an object"),
    (oci.with_default_spec_for_platform, ("plan9",), {}, "no default spec is known"),
    (oci.with_image_config, ({"Cmd": ["sh"]},), {}, "give the whole blob"),
    (oci.with_image_config, ({"config": {"Cmd": "sh"}},), {}, "Cmd of the image must be a list"),
    (oci.with_image_config, ([],), {}, "an image config is a JSON object"),
    (oci.with_image_config_args, ("sh",), {}, "args must be a list of strings"),
]


@pytest.mark.parametrize(("option", "args", "options", "words"), REFUSED)
def test_refused_when_made(
    option: Callable[..., SpecOpt], args: tuple[Any, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        option(*args, **options)
    assert caught.value.method is None


@pytest.mark.parametrize(
    ("opt", "error", "words"),
    [
        (oci.with_user("app"), InvalidArgument, "there is none yet: create the container with a snapshot"),
        (oci.with_image_config({"config": {}}), InvalidArgument, "there is none yet"),
        (oci.with_image_config(), InvalidArgument, "no image config"),
        (oci.with_env_file("/nope"), NotFound, "no environment file '/nope'"),
        (oci.with_env_file("/"), InvalidArgument, "can't be read"),
        (oci.with_linux_device("/dev/nope", "r"), NotFound, "there is no device /dev/nope"),
        (oci.with_linux_device("/dev", "r"), NotADevice, "/dev is not a device node"),
        (oci.with_linux_device_follow_symlinks("/dev/nope", "r"), NotFound, "there is no device"),
        (oci.with_devices("/etc/passwd"), NotADevice, "/etc/passwd is not a device node"),
        (oci.with_devices("/dev/nope"), NotFound, "there is no device /dev/nope"),
        (oci.compose(oci.without_mounts("/dev/shm"), oci.with_dev_shm_size(1)), NoShmMount, "no tmpfs 'shm'"),
    ],
)
async def test_refused_when_applied(opt: SpecOpt, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await generate_spec(SpecContext(platform="linux"), opt)


@pytest.mark.parametrize("opt", [oci.with_rdt("gold"), oci.with_image_config({"config": {}})])
async def test_needs_a_linux_section(opt: SpecOpt) -> None:
    with pytest.raises(InvalidArgument, match="needs a spec with a linux section"):
        await generate_spec(SpecContext(platform="darwin"), opt)


@pytest.mark.parametrize(
    "opt",
    [
        oci.with_user("nobody-here"),
        oci.with_user("app:nothing"),
        oci.with_username("nobody-here"),
        oci.with_append_additional_groups("nothing"),
        oci.with_image_config({"config": {"User": "nobody-here"}}),
        oci.with_devices("/etc/passwd"),
        oci.with_linux_device("/dev/nope", "r"),
        oci.with_dev_shm_size(5),
        oci.with_spec_from_file("/nope"),
        oci.with_env_file("/nope"),
    ],
)
async def test_an_option_that_fails_leaves_the_spec_as_it_was(opt: SpecOpt, tmp_path: Path) -> None:
    spec: Spec = {"ociVersion": "1", "root": {"path": str(tmp_path)}, "linux": {}}
    with pytest.raises((InvalidArgument, NotFound, NoShmMount)):
        await apply_opts(SpecContext(), spec, opt)
    assert spec == {"ociVersion": "1", "root": {"path": str(tmp_path)}, "linux": {}}


async def test_a_line_of_an_environment_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b"A=1\r\n\n=x\n")
    with pytest.raises(InvalidArgument, match="env:3: '=x' has no name"):
        await generate_spec(SpecContext(), oci.with_env_file(file))
    file.write_bytes(b"A=1\r\n\nB=2")
    assert (await generate_spec(SpecContext(), oci.with_env_file(file)))["process"]["env"] == ["A=1", "B=2"]
    file.write_bytes(b"A=\xff")
    with pytest.raises(InvalidArgument, match="can't be read"):
        await generate_spec(SpecContext(), oci.with_env_file(file))
