"""Standard streams of containers and exec'd processes.

`null`, `pipes`, `inherit`, `files`, `capture`, `streams`, `terminal` and the log functions each return an `IOCreator`,
which a task or an exec takes as ``io=``.
"""

from containerd_aio.stdio.constructors import (
    capture,
    files,
    inherit,
    log_binary,
    log_file,
    log_uri,
    null,
    pipes,
    streams,
    terminal,
)
from containerd_aio.stdio.creators import IOCreator
from containerd_aio.stdio.fifo import IOConfig, default_fifo_root
from containerd_aio.stdio.follow import LogStream, follow
from containerd_aio.stdio.process_io import Captured, ProcessIO

__all__ = [
    "Captured",
    "IOConfig",
    "IOCreator",
    "LogStream",
    "ProcessIO",
    "capture",
    "default_fifo_root",
    "files",
    "follow",
    "inherit",
    "log_binary",
    "log_file",
    "log_uri",
    "null",
    "pipes",
    "streams",
    "terminal",
]
