"""The configuration file of a private containerd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from containerd_aio.errors import InvalidArgument

LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")

# 1.x has the first, 2.x the others (and the first as a remainder); an id that a version lacks is ignored by it.
_CRI_PLUGINS = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]

# What the daemon is told by arguments of its own; a second value in the mapping would part the two.
_RESERVED = (("root",), ("state",), ("grpc", "address"))


def generate(
    *,
    root: str,
    state: str,
    address: str,
    cri: bool = False,
    log_level: str = "info",
    config: Mapping[str, Any] | None = None,
) -> str:
    """Write the configuration file of a daemon, valid for containerd 1.6 to 2.x.

    Version 2 of the format: 1.x knows no other, and 2.x migrates it. What containerd would put outside of its root and
    state (``/opt/containerd``, temporary mounts, the NRI socket) is moved in or switched off, so that any number of
    daemons live side by side.

    Args:
        root: Directory for persistent data.
        state: Directory for everything else.
        address: Path of the gRPC socket.
        cri: Leave the Kubernetes plugins enabled.
        log_level: One of `LOG_LEVELS`.
        config: Settings merged over these: tables are merged, ``disabled_plugins`` adds up, all else is replaced.

    Returns:
        TOML.

    Raises:
        InvalidArgument: The mapping holds something TOML has no form for, or sets root, state or address.
    """
    settings: dict[str, Any] = {
        "version": 2,
        "root": root,
        "state": state,
        "temp": f"{root}/tmp",  # noqa: S108 - the daemon's own
        "disabled_plugins": [] if cri else list(_CRI_PLUGINS),
        "grpc": {"address": address},
        "debug": {"level": log_level},
        "plugins": {
            "io.containerd.internal.v1.opt": {"path": f"{root}/opt"},
            "io.containerd.nri.v1.nri": {"disable": True},
        },
    }
    if config is not None:
        for path in _RESERVED:
            if _lookup(config, path) is not None:
                name = path[-1]
                raise InvalidArgument(f"config sets {'.'.join(path)}; pass Daemon({name}=...) instead")
        _merge(settings, config)
    return "\n".join(_tables(settings, ())) + "\n"


def _lookup(mapping: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = mapping
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _merge(settings: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        mine = settings.get(key)
        if isinstance(value, Mapping) and isinstance(mine, dict):
            _merge(mine, value)
        elif key == "disabled_plugins" and isinstance(mine, list):
            mine += [plugin for plugin in value if plugin not in mine]
        else:
            settings[key] = value


def _tables(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(_string(key) for key in path)}]"] if path else []
    lines += [
        f"{_string(k)} = {_value(v, (*path, k))}" for k, v in table.items() if not isinstance(v, Mapping)
    ]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_tables(value, (*path, key))]
    return lines


def _value(value: object, path: tuple[str, ...]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item, path) for item in value)}]"
    if isinstance(value, Mapping):  # in an array
        return f"{{{', '.join(f'{_string(k)} = {_value(v, (*path, k))}' for k, v in value.items())}}}"
    raise InvalidArgument(
        f"config: {'.'.join(path)} is a {type(value).__name__}; TOML has strings, numbers, booleans, lists and tables"
    )


def _string(text: str) -> str:
    # A JSON string is a TOML basic string but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
