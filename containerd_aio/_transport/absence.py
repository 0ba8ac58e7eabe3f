"""Services and methods that a daemon does not have: recognised, explained, and asked for once."""

from __future__ import annotations

import re

# How grpc-go refuses a method: "unknown service a.b.v1.S", "unknown method M for service a.b.v1.S".
_UNKNOWN = re.compile(r"unknown (?:method (?P<method>\w+) for )?service (?P<service>[\w.]+)")

_PREFIX = "containerd.services."

# Since which release there is what 1.6 did not have.
_SINCE = {
    "sandbox.v1.Store": "1.7",
    "sandbox.v1.Controller": "1.7",
    "sandbox.v1.Controller/Metrics": "2.0",
    "sandbox.v1.Controller/Update": "2.0",
    "streaming.v1.Streaming": "1.7",
    "transfer.v1.Transfer": "1.7",
    "introspection.v1.Introspection/PluginInfo": "2.0",
    "mounts.v1.Mounts": "2.2",
}


def absent(text: str | None) -> str | None:
    """Return what a refusal says the daemon lacks, as ``/service`` or ``/service/method``; None if it says no such thing.

    Args:
        text: The message of a status UNIMPLEMENTED.
    """
    found = _UNKNOWN.fullmatch(text or "")
    if found is None:
        return None
    method = found["method"]
    return f"/{found['service']}" + (f"/{method}" if method else "")


def explain(name: str, address: str) -> str:
    """Return the text of the error for something that `absent` has returned."""
    service, _, method = name[1:].partition("/")
    what = f"no method {method} in its service {service}" if method else f"no service {service}"
    text = f"containerd at {address} has {what}"
    since = _SINCE.get(name[1:].removeprefix(_PREFIX))
    if since is not None:
        text += f": it came with containerd {since}; on a newer one the plugin that serves it is off or has failed"
    return text
