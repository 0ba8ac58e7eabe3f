"""The default seccomp profile equals the Go client's, for ten releases, nine processors and five bounding sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from containerd_aio import oci
from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci import SpecContext, default_seccomp_profile, generate_spec, to_json
from containerd_aio.oci.seccomp import go_arch, host_arch, ptrace_is_safe
from containerd_aio.oci.types import LinuxSeccomp

DATA = json.loads((Path(__file__).parent / "data" / "oci" / "seccomp.json").read_text())
EACH = [
    "CAP_DAC_READ_SEARCH", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_BPF", "CAP_PERFMON",
]  # fmt: skip
BOUNDING = {
    "none": [],
    "admin": ["CAP_SYS_ADMIN"],
    "each": EACH,
    "all": [*EACH[:0:-1][:11], "CAP_SYS_BOOT", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"],
    "default": [
        "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
        "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("version", "arch"), [(version, arch) for version, archs in DATA["profiles"].items() for arch in archs]
)
def test_the_profile_is_gos(version: str, arch: str) -> None:
    for case, (fields, rules) in DATA["profiles"][version][arch].items():
        wanted = f'{fields[:-1]},"syscalls":[{",".join(DATA["rules"][number] for number in rules)}]}}'
        profile = default_seccomp_profile(BOUNDING[case], arch=arch, version=version, allow_ptrace=True)
        assert to_json(profile, kind=LinuxSeccomp).decode() == wanted, case


def test_every_bounding_set_of_the_data_is_compared() -> None:
    assert {case for archs in DATA["profiles"].values() for cases in archs.values() for case in cases} == set(
        BOUNDING
    )


def _allowed(profile: LinuxSeccomp) -> set[str]:
    return {
        name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }


def test_ptrace_depends_on_the_kernel() -> None:
    assert [ptrace_is_safe(release) for release in ("4.7.10", "4.8.0-rc1", "6.1", "2.6.32", "?")] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert "ptrace" not in _allowed(default_seccomp_profile([], allow_ptrace=False))
    assert "ptrace" in _allowed(default_seccomp_profile(["CAP_SYS_PTRACE"], allow_ptrace=False))
    assert ("ptrace" in _allowed(default_seccomp_profile([]))) is ptrace_is_safe()


def test_processors_have_gos_names() -> None:
    assert [go_arch(name) for name in ("x86_64", "aarch64", "i686", "armv7l", "riscv64", "amd64")] == [
        "amd64",
        "arm64",
        "386",
        "arm",
        "riscv64",
        "amd64",
    ]
    assert SpecContext().arch == SpecContext(platform="linux").arch == host_arch()
    assert SpecContext(platform="linux/arm64/v8").arch == "arm64"


async def test_the_option_looks_at_the_spec_and_the_context() -> None:
    context = SpecContext(platform="linux/s390x", version="1.6.20")
    few = await generate_spec(context, oci.with_default_seccomp_profile())
    more = await generate_spec(
        context, oci.with_added_capabilities(["CAP_SYS_ADMIN"]), oci.with_default_seccomp_profile()
    )
    assert few["linux"]["seccomp"].get("architectures") == ["SCMP_ARCH_S390", "SCMP_ARCH_S390X"]
    assert "mount" not in _allowed(few["linux"]["seccomp"])
    assert "mount" in _allowed(more["linux"]["seccomp"])
    assert "io_uring_setup" in _allowed(few["linux"]["seccomp"])
    newer = await generate_spec(SpecContext(version="2.1.9"), oci.with_default_seccomp_profile())
    assert "io_uring_setup" not in _allowed(newer["linux"]["seccomp"])


async def test_a_profile_given_as_data_is_checked_and_copied() -> None:
    profile: LinuxSeccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    opt = oci.with_seccomp_profile(profile)
    profile["syscalls"].append({"names": ["read"], "action": "SCMP_ACT_KILL"})
    spec = await generate_spec(SpecContext(), opt)
    assert spec["linux"]["seccomp"] == {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    with pytest.raises(InvalidArgument, match=r"LinuxSeccomp\.syscalls must be a list"):
        oci.with_seccomp_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": "read"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must be an object"),
        ("{", "can't be used"),
        ('{"defaultAction": 1}', r"LinuxSeccomp\.defaultAction must be a string"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "archMap": []}', "has archMap: this is Docker's form"),
        (
            '{"syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}}]}',
            "has includes: this is Docker's form",
        ),
    ],
)
async def test_what_is_no_profile_is_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(content)
    with pytest.raises(InvalidArgument, match=words):
        await generate_spec(SpecContext(), oci.with_seccomp_profile(file))


async def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no seccomp profile"):
        await generate_spec(SpecContext(), oci.with_seccomp_profile(tmp_path / "nope"))
    with pytest.raises(InvalidArgument, match="can't be read: Is a directory"):
        await generate_spec(SpecContext(), oci.with_seccomp_profile(tmp_path))
