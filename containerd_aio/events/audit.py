"""The audit: now and then, while the stream stands, what is believed is compared with what the daemon says.

A shim may give up publishing an exit, and nothing on a healthy stream would ever tell. So the tasks are listed from time
to time: one call for each namespace that has a task whose exit is still to come, and one for each exec, at a slow pace.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio

from containerd_aio._log import get_logger
from containerd_aio.errors import ContainerdError
from containerd_aio.events.effects import Synthesised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from containerd_aio.events.effects import Effect
    from containerd_aio.events.inquiry import Inquiry
    from containerd_aio.events.registry import Registry

# Seconds within which an event about what a listing shows must have come, or it never will.
GRACE = 2.0
# An audit may take one part in so many of the time: a listing asks every shim.
SHARE = 50
# Intervals vary by so much, that clients which began together do not ask together.
JITTER = 0.25

_log = get_logger(__name__)


class Audit:
    """Compares, again and again, during one session of the stream.

    Args:
        registry: What is believed.
        inquiry: Asks the daemon.
        carry_out: Carries out what follows.
        draw: Returns a number from 0 to 1; tests give their own.
        interval: Seconds from one audit to the next; longer when the daemon takes long to answer.

    Attributes:
        done: How many were made.
    """

    def __init__(
        self,
        registry: Registry,
        inquiry: Inquiry,
        carry_out: Callable[[Sequence[Effect]], None],
        *,
        interval: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._registry = registry
        self._inquiry = inquiry
        self._carry_out = carry_out
        self._interval = interval
        self._draw = draw
        self.done = 0

    async def run(self) -> None:
        """Make audits until cancelled; without open tasks nothing is asked."""
        took = 0.0
        while True:
            pause = max(self._interval, took * SHARE)
            await anyio.sleep(pause * (1 + JITTER * (2 * self._draw() - 1)))
            namespaces = {i.namespace for i in self._registry.open_incarnations()}
            if namespaces:
                took = await self._audit(namespaces)

    async def _audit(self, namespaces: set[str]) -> float:
        """Make one audit; return how long the daemon took to answer, in seconds."""
        began = anyio.current_time()
        as_of = self._registry.moment
        try:
            states = await self._inquiry.tasks(namespaces)
        except ContainerdError as exc:
            _log.debug("no audit", error=str(exc))
            return anyio.current_time() - began
        took = anyio.current_time() - began
        await anyio.sleep(GRACE)
        effects = self._registry.audited(states, namespaces=namespaces, as_of=as_of, now=anyio.current_time())
        self.done += 1
        missed = [effect.event.topic for effect in effects if isinstance(effect, Synthesised)]
        if missed:
            _log.warning("containerd did not publish what its listing shows", missed=missed)
        self._carry_out(effects)
        return took
