"""The taking of one piece of evidence: when it is, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containerd_aio.events.effects import Effect


class Turn:
    """What the parts of the registry share while a piece of evidence is taken.

    Attributes:
        moment: How many pieces of evidence were taken; see `records`.
        now: The clock, in seconds, as the caller gave it.
        effects: What follows, in order.
    """

    __slots__ = ("effects", "moment", "now")

    def __init__(self) -> None:
        self.moment = 0
        self.now = 0.0
        self.effects: list[Effect] = []

    def begin(self, now: float) -> None:
        """Begin the next turn."""
        self.moment += 1
        self.now = now

    def end(self) -> list[Effect]:
        """Return what follows from this turn."""
        effects, self.effects = self.effects, []
        return effects
