"""Docker's libcontainerd (1.11 to 17.05) on today's containerd: containers by id, and a backend that is told what happens.

The names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from containerd_aio.libcontainerd._delivery import Callback, CallbackFailure
    from containerd_aio.libcontainerd.backend import Backend, StdioCallback, StreamBackend
    from containerd_aio.libcontainerd.client import Client
    from containerd_aio.libcontainerd.iopipe import IOPipe
    from containerd_aio.libcontainerd.options import (
        CreateOption,
        CreateParameters,
        with_restart_manager,
        with_runtime,
        with_snapshot,
    )
    from containerd_aio.libcontainerd.remote import Remote
    from containerd_aio.libcontainerd.remote_options import (
        RemoteOption,
        RemoteSettings,
        with_daemon_options,
        with_debug_address,
        with_debug_log,
        with_live_restore,
        with_log_level,
        with_metrics_address,
        with_oom_score,
        with_plugin,
        with_remote_addr,
        with_remote_addr_user,
        with_runtime_args,
        with_runtime_path,
        with_snapshotter,
        with_start_daemon,
    )
    from containerd_aio.libcontainerd.restart_manager import (
        RestartCanceled,
        RestartManager,
        RestartPolicy,
        RestartWait,
    )
    from containerd_aio.libcontainerd.states import (
        INIT_FRIENDLY_NAME,
        STATE_EXIT,
        STATE_EXIT_PROCESS,
        STATE_OOM,
        STATE_PAUSE,
        STATE_RESTART,
        STATE_RESTORE,
        STATE_RESUME,
        STATE_START,
        STATE_START_PROCESS,
        StateInfo,
    )
    from containerd_aio.libcontainerd.types import (
        Checkpoint,
        Checkpoints,
        Process,
        Resources,
        ServerVersion,
        Stats,
        Summary,
        User,
    )
    from containerd_aio.libcontainerd.windows import (
        CO_E_CLASS_STRING,
        CREATE_ATTEMPTS,
        CREATE_RETRY_DELAY,
        ERROR_BAD_PATHNAME,
        ERROR_INVALID_OBJECT,
        ERROR_NO_NETWORK,
        Win32Error,
        is_transient_create_error,
    )

_HOMES = {
    "_delivery": ("Callback", "CallbackFailure"),
    "backend": ("Backend", "StdioCallback", "StreamBackend"),
    "client": ("Client",),
    "iopipe": ("IOPipe",),
    "options": ("CreateOption", "CreateParameters", "with_restart_manager", "with_runtime", "with_snapshot"),
    "remote": ("Remote",),
    "remote_options": (
        "RemoteOption", "RemoteSettings", "with_daemon_options", "with_debug_address", "with_debug_log",
        "with_live_restore", "with_log_level", "with_metrics_address", "with_oom_score", "with_plugin",
        "with_remote_addr", "with_remote_addr_user", "with_runtime_args", "with_runtime_path", "with_snapshotter",
        "with_start_daemon",
    ),
    "restart_manager": ("RestartCanceled", "RestartManager", "RestartPolicy", "RestartWait"),
    "states": (
        "INIT_FRIENDLY_NAME", "STATE_EXIT", "STATE_EXIT_PROCESS", "STATE_OOM", "STATE_PAUSE", "STATE_RESTART",
        "STATE_RESTORE", "STATE_RESUME", "STATE_START", "STATE_START_PROCESS", "StateInfo",
    ),
    "types": (
        "Checkpoint", "Checkpoints", "Process", "Resources", "ServerVersion", "Stats", "Summary", "User",
    ),
    "windows": (
        "CO_E_CLASS_STRING", "CREATE_ATTEMPTS", "CREATE_RETRY_DELAY", "ERROR_BAD_PATHNAME", "ERROR_INVALID_OBJECT",
        "ERROR_NO_NETWORK", "Win32Error", "is_transient_create_error",
    ),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CO_E_CLASS_STRING",
    "CREATE_ATTEMPTS",
    "CREATE_RETRY_DELAY",
    "ERROR_BAD_PATHNAME",
    "ERROR_INVALID_OBJECT",
    "ERROR_NO_NETWORK",
    "INIT_FRIENDLY_NAME",
    "STATE_EXIT",
    "STATE_EXIT_PROCESS",
    "STATE_OOM",
    "STATE_PAUSE",
    "STATE_RESTART",
    "STATE_RESTORE",
    "STATE_RESUME",
    "STATE_START",
    "STATE_START_PROCESS",
    "Backend",
    "Callback",
    "CallbackFailure",
    "Checkpoint",
    "Checkpoints",
    "Client",
    "CreateOption",
    "CreateParameters",
    "IOPipe",
    "Process",
    "Remote",
    "RemoteOption",
    "RemoteSettings",
    "Resources",
    "RestartCanceled",
    "RestartManager",
    "RestartPolicy",
    "RestartWait",
    "ServerVersion",
    "StateInfo",
    "Stats",
    "StdioCallback",
    "StreamBackend",
    "Summary",
    "User",
    "Win32Error",
    "is_transient_create_error",
    "with_daemon_options",
    "with_debug_address",
    "with_debug_log",
    "with_live_restore",
    "with_log_level",
    "with_metrics_address",
    "with_oom_score",
    "with_plugin",
    "with_remote_addr",
    "with_remote_addr_user",
    "with_restart_manager",
    "with_runtime",
    "with_runtime_args",
    "with_runtime_path",
    "with_snapshot",
    "with_snapshotter",
    "with_start_daemon",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'containerd_aio.libcontainerd' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"containerd_aio.libcontainerd.{home}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
