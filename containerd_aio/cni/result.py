"""What is asked of a network beyond an address, and what its plugins answer."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from containerd_aio.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """A port of the host that leads to the container. The list needs a plugin for it, such as ``portmap``.

    Attributes:
        host_port: Port of the host.
        container_port: Port in the container.
        protocol: ``tcp``, ``udp`` or ``sctp``.
        host_ip: Only on this address of the host; empty for all.
    """

    host_port: int
    container_port: int
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    host_ip: str = ""

    def __post_init__(self) -> None:
        for name, port in (("host_port", self.host_port), ("container_port", self.container_port)):
            if not 0 < port < 1 << 16:
                raise InvalidArgument(f"{name} is {port}; ports are 1 to 65535")
        if self.protocol not in {"tcp", "udp", "sctp"}:
            raise InvalidArgument(f"protocol {self.protocol!r} is not known; there are tcp, udp and sctp")

    def to_json(self) -> dict[str, Any]:
        """Return it as the capability argument ``portMappings`` has it."""
        mapping: dict[str, Any] = {
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol,
        }
        return mapping | ({"hostIP": self.host_ip} if self.host_ip else {})


@dataclass(frozen=True, slots=True)
class Result:
    """What the plugins made.

    Attributes:
        addresses: Addresses of the container, with their networks, such as ``10.88.0.2/16``.
        gateways: Gateways of those addresses, as far as they have one.
        interfaces: Names of the interfaces made, on the host and in the container.
        nameservers: DNS servers to use; seldom given.
        raw: All that the last plugin answered.
    """

    addresses: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]
    gateways: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]
    interfaces: tuple[str, ...]
    nameservers: tuple[str, ...]
    raw: Mapping[str, Any]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read a result of CNI 0.3 or later.

        Raises:
            ValueError: It is not one.
        """
        ips: Sequence[Mapping[str, Any]] = raw.get("ips") or ()
        return cls(
            addresses=tuple(ipaddress.ip_interface(ip["address"]) for ip in ips),
            gateways=tuple(ipaddress.ip_address(ip["gateway"]) for ip in ips if ip.get("gateway")),
            interfaces=tuple(interface["name"] for interface in raw.get("interfaces") or ()),
            nameservers=tuple((raw.get("dns") or {}).get("nameservers") or ()),
            raw=raw,
        )
