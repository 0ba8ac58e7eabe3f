"""One interface of one container in a network, and what is kept of it in libcni's cache."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from containerd_aio.cni.network import Network
    from containerd_aio.cni.result import PortMapping

#: What CNI allows as the name of a network and the id of a container.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CACHE_KIND = "cniCacheV1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One interface of one container in a network.

    Attributes:
        container_id: Id of the container.
        netns: Path of its network namespace; empty if it is gone.
        if_name: Name of the interface in it.
        capabilities: Capability arguments, by name.
        args: ``CNI_ARGS``.
        cache: File that keeps what ADD answered.
        result: What it answered; None if nothing is known of it.
    """

    container_id: str
    netns: str
    if_name: str
    capabilities: Mapping[str, Any]
    args: Mapping[str, str]
    cache: Path
    result: Mapping[str, Any] | None = None

    @classmethod
    def checked(
        cls,
        network: Network,
        container_id: str,
        netns: str,
        *,
        if_name: str,
        port_mappings: Sequence[PortMapping] = (),
        capabilities: Mapping[str, Any] | None = None,
        args: Mapping[str, str] | None = None,
    ) -> Self:
        """Return the attachment, every part of it checked.

        Raises:
            InvalidArgument: A part is not valid, or no plugin of the network has a capability that is asked for.
        """
        if not NAME.fullmatch(container_id):
            raise InvalidArgument(f"container id {container_id!r} is not valid for CNI")
        if not 0 < len(if_name) < 16 or if_name in {".", ".."} or re.search(r"[/:\s]", if_name):
            raise InvalidArgument(
                f"interface name {if_name!r} is not valid: 1 to 15 characters, no '/', ':' or space"
            )
        wanted = dict(capabilities or {})
        if port_mappings:
            wanted["portMappings"] = [mapping.to_json() for mapping in port_mappings]
        for name in wanted:
            if not any((plugin.get("capabilities") or {}).get(name) for plugin in network.plugins):
                raise InvalidArgument(
                    f'no plugin of network {network.name!r} has "capabilities": {{"{name}": true}}; add one that has'
                )
        return cls(
            container_id=container_id,
            netns=netns,
            if_name=if_name,
            capabilities=wanted,
            args=dict(args or {}),
            cache=Path(network.cache_dir, "results", f"{network.name}-{container_id}-{if_name}"),
        )

    def environment(self) -> dict[str, str]:
        """Return the variables that tell a plugin what it is about."""
        return {
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.if_name,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in self.args.items()),
        }

    def cached(self) -> Self:
        """Return it with what was kept of its ADD."""
        try:
            kept = json.loads(self.cache.read_bytes())
        except (OSError, ValueError):
            return self
        if not isinstance(kept, dict) or kept.get("kind") != _CACHE_KIND:
            return self
        return replace(
            self,
            netns=self.netns or str(kept.get("netns") or ""),
            capabilities=self.capabilities or kept.get("capabilityArgs") or {},
            args=self.args or dict(kept.get("cniArgs") or ()),
            result=kept.get("result"),
        )

    def without_dead_netns(self) -> Self:
        """Return it without its namespace if that is gone: plugins then undo what is outside of it."""
        return self if Path(self.netns).exists() else replace(self, netns="")

    def keep(self, network: Network, result: Mapping[str, Any]) -> None:
        """Write what is needed for CHECK and DEL, in libcni's format."""
        conf = {"cniVersion": network.cni_version, "name": network.name, "plugins": list(network.plugins)}
        self.cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self.cache.with_name(f".{self.cache.name}.{os.getpid()}")
        new.write_text(
            json.dumps(
                {
                    "kind": _CACHE_KIND,
                    "containerId": self.container_id,
                    "config": base64.b64encode(json.dumps(conf).encode()).decode(),
                    "ifName": self.if_name,
                    "networkName": network.name,
                    "netns": self.netns,
                    "cniArgs": [list(arg) for arg in self.args.items()] or None,
                    "capabilityArgs": dict(self.capabilities) or None,
                    "result": dict(result),
                }
            )
        )
        new.replace(self.cache)
