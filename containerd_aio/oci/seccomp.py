"""containerd's default seccomp profile: what the Go client of a release gives for the same capabilities and processor.

Source: ``contrib/seccomp/seccomp_default.go`` of containerd 1.6 to 2.3. Everything is denied with EPERM but what the
tables of `containerd_aio.oci._syscalls` allow. A profile filters; it never grants what the capabilities don't.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci import _syscalls as data
from containerd_aio.oci.defaults import version_number
from containerd_aio.oci.encoding import to_json
from containerd_aio.oci.types import (
    LinuxSeccomp,
    LinuxSeccompArg,
    LinuxSeccompOperator,
    LinuxSyscall,
)

#: Linux from which ptrace(2) can't get around a filter.
_SAFE_PTRACE = (4, 8)
#: clone(2) with any of these makes a namespace: CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID and NET (sched.h).
_NEW_NAMESPACES = 0x7E020000
_AF_ALG, _AF_VSOCK = 38, 40
_ENOSYS = 38
#: MIPS numbers its errors in its own way.
_ENOSYS_MIPS = 89
_MACHINES = {
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "loongarch64": "loong64",
}


def host_arch() -> str:
    """Return this machine's processor in Go's words, such as ``amd64`` or ``arm64``."""
    machine = os.uname().machine
    if machine.startswith("mips64") and sys.byteorder == "little":
        return "mips64le"
    return go_arch(machine)


def go_arch(machine: str) -> str:
    """Return Go's name of a processor that may bear the kernel's, such as ``x86_64``."""
    return "arm" if machine.startswith("armv") else _MACHINES.get(machine, machine)


def ptrace_is_safe(release: str | None = None) -> bool:
    """Return whether ptrace(2) can't circumvent a filter: since Linux 4.8.

    Args:
        release: The kernel's version, as ``uname -r`` tells it. None means this machine's.
    """
    match = re.match(r"(\d+)\.(\d+)", os.uname().release if release is None else release)
    return match is not None and (int(match[1]), int(match[2])) >= _SAFE_PTRACE


def default_seccomp_profile(
    capabilities: Iterable[str],
    *,
    arch: str | None = None,
    version: str | None = None,
    allow_ptrace: bool | None = None,
) -> LinuxSeccomp:
    """Return containerd's default filter for a bounding set (Go: seccomp.DefaultProfile).

    Args:
        capabilities: The container's bounding set, such as ``["CAP_SYS_PTRACE"]``; their order decides the order of the
            rules, not what they allow.
        arch: The processor in Go's words, such as ``amd64``. None means this machine's. One without a table of its own
            gets the calls that all have, and no list of architectures.
        version: containerd's version, which decides what newer releases allow or no longer do; None means 2.1. Older
            ones than 1.6.16 count as 1.6.16.
        allow_ptrace: Allow ptrace(2) without CAP_SYS_PTRACE. None means: as `ptrace_is_safe` says of this machine.
    """
    number = version_number(version)
    arch = host_arch() if arch is None else arch
    held = list(capabilities)
    rules = [_allow(_always(number)), *_sockets(number)]
    rules += [_allow(["personality"], (0, value, "SCMP_CMP_EQ")) for value in data.PERSONALITIES]
    if ptrace_is_safe() if allow_ptrace is None else allow_ptrace:
        rules.append(
            _allow(["process_vm_readv", "process_vm_writev", "ptrace"] if number >= (1, 7) else ["ptrace"])
        )
    if arch in data.OF_ARCHITECTURE:
        calls = list(data.OF_ARCHITECTURE[arch])
        rules.append(_allow([*calls, "riscv_hwprobe"] if arch == "riscv64" and number >= (2, 2) else calls))
    rules += [_allow(_of_capability(name, number)) for name in held if name in data.OF_CAPABILITY]
    if "CAP_SYS_ADMIN" not in held:
        rules += _no_namespaces(arch)
    profile: LinuxSeccomp = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
    if arch in data.ARCHITECTURES and (arch != "loong64" or number >= (2, 1)):
        profile["architectures"] = list(data.ARCHITECTURES[arch])
    return profile


def _since(table: dict[tuple[int, int], int], number: tuple[int, ...]) -> bool:
    """Whether a release has what the first patch releases of some lines brought."""
    line, patch = (number[0], number[1]), number[2]
    return patch >= table[line] if line in table else line > min(table)


def _always(number: tuple[int, ...]) -> list[str]:
    missing: set[str] = set()
    for table, names in data.ADDED:
        if not _since(table, number):
            missing |= names
    for table, names in data.REMOVED:
        if _since(table, number):
            missing |= names
    return [name for name in data.ALWAYS if name not in missing]


def _of_capability(name: str, number: tuple[int, ...]) -> list[str]:
    calls = list(data.OF_CAPABILITY[name])
    if name == "CAP_SYS_ADMIN" and "name_to_handle_at" in _always(number):
        calls.remove("name_to_handle_at")  # nobody needs the capability for it any longer
    if name == "CAP_SYS_NICE" and not _since({(1, 6): 28, (1, 7): 13}, number):
        calls.remove("set_mempolicy_home_node")
    return calls


def _sockets(number: tuple[int, ...]) -> list[LinuxSyscall]:
    """Address families: no AF_VSOCK since 1.7, no AF_ALG in the newest of each line (2.1 ended before)."""
    if number < (1, 7):
        return []
    never = sys.maxsize
    if not _since({(1, 7): 32, (2, 0): 9, (2, 1): never, (2, 2): 4, (2, 3): 1}, number):
        return [_allow(["socket"], (0, _AF_VSOCK, "SCMP_CMP_NE"))]
    # Single conditions, each a rule: several of one index in a rule would be alternatives to libseccomp.
    return [
        _allow(["socket"], (0, _AF_ALG, "SCMP_CMP_LT")),
        _allow(["socket"], (0, _AF_ALG + 1, "SCMP_CMP_EQ")),
        _allow(["socket"], (0, _AF_VSOCK, "SCMP_CMP_GT")),
    ]


def _no_namespaces(arch: str) -> list[LinuxSyscall]:
    # s390 has the flags of clone(2) second. clone3(2) can't be filtered by flags: ENOSYS has libc use clone(2).
    flags = 1 if arch == "s390x" else 0
    enosys = _ENOSYS_MIPS if arch.startswith("mips") else _ENOSYS
    return [
        _allow(["clone"], (flags, _NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ")),
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": enosys},
    ]


def _allow(names: list[str], *args: tuple[int, int, LinuxSeccompOperator]) -> LinuxSyscall:
    rule: LinuxSyscall = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if args:
        rule["args"] = [{"index": index, "value": value, "op": operator} for index, value, operator in args]
    return rule


def parse_profile(content: bytes, name: str) -> LinuxSeccomp:
    """Return the profile of a JSON file in the form of the OCI runtime specification.

    Fields that are not known are dropped, as in Go; those by which Docker's form makes rules conditional are refused,
    for without them the rules would hold for everybody.

    Raises:
        InvalidArgument: It is not such a file.
    """
    import json

    try:
        parsed: Any = json.loads(content)
        to_json(parsed, kind=LinuxSeccomp)
    except (ValueError, InvalidArgument) as exc:
        raise InvalidArgument(f"seccomp profile {name} can't be used: {exc}") from exc
    foreign = {"archMap"} & parsed.keys()
    for rule in parsed.get("syscalls") or ():
        foreign |= {"includes", "excludes", "name"} & rule.keys()
    if foreign:
        raise InvalidArgument(
            f"seccomp profile {name} has {', '.join(sorted(foreign))}: this is Docker's form, which depends on the "
            "container; give one in the form of the OCI runtime specification"
        )
    profile = _known(parsed, LinuxSeccomp)
    if "syscalls" in profile:
        profile["syscalls"] = [_known(rule, LinuxSyscall) for rule in profile["syscalls"] or ()]
        for rule in profile["syscalls"]:
            if "args" in rule:
                rule["args"] = [_known(arg, LinuxSeccompArg) for arg in rule["args"] or ()]
    return cast("LinuxSeccomp", profile)


def _known(value: dict[str, Any], kind: Any) -> dict[str, Any]:
    return {key: value[key] for key in kind.__annotations__ if key in value}


def read_profile(path: str | os.PathLike[str]) -> LinuxSeccomp:
    """Read a profile as `parse_profile` does.

    Raises:
        NotFound: There is no such file.
        InvalidArgument: It can't be read, or used.
    """
    name = os.fspath(path)
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no seccomp profile {name}") from None
    except OSError as exc:
        raise InvalidArgument(f"seccomp profile {name} can't be read: {exc.strerror}") from exc
    return parse_profile(content, name)
