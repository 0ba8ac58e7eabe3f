"""containerd's default AppArmor profile (``contrib/apparmor``): its text, and loading it into the kernel.

The text is that of 2.x, which AppArmor 3 and 4 read. What it includes depends on what this machine has installed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from containerd_aio.errors import FailedPrecondition, InvalidArgument

_MACROS = Path("/etc/apparmor.d")
_LOADED = Path("/sys/kernel/security/apparmor/profiles")
_CURRENT = Path("/proc/self/attr/current")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

_PROFILE = """
{abi}
{imports}

profile {name} flags=(attach_disconnected,mediate_deleted) {{
{inner}
  network,
  capability,
  file,
  umount,
  # Host (privileged) processes may send signals to container processes.
  signal (receive) peer=unconfined,
  # runc may send signals to container processes.
  signal (receive) peer=runc,
  # crun may send signals to container processes.
  signal (receive) peer=crun,
  # Manager may send signals to container processes.
  signal (receive) peer={daemon},
  # Container processes may send signals amongst themselves.
  signal (send,receive) peer={name},
{rootless}

  deny @{{PROC}}/* w,   # deny write for all files directly in /proc (not in a subdir)
  # deny write to files not in /proc/<number>/** or /proc/sys/**
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,  # deny /proc/sys except /proc/sys/k* (effectively /proc/sys/kernel)
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,  # deny everything except shm* in /proc/sys/kernel/
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/mem rwklx,
  deny @{{PROC}}/kmem rwklx,
  deny @{{PROC}}/kcore rwklx,

  deny mount,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

  # allow processes within the container to trace each other,
  # provided all other LSM and yama setting allow it.
  ptrace (trace,tracedby,read,readby) peer={name},
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the text depends on.

    Attributes:
        abi: Whether ``abi/3.0`` is installed.
        tunables: Whether ``tunables/global`` is.
        base: Whether ``abstractions/base`` is.
        daemon_profile: The profile this process runs under.
        rootlesskit: Path of the RootlessKit program, if there is one.
    """

    abi: bool
    tunables: bool
    base: bool
    daemon_profile: str = "unconfined"
    rootlesskit: str = ""


def this_machine() -> Machine:
    """Look at this machine."""
    import shutil

    try:
        current = _CURRENT.read_text().partition(" ")[0].strip()
    except OSError:
        current = ""  # no AppArmor here, which is to be unconfined
    return Machine(
        abi=(_MACROS / "abi/3.0").exists(),
        tunables=(_MACROS / "tunables/global").exists(),
        base=(_MACROS / "abstractions/base").exists(),
        daemon_profile=current or "unconfined",
        rootlesskit=shutil.which("rootlesskit") or "",
    )


def dump_default_apparmor_profile(name: str, *, machine: Machine | None = None) -> str:
    """Return the text of the default profile (Go: apparmor.DumpDefaultProfile).

    Args:
        name: What the profile is called.
        machine: What is installed; None looks at this machine.

    Raises:
        InvalidArgument: The name would not be one word of the profile.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"the name of the profile is {name!r}; use letters, digits and '_.+-', such as 'my-service'"
        )
    of = this_machine() if machine is None else machine
    imports = "#include <tunables/global>" if of.tunables else "@{PROC}=/proc/"
    rootless = (
        "\n  # https://github.com/containerd/nerdctl/issues/2730\n"
        f"  signal (receive) peer={of.rootlesskit},\n"
    )
    return _PROFILE.format(
        name=name,
        abi="abi <abi/3.0>,\n" if of.abi else "",
        imports=f"\n{imports}\n",
        inner="\n  #include <abstractions/base>\n\n" if of.base else "\n",
        daemon=of.daemon_profile,
        rootless=rootless if of.rootlesskit else "",
    )


async def load_default_apparmor_profile(name: str) -> None:
    """Load the default profile into the kernel, unless one of that name is loaded (Go: apparmor.LoadDefaultProfile).

    It needs root and the ``apparmor_parser`` program, and stays loaded after this process.

    Raises:
        InvalidArgument: The name would not be one word of the profile.
        FailedPrecondition: The kernel has no AppArmor, or the parser is missing or refused.
    """
    import tempfile

    text = dump_default_apparmor_profile(name)
    try:
        loaded = (await anyio.to_thread.run_sync(_LOADED.read_text)).splitlines()
    except OSError as exc:
        raise FailedPrecondition(
            f"AppArmor profiles can't be listed ({exc.strerror}: {_LOADED}); the kernel has no AppArmor, or this process "
            "may not see it: leave the profile out, or run as root on a host with AppArmor"
        ) from exc
    if any(line.startswith(f"{name} ") for line in loaded):
        return
    with tempfile.NamedTemporaryFile("w", prefix=name) as file:
        file.write(text)
        file.flush()
        try:
            done = await anyio.run_process(["apparmor_parser", "-Kr", file.name], check=False)
        except FileNotFoundError:
            raise FailedPrecondition(
                f"profile {name!r} can't be loaded: there is no apparmor_parser; install the package apparmor"
            ) from None
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise FailedPrecondition(f"apparmor_parser refused profile {name!r}: {said}")
