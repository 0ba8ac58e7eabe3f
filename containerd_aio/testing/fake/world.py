"""What all services of the fake share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from containerd_aio.testing.fake.clock import Clock
    from containerd_aio.testing.fake.collector import Collector
    from containerd_aio.testing.fake.exchange import Exchange
    from containerd_aio.testing.fake.releases import Release
    from containerd_aio.testing.fake.store import Store


@dataclass(frozen=True, slots=True)
class World:
    """The state behind the services.

    Attributes:
        release: Which containerd it is.
        clock: The time.
        store: The records.
        exchange: The events.
        root: Directory for snapshots and bundles.
        collector: The garbage collector.
    """

    release: Release
    clock: Clock
    store: Store
    exchange: Exchange
    root: Path
    collector: Collector
