"""Labels and update masks, which every store of containerd treats alike."""

from __future__ import annotations

from collections.abc import Mapping

from grpclib.const import Status

from containerd_aio.testing.fake.call import refuse
from containerd_aio.testing.fake.releases import Release

_MAX_LABEL = 4096


def check_labels(release: Release, labels: Mapping[str, str], what: str) -> None:
    """Refuse labels that are too long.

    Args:
        release: Says how it is put.
        labels: The labels.
        what: Begins the text of the refusal.

    Raises:
        GRPCError: INVALID_ARGUMENT.
    """
    for key, value in labels.items():
        size = len(key.encode()) + len(value.encode())
        if size <= _MAX_LABEL:
            continue
        if release.long_label_errors:
            text = f"length ({size} bytes) greater than maximum size ({_MAX_LABEL} bytes), key: {key[:64]}"
        else:
            text = f"greater than maximum size ({_MAX_LABEL} bytes), key: {key[:10]}"
        raise refuse(Status.INVALID_ARGUMENT, f"{what}: label key and value {text}")


def without_empty(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that are stored: one with an empty value is one that is not there."""
    return {key: value for key, value in labels.items() if value}


def updated_labels(path: str, old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str] | None:
    """Return `old` after an update with the mask path ``labels`` or ``labels.KEY``; None for any other path."""
    if path == "labels":
        return without_empty(new)
    if not path.startswith("labels."):
        return None
    key = path.removeprefix("labels.")
    return without_empty({**old, key: new.get(key, "")})
