"""Labels for containerd's restart monitor, a plugin of the daemon that starts containers again when their tasks have ended.

The monitor looks every ten seconds (``interval`` in the daemon's configuration) at the containers that have the label
`STATUS_LABEL`. containerd 1.6 knows no policies: it restarts whatever shall be running. 1.6 and 1.7 also restart what is
paused (Go: core/runtime/restart).

A container that shall be running and has no task is started by the monitor, and one with a task that was not started yet
is taken for one that has ended. So either leave the first start to it, by giving the labels to `Client.new_container`, or
set them with `Container.set_labels` once the task runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, get_args

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containerd_aio.events.exits import ExitStatus

STATUS_LABEL = "containerd.io/restart.status"
"""What shall become of the task: ``running`` or ``stopped``."""

POLICY_LABEL = "containerd.io/restart.policy"
"""When the task is started again; see `RestartPolicy`."""

COUNT_LABEL = "containerd.io/restart.count"
"""How often the monitor has started it; kept by the monitor."""

LOG_URI_LABEL = "containerd.io/restart.loguri"
"""Where the output of tasks that the monitor starts goes, such as ``file:///var/log/web.log``."""

EXPLICITLY_STOPPED_LABEL = "containerd.io/restart.explicitly-stopped"
"""``true`` when a user has stopped it: ``unless-stopped`` restarts it no more."""

PolicyName = Literal["no", "always", "on-failure", "unless-stopped"]
"""The policies of the monitor."""

DesiredStatus = Literal["running", "stopped"]
"""What the monitor brings about."""

_LOG_URI = re.compile(r"(file|binary|fifo)://.+|/.+")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When the monitor starts a task again (Go: ``restart.NewPolicy``).

    Attributes:
        name: ``no``: never; ``always``; ``on-failure``: when it ended with another code than 0; ``unless-stopped``:
            always, until `EXPLICITLY_STOPPED_LABEL` is set.
        maximum_retries: For ``on-failure``: how often at most; 0 for no limit.

    Raises:
        InvalidArgument: There is no such policy, or it counts no retries.
    """

    name: PolicyName
    maximum_retries: int = 0

    def __post_init__(self) -> None:
        if self.name not in get_args(PolicyName):
            raise InvalidArgument(
                f"there is no restart policy {self.name!r}; the monitor knows {', '.join(get_args(PolicyName))}"
            )
        if self.maximum_retries < 0 or (self.maximum_retries and self.name != "on-failure"):
            raise InvalidArgument(
                f"a restart policy {self.name!r} with {self.maximum_retries} retries: only on-failure counts them, from 0"
            )

    @classmethod
    def on_failure(cls, maximum_retries: int = 0) -> Self:
        """Restart what ended with another code than 0, `maximum_retries` times at most; 0 for no limit."""
        return cls("on-failure", maximum_retries)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form of the label: ``always``, ``on-failure:3``; empty means ``always``, as the monitor takes it.

        Raises:
            InvalidArgument: It is none.
        """
        name, colon, count = text.partition(":")
        if colon and not re.fullmatch(r"[0-9]+", count):
            raise InvalidArgument(f"restart policy {text!r}: what follows the colon is no number of retries")
        if colon and name != "on-failure":
            raise InvalidArgument(f"restart policy {text!r}: only on-failure counts retries")
        return cls(name or "always", int(count or 0))  # type: ignore[arg-type] # checked there

    def __str__(self) -> str:
        return f"{self.name}:{self.maximum_retries}" if self.maximum_retries else self.name


@dataclass(frozen=True, slots=True)
class RestartState:
    """What the labels of a container say to and of the monitor.

    Attributes:
        desired: What shall become of the task; None when the monitor is to leave the container alone.
        policy: When it is started again.
        count: How often the monitor has started it.
        log_uri: Where the output of the restarted tasks goes; empty for nowhere.
        explicitly_stopped: Whether a user has stopped it.
    """

    desired: DesiredStatus | None
    policy: RestartPolicy
    count: int
    log_uri: str
    explicitly_stopped: bool

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Self:
        """Read the labels of a container.

        Raises:
            InvalidArgument: The policy or the count is malformed.
        """
        desired = labels.get(STATUS_LABEL)
        count = labels.get(COUNT_LABEL) or "0"
        if not re.fullmatch(r"[0-9]+", count):
            raise InvalidArgument(f"label {COUNT_LABEL}: {count!r} is no number")
        return cls(
            desired="running" if desired == "running" else "stopped" if desired == "stopped" else None,
            policy=RestartPolicy.parse(labels.get(POLICY_LABEL, "")),
            count=int(count),
            log_uri=labels.get(LOG_URI_LABEL, ""),
            explicitly_stopped=labels.get(EXPLICITLY_STOPPED_LABEL, "").lower() in {"1", "t", "true"},
        )

    def restarts(self, exit_status: ExitStatus) -> bool:
        """Tell whether the monitor starts a task again that ended so (Go: ``restart.Reconcile``)."""
        if self.desired != "running":
            return False
        match self.policy.name:
            case "always":
                return True
            case "unless-stopped":
                return not self.explicitly_stopped
            case "on-failure":
                limit = self.policy.maximum_retries
                return exit_status.code != 0 and (not limit or self.count < limit)
        return False


def labels(
    desired: DesiredStatus,
    *,
    policy: RestartPolicy | PolicyName | None = None,
    log_uri: str | None = None,
) -> dict[str, str]:
    """Return the labels that put a container into the care of the monitor.

    Go: ``restart.WithStatus``, ``WithPolicy``, ``WithLogURI``.

    Args:
        desired: What shall become of the task.
        policy: When it is started again; by default always. containerd 1.6 ignores it.
        log_uri: Where the output of tasks that the monitor starts goes; by default nowhere.

    Raises:
        InvalidArgument: A value is none that the monitor knows.
    """
    if desired not in get_args(DesiredStatus):
        raise InvalidArgument(f"the monitor can bring about running or stopped, not {desired!r}")
    result = {STATUS_LABEL: str(desired)}
    if policy is not None:
        result[POLICY_LABEL] = str(
            policy if isinstance(policy, RestartPolicy) else RestartPolicy.parse(policy)
        )
    if log_uri is not None:
        if not _LOG_URI.fullmatch(log_uri):
            raise InvalidArgument(f"{log_uri!r} is no log URI; give file:///path or binary:///path?key=value")
        result[LOG_URI_LABEL] = log_uri
    return result


def no_restarts() -> dict[str, str | None]:
    """Return the changes of labels that take a container out of the monitor's care, for `Container.set_labels`.

    Go: ``restart.WithNoRestarts``.
    """
    names = (STATUS_LABEL, POLICY_LABEL, COUNT_LABEL, LOG_URI_LABEL, EXPLICITLY_STOPPED_LABEL)
    return dict.fromkeys(names)


def explicitly_stopped(stopped: bool = True) -> dict[str, str | None]:
    """Return the change of labels that notes that a user has stopped the container, or that this is over.

    Set it before the task is killed, so that ``unless-stopped`` does not restart it.
    """
    return {EXPLICITLY_STOPPED_LABEL: "true" if stopped else None}
