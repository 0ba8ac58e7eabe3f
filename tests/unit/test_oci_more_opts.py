"""Windows, CDI, seccomp, AppArmor and GPUs: the bytes Go gives; and no option of Go's client is missing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import oci
from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound
from containerd_aio.oci import (
    Spec,
    SpecContext,
    SpecOpt,
    apparmor,
    apply_opts,
    from_json,
    generate_spec,
    to_json,
)

FOLDER = Path(__file__).parent / "data" / "oci"
CASES: dict[str, dict[str, str]] = json.loads((FOLDER / "specopts-more-2.1.9.json").read_text())["cases"]
CDI = [FOLDER / "cdi" / "etc", FOLDER / "cdi" / "run"]

OPTS: dict[str, Callable[[], Sequence[SpecOpt]]] = {
    "windows-hyperv": lambda: [oci.with_windows_hyperv()],
    "windows-cpu": lambda: [
        oci.with_windows_cpu_count(2),
        oci.with_windows_cpu_shares(500),
        oci.with_windows_cpu_maximum(9000),
    ],
    "windows-cpu-zero": lambda: [
        oci.with_windows_cpu_count(0),
        oci.with_windows_cpu_shares(0),
        oci.with_windows_cpu_maximum(0),
    ],
    "windows-ignore-flushes": lambda: [oci.with_windows_ignore_flushes_during_boot()],
    "windows-dns": lambda: [oci.with_window_networks_allow_unqualified_dns_query()],
    "windows-network-namespace": lambda: [
        oci.with_windows_network_namespace("ns-1"),
        oci.with_window_networks_allow_unqualified_dns_query(),
    ],
    "windows-device": lambda: [
        oci.with_windows_device("class", "5B45201D-F2F2-4F3B-85BB-30FF1F953599"),
        oci.with_windows_device("vpci-location-path", "x"),
    ],
    "windows-memory": lambda: [oci.with_memory_limit(5)],
    "apparmor": lambda: [oci.with_apparmor_profile("mine")],
    "seccomp-file": lambda: [oci.with_seccomp_profile(FOLDER / "profile.json")],
    "seccomp-default": lambda: [oci.with_default_seccomp_profile()],
    "gpus": lambda: [
        oci.with_gpus(
            [0, 1, "GPU-1"],
            capabilities=["compute", "utility"],
            cuda=(8, 0),
            hook_path="/hook",
            no_cgroups=True,
        )
    ],
    "gpus-all": lambda: [oci.with_gpus("all", capabilities="all")],
    "cdi-one": lambda: [oci.with_cdi_devices("vendor.com/device=one", directories=CDI)],
    "cdi-two": lambda: [
        oci.with_cdi_devices(
            "vendor.com/device=one", "vendor.com/device=two", "other.org/net=0", directories=CDI
        )
    ],
    "cdi-none": lambda: [oci.with_cdi_devices()],
    "cdi-default": lambda: [
        oci.with_cdi_devices("vendor.com/device=two", "other.org/net=0", directories=CDI)
    ],
    "cdi-bare": lambda: [oci.with_cdi_devices("vendor.com/device=one", directories=CDI)],
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A PATH with two programs that do nothing, and an environment of two variables."""
    for name in ("nvidia-container-cli", "containerd"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr("os.environ", {"PATH": str(tmp_path), "X": "1"})
    return str(tmp_path)


@pytest.mark.parametrize("case", CASES)
async def test_an_option_gives_the_bytes_gos_gives(case: str, programs: str) -> None:
    context = SpecContext(namespace="moon", container_id="x", version="2.1.9", platform="linux/amd64")
    base = CASES[case]["base"]
    spec = await generate_spec(context) if base == "default" else from_json(base)
    os.environ.pop("PYTEST_CURRENT_TEST", None)  # of the copy that `programs` has made
    await apply_opts(context, spec, *OPTS[case]())
    assert to_json(spec).decode() == CASES[case]["spec"].replace("/opt/bin", programs)


def test_every_case_has_options() -> None:
    assert OPTS.keys() == CASES.keys()


#: Ours that has no words of Go's name, or more of them.
OURS = {
    "cdi.WithCDIDevices": "with_cdi_devices",
    "seccomp.WithProfile": "with_seccomp_profile",
    "seccomp.WithDefaultProfile": "with_default_seccomp_profile",
    "apparmor.WithProfile": "with_apparmor_profile",
    "apparmor.WithDefaultProfile": "with_default_apparmor_profile",
    "nvidia.WithGPUs": "with_gpus",
}
#: Words of Go's names that are not told apart by their capitals.
WORDS = {
    "GIDs": "Gids", "UIDGID": "UidGid", "RootFS": "Rootfs", "HyperV": "Hyperv", "CPUs": "Cpus", "Mems": "_mems",
    "CPUCFS": "CpuCfs", "CPURT": "CpuRt",
}  # fmt: skip


def python_name(go: str) -> str:
    if go in OURS:
        return OURS[go]
    name = go.removeprefix("oci.")
    for word, ours in WORDS.items():
        name = name.replace(word, ours)
    name = re.sub(
        r"([A-Z]+)([A-Z][a-z])|([a-z0-9])([A-Z])", lambda m: "_".join(filter(None, m.groups())), name
    )
    return name.lower().replace("__", "_")


def test_every_option_of_gos_client_is_here() -> None:
    go = {python_name(name) for name in (FOLDER / "specopts.names").read_text().split()}
    ours = {name for name in oci.__all__ if name.startswith(("with_", "without_"))}
    assert sorted(go - ours) == []
    assert sorted(ours - go) == ["with_rootfs_propagation"]  # Go has none: its users set the field


async def test_options_that_change_what_windows_has_do_nothing_without_it() -> None:
    spec: Spec = {"ociVersion": "1"}
    opts = [oci.with_windows_cpu_count(1), oci.with_windows_cpu_shares(1), oci.with_windows_cpu_maximum(1)]
    await apply_opts(SpecContext(), spec, *opts)
    assert spec == {"ociVersion": "1"}


async def test_command_line_and_arguments_replace_each_other() -> None:
    context = SpecContext(platform="windows")
    spec = await generate_spec(
        context, oci.with_process_args("a"), oci.with_process_command_line('cmd /c "a b"')
    )
    assert "args" not in spec["process"]
    assert spec["process"]["commandLine"] == 'cmd /c "a b"'
    await apply_opts(context, spec, oci.with_process_args("a"))
    assert spec["process"].get("commandLine") is None


async def test_rootfs_propagation() -> None:
    spec = await generate_spec(SpecContext(), oci.with_rootfs_propagation("rslave"))
    assert spec["linux"]["rootfsPropagation"] == "rslave"
    with pytest.raises(InvalidArgument, match="propagation is 'yes'; it must be one of private"):
        oci.with_rootfs_propagation("yes")  # type: ignore[arg-type]


# -- Windows --------------------------------------------------------------------------------------------------


async def test_a_linux_container_of_a_windows_host_has_both_sections() -> None:
    context = SpecContext(platform="linux/amd64", host="windows")
    spec = await generate_spec(context, oci.with_user("app:staff"))
    assert to_json(spec).decode().endswith(',"windows":{"layerFolders":null}}')
    assert spec["process"]["user"]["username"] == "app:staff"
    spec = await generate_spec(context, oci.with_image_config({"config": {"User": "1000", "Cmd": ["sh"]}}))
    assert spec["process"]["user"] == {"uid": 0, "gid": 0, "username": "1000", "additionalGids": [0]}
    assert "windows" not in await generate_spec(SpecContext(platform="linux/amd64", host="linux"))
    assert "linux" not in await generate_spec(SpecContext(platform="windows/amd64", host="windows"))
    spec = await generate_spec(context, oci.with_default_spec_for_platform("windows"))
    assert spec.keys() == {"ociVersion", "process", "root", "windows"}


@pytest.mark.parametrize(
    ("config", "args", "expected"),
    [
        ({"Cmd": ["a.exe", "x y"]}, (), ["a.exe", "x y"]),
        ({"Entrypoint": ["a.exe"], "Cmd": ["x"]}, ("y z",), ["a.exe", "y z"]),
        ({"Entrypoint": ["a.exe /b c"], "Cmd": ["x"], "ArgsEscaped": True}, ("y z",), 'a.exe /b c "y z"'),
        ({"Cmd": ["a.exe /b c"], "ArgsEscaped": True}, (), "a.exe /b c"),
        ({"Cmd": ["a.exe /b c"], "ArgsEscaped": True}, ("cmd", "/c", "x y"), ["cmd", "/c", "x y"]),
        (
            {"Entrypoint": ["a.exe"], "ArgsEscaped": True},
            ("", 'say "hi"', "c:\\x y\\", "c:\\xy\\"),
            'a.exe "" "say \\"hi\\"" "c:\\x y\\\\" c:\\xy\\',
        ),
    ],
)
async def test_the_config_of_a_windows_image(
    config: dict[str, Any], args: Sequence[str], expected: str | list[str]
) -> None:
    blob = {"os": "windows", "config": {"Env": ["A=1"], "User": "Jo", "WorkingDir": "C:\\srv", **config}}
    spec = await generate_spec(SpecContext(platform="windows"), oci.with_image_config_args(args, blob))
    process = spec["process"]
    assert process.get("args" if isinstance(expected, list) else "commandLine") == expected
    assert {"args", "commandLine"} & process.keys() == {
        "args" if isinstance(expected, list) else "commandLine"
    }
    assert process["env"] == ["A=1"]
    assert process["cwd"] == "C:\\srv"
    assert process["user"] == {"uid": 0, "gid": 0, "username": "Jo"}


async def test_a_windows_image_without_arguments() -> None:
    with pytest.raises(InvalidArgument, match="neither Entrypoint nor Cmd"):
        await generate_spec(SpecContext(platform="windows"), oci.with_image_config({"config": {}}))


# -- AppArmor -------------------------------------------------------------------------------------------------

BARE = apparmor.Machine(abi=False, tunables=False, base=False)
FULL = apparmor.Machine(abi=True, tunables=True, base=True, rootlesskit="/bin/rootlesskit")


@pytest.mark.parametrize(("machine", "file"), [(BARE, "apparmor-bare.txt"), (FULL, "apparmor-full.txt")])
def test_the_apparmor_profile_is_gos(machine: apparmor.Machine, file: str) -> None:
    assert oci.dump_default_apparmor_profile("mine", machine=machine) == (FOLDER / file).read_text()


@pytest.mark.parametrize("name", ["", "a b", "x{", "../x", "a\n"])
def test_the_name_of_a_profile_is_one_word(name: str) -> None:
    with pytest.raises(InvalidArgument, match="the name of the profile is"):
        oci.with_default_apparmor_profile(name)


async def test_a_profile_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, seen = tmp_path / "profiles", tmp_path / "seen"
    loaded.write_text("other (enforce)\nmine-too (enforce)\n")
    parser = tmp_path / "apparmor_parser"
    parser.write_text(f'#!/bin/sh\n[ "$1" = -Kr ] && cat "$2" >{seen}\n')
    parser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(apparmor, "_LOADED", loaded)
    spec = await generate_spec(SpecContext(), oci.with_default_apparmor_profile("mine"))
    assert spec["process"]["apparmorProfile"] == "mine"
    assert await anyio.Path(seen).read_text() == oci.dump_default_apparmor_profile("mine")
    seen.unlink()
    await oci.load_default_apparmor_profile("mine-too")
    assert not seen.exists()
    parser.write_text("#!/bin/sh\necho no such thing >&2; exit 1\n")
    with pytest.raises(FailedPrecondition, match="apparmor_parser refused profile 'mine': no such thing"):
        await oci.load_default_apparmor_profile("mine")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(FailedPrecondition, match="there is no apparmor_parser"):
        await oci.load_default_apparmor_profile("mine")


async def test_a_kernel_without_apparmor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "_LOADED", tmp_path / "profiles")
    with pytest.raises(FailedPrecondition, match="AppArmor profiles can't be listed"):
        await generate_spec(SpecContext(), oci.with_default_apparmor_profile("mine"))


