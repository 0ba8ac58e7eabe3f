"""What the library logs, as lines on stderr."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import structlog

from containerd_aio.cli.main import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping


def configure_logs(level: str, *, tracebacks: bool) -> None:
    """Show what is logged at `level` and above.

    Args:
        level: Name of a level: debug, info, warning, error or critical.
        tracebacks: Show those that come with it, too.
    """

    def render(_: Any, method: str, event: MutableMapping[str, Any]) -> str:
        error = sys.exception() if event.pop("exc_info", None) else None
        lines = [format_log(method, str(event.pop("event", "")), event)]
        if error is not None and tracebacks:
            lines += "".join(traceback.format_exception(error)).splitlines()
        elif error is not None:
            lines[0] += f": {str(error) or str(error.__cause__ or '') or type(error).__name__}"
        return "\n".join(lines)

    structlog.configure(
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def format_log(method: str, text: str, fields: Mapping[str, Any]) -> str:
    """Return the line for a log entry: ``containerd-aio: warning: text (key=value, ...)``."""
    known = ", ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
    return f"{PROGRAM}: {method}: {text}" + (f" ({known})" if known else "")
