"""What the daemon says about itself: its identity, its plugins, what it uses that is deprecated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from containerd_aio.api.containerd.services.introspection.v1 import DeprecationWarning as RawDeprecation
from containerd_aio.api.containerd.services.introspection.v1 import Plugin as RawPlugin
from containerd_aio.api.containerd.services.introspection.v1 import PluginsRequest
from containerd_aio.api.containerd.services.introspection.v1 import ServerResponse as RawServer
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.services._convert import to_datetime
from containerd_aio.services.descriptor import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from containerd_aio.services.stubs import Services

SNAPSHOTTER_PLUGIN = "io.containerd.snapshotter.v1"
"""Type of the plugins that are snapshotters; their id is the snapshotter's name."""


@dataclass(frozen=True, slots=True)
class Deprecation:
    """A deprecated feature that the daemon has seen in use.

    Attributes:
        id: Its name.
        message: What to do about it.
        last_occurrence: When it was used last.
    """

    id: str
    message: str
    last_occurrence: datetime | None

    @classmethod
    def from_raw(cls, raw: RawDeprecation) -> Self:
        """Take over containerd's message."""
        return cls(raw.id, raw.message, to_datetime(raw.last_occurrence))


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Who the daemon is.

    Attributes:
        uuid: Identity of its root directory, kept over restarts.
        pid: Its process id, in the PID namespace `pidns`; None where it does not say (containerd 1.6).
        pidns: Inode of its PID namespace, as in ``/proc/self/ns/pid``; None where it does not say.
        deprecations: Deprecated features it has seen in use (from late containerd 1.6 and 1.7 on).
        raw: containerd's message.
    """

    uuid: str
    pid: int | None
    pidns: int | None
    deprecations: tuple[Deprecation, ...]
    raw: RawServer = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawServer) -> Self:
        """Take over containerd's message."""
        deprecations = tuple(Deprecation.from_raw(item) for item in raw.deprecations)
        return cls(raw.uuid, raw.pid or None, raw.pidns or None, deprecations, raw)


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin of the daemon.

    Attributes:
        type: Its kind, such as ``io.containerd.snapshotter.v1``.
        id: Its name among its kind.
        requires: Kinds of plugins it needs.
        platforms: Platforms it works for.
        exports: What it publishes, such as the ``root`` of a snapshotter.
        capabilities: What it can do.
        init_error: Why it is not in use; None if it is.
        raw: containerd's message.
    """

    type: str
    id: str
    requires: tuple[str, ...]
    platforms: tuple[Platform, ...]
    exports: Mapping[str, str]
    capabilities: tuple[str, ...]
    init_error: str | None
    raw: RawPlugin = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawPlugin) -> Self:
        """Take over containerd's message."""
        error = None
        if raw.init_err is not None:
            error = raw.init_err.message or f"code {raw.init_err.code}"
        return cls(
            raw.type,
            raw.id,
            tuple(raw.requires),
            tuple(Platform.from_raw(platform) for platform in raw.platforms),
            dict(raw.exports),
            tuple(raw.capabilities),
            error,
            raw,
        )


class Introspection:
    """The introspection service.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.introspection

    async def server(self) -> ServerInfo:
        """Ask the daemon who it is."""
        return ServerInfo.from_raw(await self._stub.server(Empty()))

    async def plugins(self, *filters: str) -> list[Plugin]:
        """Return the plugins that match any of `filters` (they know ``type`` and ``id``), or all.

        Raises:
            InvalidArgument: A filter is malformed.
        """
        reply = await self._stub.plugins(PluginsRequest(filters=[*filters]))
        return [Plugin.from_raw(raw) for raw in reply.plugins]
