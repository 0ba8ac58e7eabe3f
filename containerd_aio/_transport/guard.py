"""Requests that would kill the daemon, or a container, are stopped here.

containerd dereferences some nested messages without looking: 1.7 and 2.x (and 1.6 in places) die of a nil pointer when
one is missing, whoever asks, and so does the shim of every release, which takes its container along. Every message is
checked on its way out, raw stubs included.
"""

from __future__ import annotations

from typing import Any

from containerd_aio.errors import InvalidArgument

_SERVICES = "/containerd.services."

# method -> the dotted paths that must be set
_REQUIRED: dict[str, tuple[str, ...]] = {
    _SERVICES + method: paths
    for method, paths in {
        "containers.v1.Containers/Create": ("container",),
        "containers.v1.Containers/Update": ("container",),
        "content.v1.Content/Update": ("info",),
        "diff.v1.Diff/Apply": ("diff",),
        "events.v1.Events/Publish": ("event",),
        "events.v1.Events/Forward": ("envelope", "envelope.event"),
        "images.v1.Images/Create": ("image", "image.target"),
        "images.v1.Images/Update": ("image", "image.target"),
        "leases.v1.Leases/AddResource": ("resource",),
        "leases.v1.Leases/DeleteResource": ("resource",),
        "namespaces.v1.Namespaces/Create": ("namespace",),
        "namespaces.v1.Namespaces/Update": ("namespace",),
        "sandbox.v1.Store/Create": ("sandbox", "sandbox.runtime"),
        "sandbox.v1.Store/Update": ("sandbox", "sandbox.runtime"),
        "sandbox.v1.Controller/Create": ("sandbox", "sandbox.spec"),
        "snapshots.v1.Snapshots/Update": ("info",),
        "tasks.v1.Tasks/Exec": ("spec",),
        "tasks.v1.Tasks/Update": ("resources",),
    }.items()
}


def check_request(method: str, message: Any) -> None:
    """Refuse `message` when sending it by `method` is known to crash a containerd, or its shim.

    Raises:
        InvalidArgument: A nested message is missing; the text names it.
    """
    for path in _REQUIRED.get(method, ()):
        value = message
        for name in path.split("."):
            value = getattr(value, name)
        if value is None:
            raise InvalidArgument(
                f"{type(message).__name__}.{path} is not set: containerd or its shim crashes on such a request, so it "
                f"was not sent. Set it, an empty message will do.",
                method=method,
            )