# -- GPUs -----------------------------------------------------------------------------------------------------


async def test_older_releases_have_a_prestart_hook(programs: str) -> None:
    spec = await generate_spec(SpecContext(version="1.7.24"), oci.with_gpus([0]))
    assert [hook["path"] for hook in spec["hooks"]["prestart"]] == [f"{programs}/containerd"]


async def test_gpus_need_nvidias_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="containerd is not in PATH"):
        await generate_spec(SpecContext(), oci.with_gpus("all"))
    with pytest.raises(NotFound, match="nvidia-container-cli is not in PATH"):
        await generate_spec(SpecContext(), oci.with_gpus("all", hook_path="/bin/containerd"))


# -- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "args", "words"),
    [
        (oci.with_gpus, ("0",), "devices is '0'; give a list"),
        (oci.with_gpus, ([-1],), "device is -1"),
        (oci.with_windows_cpu_shares, (65536,), "shares is 65536"),
        (oci.with_windows_cpu_count, (-1,), "count is -1"),
        (oci.with_windows_cpu_maximum, ("1",), "maximum must be an integer"),
        (oci.with_windows_device, ("", "x"), "id_type is empty"),
        (oci.with_windows_network_namespace, (None,), "namespace must be a string"),
        (oci.with_process_command_line, ("",), "command_line is empty"),
        (oci.with_cdi_devices, (1,), r"devices\[0\] must be a string"),
    ],
)
def test_refused_when_made(option: Callable[..., SpecOpt], args: Sequence[Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        option(*args)
