"""Which failures of a registry are tried again, and when: decisions only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from containerd_aio._backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

# 408 and 429 ask for it, the others pass by (RFC 9110 and RFC 6585).
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a registry is asked again.

    Delays are drawn evenly from zero to a ceiling that doubles; a registry that says ``Retry-After`` is obeyed.

    Attributes:
        attempts: Requests in all; 1 tries nothing again.
        initial: First ceiling, seconds.
        maximum: Last ceiling, seconds.
        longest: Most seconds that ``Retry-After`` may ask for; more is taken for a refusal.
    """

    attempts: int = 5
    initial: float = 0.25
    maximum: float = 8.0
    longest: float = 60.0


@dataclass(slots=True)
class Patience:
    """The retries of one request.

    Args:
        retries: How often.
        last: There is no other host to be asked: a server's errors are tried again.
    """

    retries: Retries
    last: bool = True
    used: int = 1
    backoff: Backoff = field(init=False)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        self.backoff = Backoff(self.retries.initial, self.retries.maximum)

    def after_status(self, status: int, retry_after: str | None) -> float | None:
        """Return the seconds until the next try after such an answer, None if there is none."""
        if status not in _AGAIN or not self._left(not_if_others=status >= 500):
            return None
        asked = parse_retry_after(retry_after, self.now())
        if asked is not None and asked > self.retries.longest:
            return None
        return self.backoff.next() if asked is None else asked

    def after_failure(self) -> float | None:
        """Return the seconds until the next try after a connection that failed, None if there is none."""
        return self.backoff.next() if self._left(not_if_others=True) else None

    def progressed(self) -> None:
        """Count from the beginning: something has come."""
        self.used = 1
        self.backoff.reset()

    def _left(self, *, not_if_others: bool) -> bool:
        if (not_if_others and not self.last) or self.used >= self.retries.attempts:
            return False
        self.used += 1
        return True


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for: a number or a date; None for anything else."""
    if not value:
        return None
    text = value.strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)
