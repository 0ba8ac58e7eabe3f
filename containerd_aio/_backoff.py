"""Delays between attempts: exponential, capped, with full jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Backoff:
    """A schedule of delays.

    Each delay is drawn evenly from zero to a ceiling that doubles from `initial` to `maximum`, so that many clients of
    one daemon do not come back in step.

    Args:
        initial: First ceiling, seconds.
        maximum: Last ceiling, seconds.
        draw: Returns a number from 0 to 1; tests give their own.
    """

    initial: float = 0.05
    maximum: float = 2.0
    draw: Callable[[], float] = random.random
    attempts: int = 0

    def next(self) -> float:
        """Return the next delay in seconds."""
        ceiling: float = min(self.maximum, self.initial * 2 ** min(self.attempts, 30))
        self.attempts += 1
        # Never quite zero: a daemon that refuses at once must not be asked in a tight loop.
        return max(self.initial / 2, ceiling * self.draw())

    def reset(self) -> None:
        """Begin again with the first delay."""
        self.attempts = 0
