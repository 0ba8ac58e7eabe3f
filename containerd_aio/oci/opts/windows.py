"""Options for the ``windows`` section: Windows containers, and Linux ones in a utility VM of a Windows host.

They are data here: nothing of Windows is needed to make such a spec, and containerd on Windows takes it as it is.
"""

from __future__ import annotations

from containerd_aio.oci import _check as check
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.types import Spec, Windows, WindowsCPUResources, WindowsNetwork

_MAX_UINT16 = 2**16 - 1


def _windows(spec: Spec) -> Windows:
    return spec.setdefault("windows", {})


def _cpu(spec: Spec) -> WindowsCPUResources:
    return spec["windows"].setdefault("resources", {}).setdefault("cpu", {})


def _network(spec: Spec) -> WindowsNetwork:
    return _windows(spec).setdefault("network", {})


def with_windows_hyperv() -> SpecOpt:
    """Isolate the container by Hyper-V (Go: WithWindowsHyperV)."""

    def opt(_: SpecContext, spec: Spec) -> None:
        _windows(spec).setdefault("hyperv", {})

    return opt


def with_windows_cpu_count(count: int) -> SpecOpt:
    """Set how many CPUs there are, if the spec has a windows section (Go: WithWindowsCPUCount).

    Raises:
        InvalidArgument: Below 0.
    """
    check.integer("count", count, most=check.MAX_UINT64, unit="CPUs")

    def opt(_: SpecContext, spec: Spec) -> None:
        if "windows" in spec:
            _cpu(spec)["count"] = count

    return opt


def with_windows_cpu_shares(shares: int) -> SpecOpt:
    """Set the relative weight, if the spec has a windows section (Go: WithWindowsCPUShares).

    Args:
        shares: From 1 to 10000; 0 leaves the platform's default.

    Raises:
        InvalidArgument: Outside 0 to 65535, which is what the field holds.
    """
    check.integer("shares", shares, most=_MAX_UINT16)

    def opt(_: SpecContext, spec: Spec) -> None:
        if "windows" in spec:
            _cpu(spec)["shares"] = shares

    return opt


def with_windows_cpu_maximum(maximum: int) -> SpecOpt:
    """Limit CPU time, if the spec has a windows section (Go: WithWindowsCPUMaximum).

    Args:
        maximum: In 1/100 percent of the host's, so from 1 to 10000.

    Raises:
        InvalidArgument: Outside 0 to 65535, which is what the field holds.
    """
    check.integer("maximum", maximum, most=_MAX_UINT16, unit="1/100 percent")

    def opt(_: SpecContext, spec: Spec) -> None:
        if "windows" in spec:
            _cpu(spec)["maximum"] = maximum

    return opt


def with_windows_ignore_flushes_during_boot() -> SpecOpt:
    """Don't wait for flushes to disk while the container boots (Go: WithWindowsIgnoreFlushesDuringBoot)."""

    def opt(_: SpecContext, spec: Spec) -> None:
        _windows(spec)["ignoreFlushesDuringBoot"] = True

    return opt


def with_window_networks_allow_unqualified_dns_query() -> SpecOpt:
    """Let the container ask for names without a domain (Go: WithWindowNetworksAllowUnqualifiedDNSQuery, with that name)."""

    def opt(_: SpecContext, spec: Spec) -> None:
        _network(spec)["allowUnqualifiedDNSQuery"] = True

    return opt


def with_windows_network_namespace(namespace: str) -> SpecOpt:
    """Join a network namespace by its id (Go: WithWindowsNetworkNamespace).

    Raises:
        InvalidArgument: Not a string.
    """
    check.text("namespace", namespace)

    def opt(_: SpecContext, spec: Spec) -> None:
        _network(spec)["networkNamespace"] = namespace

    return opt


def with_windows_device(id_type: str, device_id: str) -> SpecOpt:
    """Add a device of the host (Go: WithWindowsDevice).

    Args:
        id_type: What the id is, such as ``class`` or ``vpci-location-path``.
        device_id: Such as the GUID of an interface class.

    Raises:
        InvalidArgument: The type is empty.
    """
    check.text("id_type", id_type, empty=False)
    check.text("device_id", device_id)

    def opt(_: SpecContext, spec: Spec) -> None:
        _windows(spec).setdefault("devices", []).append({"id": device_id, "idType": id_type})

    return opt
