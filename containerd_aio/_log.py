"""Loggers of this library: structlog where the application has set it up, else the standard library.

An unconfigured structlog prints to stdout, in the middle of what a program prints for others to read. Until the
application configures it, log events go to the `logging` tree under ``containerd_aio``, which says nothing below WARNING
unless told to.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog


class Logger:
    """A logger that decides at each event where it goes: programs set up logging after their imports.

    Args:
        name: Name in the `logging` tree.
        bound: Values added to every event.
    """

    __slots__ = ("_bound", "_name")

    def __init__(self, name: str, **bound: Any) -> None:
        self._name = name
        self._bound = bound

    def bind(self, **values: Any) -> Logger:
        """Return a logger with further bound values."""
        return Logger(self._name, **self._bound | values)

    def debug(self, event: str, **values: Any) -> None:
        """Log what is of use only to who looks for a fault."""
        self._log("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """Log what is as it should be."""
        self._log("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Log what is not as it should be, and was coped with."""
        self._log("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Log a failure."""
        self._log("error", event, values)

    def exception(self, event: str, **values: Any) -> None:
        """Log a failure with the exception that is being handled."""
        self._log("error", event, {"exc_info": True, **values})

    def critical(self, event: str, **values: Any) -> None:
        """Log the end of something."""
        self._log("critical", event, values)

    def _log(self, level: str, event: str, values: dict[str, Any]) -> None:
        if structlog.is_configured():
            getattr(structlog.get_logger(self._name, **self._bound), level)(event, **values)
            return
        exc_info = values.pop("exc_info", None)
        pairs = " ".join(
            f"{key}={value!r}" for key, value in (self._bound | values).items() if value is not None
        )
        logger = logging.getLogger(self._name)
        logger.log(logging.getLevelName(level.upper()), "%s", f"{event} {pairs}".rstrip(), exc_info=exc_info)


def get_logger(name: str) -> Logger:
    """Return the logger of a module; `name` is its ``__name__``."""
    return Logger(name)
