"""When a container is started again: Docker's restart manager.

The decisions are those of docker 1.12, with the longest delay of 1.13. The clock is the event loop's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

import anyio

from containerd_aio.errors import FailedPrecondition, InvalidArgument

DEFAULT_DELAY = 0.1
"""Seconds before the first restart (Docker: ``defaultTimeout``); doubled for each of the next ones."""
MAXIMUM_DELAY = 60.0
"""The longest such delay, seconds."""
RESET_AFTER = 10.0
"""A container that ran so many seconds is restarted after `DEFAULT_DELAY` again."""

PolicyName = Literal["no", "always", "on-failure", "unless-stopped"]
_NAMES: tuple[PolicyName, ...] = ("no", "always", "on-failure", "unless-stopped")


class RestartCanceled(FailedPrecondition):
    """The restart manager was cancelled: the container is not started again (Docker: ``ErrRestartCanceled``)."""

    def __init__(self) -> None:
        super().__init__("restart canceled")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """After which exits a container is started again.

    Attributes:
        name: ``no``; ``always``, however it ended; ``on-failure``, after an exit code other than 0; ``unless-stopped``,
            unless the user stopped it.
        maximum_retry_count: With ``on-failure``: how many restarts at most; 0 for no limit.

    Raises:
        InvalidArgument: There is no such policy, or it can't have a count.
    """

    name: PolicyName = "no"
    maximum_retry_count: int = 0

    def __post_init__(self) -> None:
        if self.name not in _NAMES:
            raise InvalidArgument(f"there is no restart policy {self.name!r}; known are {', '.join(_NAMES)}")
        if self.maximum_retry_count and self.name != "on-failure":
            raise InvalidArgument(f"maximum retry count cannot be used with restart policy {self.name!r}")
        if self.maximum_retry_count < 0:
            raise InvalidArgument("maximum retry count cannot be negative")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a policy as ``docker run --restart`` takes it: ``on-failure:3``, ``always``; an empty one is ``no``.

        Raises:
            InvalidArgument: It is not a policy.
        """
        name, colon, count = text.partition(":")
        if colon and not re.fullmatch(r"-?\d+", count):
            raise InvalidArgument(
                f"restart policy {text!r}: the maximum retry count must be a whole number, as in on-failure:3"
            )
        return cls(name or "no", int(count or 0))  # type: ignore[arg-type] # checked by __post_init__

    def __str__(self) -> str:
        return f"{self.name}:{self.maximum_retry_count}" if self.maximum_retry_count else self.name


class RestartWait:
    """The pause before a restart.

    Attributes:
        delay: Its length, seconds.
    """

    def __init__(self, delay: float, canceled: anyio.Event) -> None:
        self.delay = delay
        self._until = anyio.current_time() + delay
        self._canceled = canceled

    @property
    def over(self) -> bool:
        """Whether the time has passed."""
        return anyio.current_time() >= self._until

    async def wait(self) -> None:
        """Return when the time has come; any number may wait.

        Raises:
            RestartCanceled: The manager was cancelled first.
        """
        if self._canceled.is_set():
            raise RestartCanceled
        with anyio.move_on_at(self._until):
            await self._canceled.wait()
            raise RestartCanceled


class RestartManager:
    """Decides whether and when a container is started again. It belongs to one container, from its creation on.

    Give it to `Client.create` with `with_restart_manager`, and the container is restarted in libcontainerd (as in docker
    1.11 and 1.12); or ask it from the backend's own handling of ``exit`` (as later Dockers do).

    Args:
        policy: The policy, or its text.
        restart_count: How often the container was restarted before; counted against ``on-failure:N``.

    Attributes:
        policy: The policy.
        restart_count: How often it has said yes, and `restart_count` at the beginning.

    Raises:
        InvalidArgument: It is not a policy.
    """

    def __init__(self, policy: RestartPolicy | str = "no", *, restart_count: int = 0) -> None:
        self.policy = RestartPolicy.parse(policy) if isinstance(policy, str) else policy
        self.restart_count = restart_count
        self._delay = 0.0
        self._wait: RestartWait | None = None
        self._canceled = anyio.Event()

    def __repr__(self) -> str:
        return f"<RestartManager {self.policy} restarts={self.restart_count}>"

    @property
    def canceled(self) -> bool:
        """Whether `cancel` was called."""
        return self._canceled.is_set()

    def cancel(self) -> None:
        """End the wait for a restart, if there is one, and allow no other: what a user's stop or kill does, for good."""
        self._canceled.set()

    def set_policy(self, policy: RestartPolicy | str) -> None:
        """Change the policy. A wait that has begun goes on.

        Raises:
            InvalidArgument: It is not a policy.
        """
        self.policy = RestartPolicy.parse(policy) if isinstance(policy, str) else policy

    def should_restart(
        self, exit_code: int, *, manually_stopped: bool = False, run_duration: float = 0.0
    ) -> RestartWait | None:
        """Decide about an exit. Each decision but that of the policy ``no`` takes a step of the delays.

        Args:
            exit_code: How the container ended.
            manually_stopped: Whether the user stopped it, which ``unless-stopped`` asks about.
            run_duration: Seconds that it ran.

        Returns:
            What is to be waited for before it is started again; None when it is not.

        Raises:
            RestartCanceled: The manager was cancelled, and the policy is not ``no``.
            FailedPrecondition: The wait of an earlier decision is not over.
        """
        if self.policy.name == "no":
            return None
        if self.canceled:
            raise RestartCanceled
        if self._wait is not None and not self._wait.over:
            raise FailedPrecondition("invalid call on an active restart manager")
        if run_duration >= RESET_AFTER:
            self._delay = 0.0
        # A "no" takes a step as well, as it does in Docker.
        self._delay = min(self._delay * 2, MAXIMUM_DELAY) or DEFAULT_DELAY
        if not self._says_yes(exit_code, manually_stopped=manually_stopped):
            self._wait = None
            return None
        self.restart_count += 1
        self._wait = RestartWait(self._delay, self._canceled)
        return self._wait

    def _says_yes(self, exit_code: int, *, manually_stopped: bool) -> bool:
        policy = self.policy
        if policy.name == "always":
            return True
        if policy.name == "unless-stopped":
            return not manually_stopped
        limit = policy.maximum_retry_count
        return exit_code != 0 and (limit == 0 or self.restart_count < limit)
