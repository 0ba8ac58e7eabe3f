"""Whose exit is it? Pids and ids decide, never time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.events.model import TaskDelete, TaskExit
    from containerd_aio.events.records import Incarnation, ProcessRecord


def process_of(event: TaskExit, incarnations: Sequence[Incarnation]) -> ProcessRecord | None:
    """Return the process that `event` is about; None when it is none that is known.

    An exec may bear the container's id, so the id alone does not tell init from it: the pid does. And an exec whose pid
    is not known yet may be meant only if nothing fits better.

    Args:
        event: The exit.
        incarnations: What is known of the container, newest first.
    """
    execs = [e for i in incarnations if (e := i.execs.get(event.id)) is not None]
    for exec_ in execs:
        for candidate in (exec_, exec_.former):
            if candidate is not None and candidate.pid == event.pid:
                return candidate
    if event.id in {"", event.container_id}:
        init = init_of(event, incarnations)
        if init is not None:
            return init
        execs = [e for e in execs if e.incarnation.open]  # it may be a later init process, not heard of yet
    return next((e for e in execs if e.pid is None and e.accepted is None), None)


def init_of(event: TaskExit | TaskDelete, incarnations: Sequence[Incarnation]) -> ProcessRecord | None:
    """Return the init process that `event` is about; None when it is none that is known.

    Without a pid, which is what containerd sends when the clean-up after a shim failed, it is the latest that is open
    and was announced, rather than one that only a reply told of: its TaskCreate is still to come.
    """
    for incarnation in incarnations:
        if incarnation.pid == event.pid:
            return incarnation.init
    if event.pid == 0:
        candidates = [i.init for i in incarnations if i.open]
        return next((c for c in candidates if c.incarnation.announced), candidates[0] if candidates else None)
    return None


def doubtful(process: ProcessRecord, pid: int) -> bool:
    """Return whether an exit of `pid` that fits `process` may as well be a late copy of an earlier one's."""
    return process.pid != pid or pid in process.former_pids


def is_copy(event: TaskExit, incarnation: Incarnation) -> bool:
    """Return whether `event` is, to the nanosecond, the exit that ended `incarnation`."""
    known = incarnation.init.accepted
    if known is None or event.exited_at_ns is None or event.exited_at_ns != known.exited_at_ns:
        return False
    return (event.pid, event.exit_status) == (known.pid, known.code)
