"""The bridged interface of a command, made by real CNI plugins: bridge and static."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from containerd_aio.cni import Network
from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from containerd_aio.execdriver.types import Network as Wanted
    from containerd_aio.execdriver.types import NetworkInterface

DEFAULT_BRIDGE = "docker0"


def cni_network(wanted: Wanted, **places: Any) -> Network | None:
    """Return the CNI network that makes the interface of a command; None if it has none of its own.

    Args:
        wanted: Its network.
        places: ``plugin_dirs`` and ``cache_dir`` of `cni.Network`.

    Raises:
        InvalidArgument: An address can't be used.
    """
    interface = wanted.interface
    if interface is None or wanted.host_networking or wanted.container_id:
        return None
    bridge = interface.bridge or DEFAULT_BRIDGE
    address: dict[str, Any] = {"address": str(_address(interface))}
    ipam: dict[str, Any] = {"type": "static", "addresses": [address]}
    if interface.gateway:
        address["gateway"] = str(_ip(interface.gateway, "gateway"))
        ipam["routes"] = [{"dst": "0.0.0.0/0" if ":" not in interface.gateway else "::/0"}]
    plugin: dict[str, Any] = {
        "type": "bridge",
        "bridge": bridge,
        "isGateway": bool(interface.gateway),
        "capabilities": {"mac": True},
        "ipam": ipam,
    }
    if wanted.mtu:
        plugin["mtu"] = wanted.mtu
    return Network(name=f"execdriver-{bridge}", plugins=[plugin], cni_version="0.4.0", **places)


def capabilities(interface: NetworkInterface) -> dict[str, Any]:
    """Return what the plugins are told beside their configuration."""
    return {"mac": interface.mac_address} if interface.mac_address else {}


def _address(interface: NetworkInterface) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    ip = _ip(interface.ip_address, "ip")
    if not 0 < interface.ip_prefix_len <= ip.max_prefixlen:
        raise InvalidArgument(
            f"ip_prefix_len is {interface.ip_prefix_len}; it must be from 1 to {ip.max_prefixlen}"
        )
    return ipaddress.ip_interface(f"{ip}/{interface.ip_prefix_len}")


def _ip(text: str, name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"the {name} of the network interface is {text!r}, not an address") from None
