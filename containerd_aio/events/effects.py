"""What follows from evidence: values that `Registry` returns and the hub carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containerd_aio.events.model import Event
    from containerd_aio.events.records import Incarnation, Phase, ProcessRecord


@dataclass(frozen=True, slots=True)
class Decided:
    """The exit of `process` is known and final; whoever waits for it can go on. Once per process."""

    process: ProcessRecord


@dataclass(frozen=True, slots=True)
class Amended:
    """An OOM kill came to light after the exit of `process` had been decided; its record says so now."""

    process: ProcessRecord


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask the daemon for the state of `process` (Tasks.Get) and give the answer to `Registry.answered`, once."""

    process: ProcessRecord


@dataclass(frozen=True, slots=True)
class Unclear:
    """The daemon has not been able to tell the state of `process` for long. It is still being asked."""

    process: ProcessRecord


@dataclass(frozen=True, slots=True)
class CheckOOM:
    """Ask the daemon whether the kernel OOM-killed in `incarnation` (Tasks.Metrics); answer `Registry.oom_checked`."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Synthesised:
    """Tell subscribers `event`, which the daemon did not send or sent while nobody listened."""

    event: Event


@dataclass(frozen=True, slots=True)
class Started:
    """`process` runs: the first word of it, from a reply, an event or an answer. At most once per process."""

    process: ProcessRecord


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """The task went from running to paused or back, to `phase`."""

    incarnation: Incarnation
    phase: Phase


@dataclass(frozen=True, slots=True)
class OOMKilled:
    """The kernel OOM-killed in `incarnation`; once per report, so there may be several."""

    incarnation: Incarnation


Effect = Decided | Amended | Confirm | Unclear | CheckOOM | Synthesised | Started | PhaseChanged | OOMKilled
