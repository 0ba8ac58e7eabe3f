"""How long a call may take that does not say so itself."""

from __future__ import annotations

from grpclib.const import Cardinality

# These answer when their work is done, and that takes as long as it takes.
_WITHOUT_DEADLINE = frozenset(
    f"/containerd.services.{method}"
    for method in (
        "tasks.v1.Tasks/Wait",
        "tasks.v1.Tasks/Checkpoint",
        "diff.v1.Diff/Apply",
        "diff.v1.Diff/Diff",
        "transfer.v1.Transfer/Transfer",
        "sandbox.v1.Controller/Wait",
    )
)

# These start or end processes, or wait for a garbage collection: slower than a look-up on a loaded machine.
_SLOW = frozenset(
    f"/containerd.services.{method}"
    for method in (
        "tasks.v1.Tasks/Create",
        "tasks.v1.Tasks/Start",
        "tasks.v1.Tasks/Delete",
        "tasks.v1.Tasks/DeleteProcess",
        "images.v1.Images/Delete",
        "leases.v1.Leases/Delete",
        "snapshots.v1.Snapshots/Cleanup",
        "snapshots.v1.Snapshots/Commit",
        "sandbox.v1.Controller/Create",
        "sandbox.v1.Controller/Start",
        "sandbox.v1.Controller/Stop",
    )
)
_SLOW_FACTOR = 4


def default_timeout(method: str, cardinality: Cardinality, timeout: float) -> float | None:
    """Return the seconds that a call may take; None for no limit.

    Args:
        method: Full gRPC method.
        cardinality: Which sides stream; what streams has no deadline.
        timeout: Seconds for an ordinary call.
    """
    if cardinality is not Cardinality.UNARY_UNARY or method in _WITHOUT_DEADLINE:
        return None
    return timeout * _SLOW_FACTOR if method in _SLOW else timeout
