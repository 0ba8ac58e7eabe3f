"""Options of a `Remote`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from containerd_aio.errors import InvalidArgument
from containerd_aio.libcontainerd.options import runtime_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(slots=True)
class RemoteSettings:
    """What options change.

    Attributes:
        address: Where containerd listens; empty for the default.
        start_daemon: Whether containerd is started, or adopted, watched and started again.
        live_restore: Whether containers that run are kept by `Client.restore`.
        oom_score: Of the containerd that is started; None leaves it alone.
        runtime_path: The runtime's binary, or the name of a runtime; empty for the default.
        runtime_args: Options of it.
        log_level: Of the containerd that is started.
        config: Settings of the containerd that is started.
        daemon: Other options of `Daemon`.
    """

    address: str = ""
    start_daemon: bool = False
    live_restore: bool = False
    oom_score: int | None = None
    runtime_path: str = ""
    runtime_args: tuple[str, ...] = ()
    log_level: str = "info"
    config: dict[str, Any] = field(default_factory=dict)
    daemon: dict[str, Any] = field(default_factory=dict)


class RemoteOption(Protocol):
    """Changes how a `Remote` is made. Options are applied in order, before anything else is done."""

    def apply(self, settings: RemoteSettings) -> None:
        """Make the change.

        Raises:
            InvalidArgument: It can't be used.
        """


@dataclass(frozen=True, slots=True)
class _Option:
    """An option: its name and what it does."""

    name: str
    change: Callable[[RemoteSettings], None] = field(repr=False)

    def apply(self, settings: RemoteSettings) -> None:
        if not isinstance(settings, RemoteSettings):
            raise InvalidArgument(f"{self.name}: option not supported for this remote")
        self.change(settings)


def _set(name: str, attribute: str, value: object) -> RemoteOption:
    return _Option(f"{name}({value!r})", lambda settings: setattr(settings, attribute, value))


def _configure(name: str, config: Mapping[str, Any]) -> RemoteOption:
    def change(settings: RemoteSettings) -> None:
        _merge(settings.config, config)

    return _Option(f"{name}({dict(config)!r})", change)


def _merge(settings: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            _merge(settings[key], value)
        else:
            settings[key] = value


def with_remote_addr(address: str) -> RemoteOption:
    """Use the containerd that listens there; with `with_start_daemon`, have the one that is started listen there."""
    return _set("with_remote_addr", "address", address)


def with_remote_addr_user(uid: int, gid: int) -> RemoteOption:
    """Give the socket of the containerd that is started to a user and group (docker 17.11)."""
    return _configure("with_remote_addr_user", {"grpc": {"uid": uid, "gid": gid}})


def with_start_daemon(start: bool = True) -> RemoteOption:
    """Start containerd, or adopt the one an earlier `Remote` has started; watch it and start it again when it ends."""
    return _set("with_start_daemon", "start_daemon", start)


def with_live_restore(keep: bool) -> RemoteOption:
    """Keep containers that run when they are restored, rather than ending them. May be changed later."""
    return _set("with_live_restore", "live_restore", keep)


def with_runtime_path(path: str) -> RemoteOption:
    """Run containers by another runtime, as far as they name none; see `with_runtime`.

    Raises:
        InvalidArgument: The path can't be used.
    """
    runtime_of(path, ())
    return _set("with_runtime_path", "runtime_path", path)


def with_runtime_args(args: Sequence[str]) -> RemoteOption:
    """Give the runtime of `with_runtime_path` options; see `with_runtime`.

    Raises:
        InvalidArgument: An option can't be passed on.
    """
    runtime_of("", args)
    return _set("with_runtime_args", "runtime_args", tuple(args))


def with_debug_log(debug: bool = True) -> RemoteOption:
    """Have the containerd that is started log at level debug."""
    return _set("with_debug_log", "log_level", "debug" if debug else "info")


def with_log_level(level: str) -> RemoteOption:
    """Set the log level of the containerd that is started (docker 17.11)."""
    return _set("with_log_level", "log_level", level)


def with_oom_score(score: int) -> RemoteOption:
    """Set the OOM score of the containerd that is started: what the kernel adds when it looks for whom to kill.

    Args:
        score: -1000 (never) to 1000.

    Raises:
        InvalidArgument: It is out of range.
    """
    if not -1000 <= score <= 1000:
        raise InvalidArgument(f"an OOM score is from -1000 to 1000, not {score}")
    return _set("with_oom_score", "oom_score", score)


def with_debug_address(address: str) -> RemoteOption:
    """Have the containerd that is started serve its debug socket there (docker 17.11)."""
    return _configure("with_debug_address", {"debug": {"address": address}})


def with_metrics_address(address: str) -> RemoteOption:
    """Have the containerd that is started serve its metrics at ``host:port`` (docker 17.11)."""
    return _configure("with_metrics_address", {"metrics": {"address": address}})


def with_snapshotter(name: str) -> RemoteOption:
    """Make a snapshotter the default of containerd's transfer service (docker 17.11).

    That of a container is given by `with_snapshot`.
    """
    return _configure(
        "with_snapshotter",
        {"plugins": {"io.containerd.transfer.v1.local": {"unpack_config": [{"snapshotter": name}]}}},
    )


def with_plugin(name: str, config: Mapping[str, Any]) -> RemoteOption:
    """Configure a plugin of the containerd that is started (docker 17.11).

    Args:
        name: Such as ``io.containerd.gc.v1.scheduler``.
        config: Its settings.
    """
    return _configure("with_plugin", {"plugins": {name: dict(config)}})


def with_daemon_options(**options: Any) -> RemoteOption:
    """Pass options on to the `Daemon` that keeps containerd, such as ``binary=`` and ``path=``."""

    def change(settings: RemoteSettings) -> None:
        settings.daemon.update(options)

    return _Option(f"with_daemon_options({', '.join(options)})", change)
