"""libcontainerd on real daemons: the sequences of callbacks, standard streams, restarts of containerd."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.libcontainerd_support import (
    SEQUENCES,
    Place,
    Scenario,
    literal,
    make_rootfs,
    nothing_left,
)

if TYPE_CHECKING:
    from containerd_aio import Daemon


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root file system with a shell."""
    return make_rootfs(tmp_path_factory.mktemp("libcontainerd") / "rootfs")


@pytest.fixture
def place(daemon: Daemon, namespace: str, tmp_path: Path, busybox_rootfs: str) -> Place:
    """A namespace of the shared daemon, and a directory for remotes."""
    return Place(daemon.address, namespace, tmp_path / "state", busybox_rootfs)


@pytest.mark.parametrize("scenario", SEQUENCES, ids=lambda scenario: scenario.__name__)
async def test_E24_what_is_told_is_literally_this(place: Place, scenario: Scenario) -> None:
    name = scenario.__name__.replace("_", "-")
    await scenario(place, name)
    assert literal(place.book.of(name)) == SEQUENCES[scenario]
    await nothing_left(place)
