"""Signals by name and number."""

from __future__ import annotations

import signal as signals

from containerd_aio.errors import InvalidArgument


def parse_signal(signal: int | str) -> int:
    """Return the number of a signal.

    Raises:
        InvalidArgument: There is no such signal.
    """
    if isinstance(signal, str):
        name = signal.upper()
        if name.isdigit():
            return parse_signal(int(name))
        name = name if name.startswith("SIG") else "SIG" + name
        number = getattr(signals, name, None)
        if not isinstance(number, signals.Signals):
            raise InvalidArgument(f"there is no signal {signal!r}; give a name such as SIGTERM or a number")
        return int(number)
    if not isinstance(signal, int):
        raise InvalidArgument(f"there is no signal {signal!r}; give a name such as SIGTERM or a number")
    if not 1 <= signal <= 64:
        raise InvalidArgument(f"there is no signal {signal}; signals go from 1 to 64")
    return int(signal)
