"""The option for NVIDIA GPUs by the hook of containerd (``contrib/nvidia``). Where CDI files exist, prefer those."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal, get_args

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci import _check as check
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.defaults import version_number
from containerd_aio.oci.types import Hook, Spec

GPUCapability = Literal["compute", "compat32", "graphics", "utility", "video", "display"]
#: Go: nvidia.AllCaps.
GPU_CAPABILITIES: tuple[GPUCapability, ...] = get_args(GPUCapability)
_CLI = "nvidia-container-cli"


def with_gpus(
    devices: Iterable[int | str] | Literal["all"] = (),
    *,
    capabilities: Iterable[GPUCapability] | Literal["all"] = (),
    cuda: tuple[int, int] | None = None,
    hook_path: str | None = None,
    no_cgroups: bool = False,
) -> SpecOpt:
    """Give the container NVIDIA GPUs: a hook that runs ``nvidia-container-cli`` (Go: nvidia.WithGPUs).

    The hook is ``containerd oci-hook``, which must be on the host, with the environment of this process. It is a
    ``createRuntime`` hook, or a ``prestart`` hook for containerd 1.x.

    Args:
        devices: Indexes and UUIDs, or ``"all"`` (Go: WithDevices, WithDeviceUUIDs, WithAllDevices).
        capabilities: What of the driver to give, or ``"all"`` (Go: WithCapabilities, WithAllCapabilities).
        cuda: The least version of CUDA, such as ``(12, 4)`` (Go: WithRequiredCUDAVersion).
        hook_path: The containerd program; None looks in PATH when applied (Go: WithOCIHookPath, WithLookupOCIHookPath).
        no_cgroups: Leave the device cgroup alone (Go: WithNoCgroups).

    Raises:
        InvalidArgument: A device or a capability is not one.
        NotFound: When applied: ``nvidia-container-cli``, or containerd, is not in PATH.
    """
    arguments = ["configure", *_devices(devices)]
    wanted = GPU_CAPABILITIES if capabilities == "all" else check.texts("capabilities", capabilities)
    arguments += [f"--{check.one_of('capability', name, GPU_CAPABILITIES)}" for name in wanted]
    if cuda is not None:
        major, minor = (check.integer("cuda", part) for part in cuda)
        arguments.append(f"--require=cuda>={major}.{minor}")
    if no_cgroups:
        arguments.append("--no-cgroups")
    arguments += ["--pid={{pid}}", "{{rootfs}}"]

    def opt(context: SpecContext, spec: Spec) -> None:
        hook: Hook = {
            "path": hook_path or _found("containerd"),
            "args": ["containerd", "oci-hook", "--", _found(_CLI), "--load-kmods", *arguments],
            "env": [f"{name}={value}" for name, value in os.environ.items()],
        }
        hooks = spec.setdefault("hooks", {})
        if version_number(context.version) < (2,):
            hooks.setdefault("prestart", []).append(hook)
        else:
            hooks.setdefault("createRuntime", []).append(hook)

    return opt


def _devices(devices: Iterable[int | str] | Literal["all"]) -> list[str]:
    if devices == "all":
        return ["--device=all"]
    if isinstance(devices, str):
        raise InvalidArgument(f"devices is {devices!r}; give a list such as [0, 'GPU-…'], or 'all'")
    given = [
        check.text("device", each, empty=False)
        if isinstance(each, str)
        else str(check.integer("device", each))
        for each in devices
    ]
    return [f"--device={','.join(given)}"] if given else []


def _found(program: str) -> str:
    import shutil

    path = shutil.which(program)
    if path is None:
        raise NotFound(f"{program} is not in PATH; GPUs can't be given to a container without it")
    return path
