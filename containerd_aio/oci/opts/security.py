"""Options for labels, profiles, hidden paths, and the privileged container."""

from __future__ import annotations

from collections.abc import Iterable

from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import linux, process
from containerd_aio.oci.apparmor import dump_default_apparmor_profile, load_default_apparmor_profile
from containerd_aio.oci.context import SpecContext, SpecOpt, compose
from containerd_aio.oci.opts.capabilities import with_all_current_capabilities
from containerd_aio.oci.opts.mounts import with_writeable_cgroupfs, with_writeable_sysfs
from containerd_aio.oci.opts.seccomp import with_seccomp_unconfined
from containerd_aio.oci.types import Spec


def with_selinux_label(label: str) -> SpecOpt:
    """Run the process under an SELinux label; empty means none (Go: WithSelinuxLabel).

    Raises:
        InvalidArgument: Not a string.
    """
    check.text("label", label)

    def opt(_: SpecContext, spec: Spec) -> None:
        process(spec)["selinuxLabel"] = label

    return opt


def with_apparmor_profile(profile: str) -> SpecOpt:
    """Run the process under an AppArmor profile that is loaded; empty means none (Go: WithApparmorProfile).

    Raises:
        InvalidArgument: Not a string.
    """
    check.text("profile", profile)

    def opt(_: SpecContext, spec: Spec) -> None:
        process(spec)["apparmorProfile"] = profile

    return opt


def with_default_apparmor_profile(name: str) -> SpecOpt:
    """Run the process under containerd's default AppArmor profile, loading it if need be.

    Go: apparmor.WithDefaultProfile. It is loaded into the kernel of this machine, so containerd must be on it.

    Args:
        name: What the profile shall be called; one of that name that is loaded is used as it is.

    Raises:
        InvalidArgument: The name is not a word.
        FailedPrecondition: When applied: the kernel has no AppArmor, or the profile can't be loaded.
    """
    dump_default_apparmor_profile(name)

    async def opt(_: SpecContext, spec: Spec) -> None:
        await load_default_apparmor_profile(name)
        process(spec)["apparmorProfile"] = name

    return opt


def _paths(what: str, paths: Iterable[str]) -> list[str]:
    return [check.absolute(f"{what}[{at}]", path) for at, path in enumerate(check.texts(what, paths))]


def with_masked_paths(paths: Iterable[str]) -> SpecOpt:
    """Set the paths hidden from the container, instead of those the spec has; empty hides none (Go: WithMaskedPaths).

    Raises:
        InvalidArgument: A path is not absolute.
    """
    given = _paths("masked paths", paths)

    def opt(_: SpecContext, spec: Spec) -> None:
        linux(spec)["maskedPaths"] = list(given)

    return opt


def with_readonly_paths(paths: Iterable[str]) -> SpecOpt:
    """Set the paths made read-only, instead of those the spec has; empty means none (Go: WithReadonlyPaths).

    Raises:
        InvalidArgument: A path is not absolute.
    """
    given = _paths("read-only paths", paths)

    def opt(_: SpecContext, spec: Spec) -> None:
        linux(spec)["readonlyPaths"] = list(given)

    return opt


def with_privileged() -> SpecOpt:
    """Take the confinement away, all but devices (Go: WithPrivileged).

    This process's own capabilities, no hidden or read-only paths, sysfs and cgroups writeable, no label, profile or
    filter. For devices as well, add `with_all_devices_allowed` and `with_host_devices`, as ``ctr run --privileged`` does.
    """
    return compose(
        with_all_current_capabilities(),
        with_masked_paths(()),
        with_readonly_paths(()),
        with_writeable_sysfs(),
        with_writeable_cgroupfs(),
        with_selinux_label(""),
        with_apparmor_profile(""),
        with_seccomp_unconfined(),
    )
