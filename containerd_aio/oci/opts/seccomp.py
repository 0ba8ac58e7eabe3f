"""Options for the seccomp filter."""

from __future__ import annotations

import os
from copy import deepcopy

import anyio.to_thread

from containerd_aio.oci import seccomp
from containerd_aio.oci._sections import linux
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.types import LinuxSeccomp, Spec


def with_seccomp_profile(profile: str | os.PathLike[str] | LinuxSeccomp) -> SpecOpt:
    """Filter system calls by a profile (Go: seccomp.WithProfile).

    Args:
        profile: A JSON file in the form of the OCI runtime specification, read when the option is applied; or the
            profile itself.

    Raises:
        NotFound: When applied: there is no such file.
        InvalidArgument: It is not such a profile; of a file, when applied.
    """
    if isinstance(profile, dict):
        from containerd_aio.oci.encoding import to_json

        to_json(profile, kind=LinuxSeccomp)
        given = deepcopy(profile)

    async def opt(_: SpecContext, spec: Spec) -> None:
        if isinstance(profile, dict):
            linux(spec)["seccomp"] = deepcopy(given)
        else:
            read = await anyio.to_thread.run_sync(seccomp.read_profile, profile)
            linux(spec)["seccomp"] = read

    return opt


def with_seccomp_unconfined() -> SpecOpt:
    """Remove the seccomp filter (Go: WithSeccompUnconfined)."""

    def opt(_: SpecContext, spec: Spec) -> None:
        linux(spec).pop("seccomp", None)

    return opt


def with_default_seccomp_profile() -> SpecOpt:
    """Filter system calls by containerd's default profile (Go: seccomp.WithDefaultProfile).

    It depends on the bounding set the spec has when the option is applied, so it goes after those that change
    capabilities; on the architecture of the context's platform, or this machine's; on the context's containerd version.
    """

    def opt(context: SpecContext, spec: Spec) -> None:
        held = spec.get("process", {}).get("capabilities", {}).get("bounding", ())
        linux(spec)["seccomp"] = seccomp.default_seccomp_profile(
            held, arch=context.arch, version=context.version
        )

    return opt
