"""Small conversions that the service modules share."""

from __future__ import annotations

import secrets
import time
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

from containerd_aio.api.google.protobuf import FieldMask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from containerd_aio.api.google.protobuf import Timestamp

# Go's zero time, 0001-01-01T00:00:00Z, in seconds since the Unix epoch: what "not set" looks like from a Go server.
_GO_ZERO = -62135596800


def to_datetime(stamp: Timestamp | None) -> datetime | None:
    """Return `stamp` as an aware UTC datetime, or None when it is unset (Go's zero time included)."""
    if stamp is None or stamp.seconds <= _GO_ZERO:
        return None
    return stamp.to_datetime()


def label_updates(labels: Mapping[str, str | None]) -> dict[str, str]:
    """Return `labels` as they are sent: containerd's stores remove a label whose value is empty."""
    return {key: value or "" for key, value in labels.items()}


def label_mask(keys: Iterable[str]) -> FieldMask:
    """Return the field mask that touches these labels and nothing else."""
    return FieldMask(paths=[f"labels.{key}" for key in keys])


def unique_name() -> str:
    """Return a name nobody else uses: the clock's nanoseconds and random characters (Go: leases.WithRandomID)."""
    return f"{time.time_ns() % 1_000_000_000}-{urlsafe_b64encode(secrets.token_bytes(3)).decode()}"
