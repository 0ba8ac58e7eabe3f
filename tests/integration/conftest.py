"""Tests on real daemons; the fixtures are those of ``tests/conftest.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from containerd_aio import Client, Daemon

BUSYBOX = "docker.io/library/busybox:latest"


@pytest.fixture(autouse=True, scope="session")
def _nothing_left_at_the_end(nothing_left: None) -> None:
    """Checked once, after the last test, whichever tests were run."""


@pytest.fixture(scope="session")
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI archive of a static busybox, named `BUSYBOX`."""
    from containerd_aio.testing.images import busybox_image

    return busybox_image(tmp_path_factory.mktemp("images") / "busybox.tar", name=BUSYBOX)


@pytest.fixture
async def client(daemon: Daemon, namespace: str, busybox_archive: Path) -> AsyncIterator[Client]:
    """A client of the shared daemon, in a namespace of its own that has the image `BUSYBOX`."""
    from containerd_aio import Client

    async with Client(daemon.address, namespace=namespace) as opened:
        await opened.import_archive(busybox_archive, unpack=True)
        yield opened
