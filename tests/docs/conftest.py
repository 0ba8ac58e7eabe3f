"""Documentation and examples run on one real daemon; the fixtures are those of ``tests/conftest.py``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.markdown import REPOSITORY

if TYPE_CHECKING:
    from containerd_aio import Client, Daemon

BUSYBOX = "docker.io/library/busybox:latest"

#: One release line is enough here; the tests in ``tests/integration`` show on all of them what the pages say.
on_one_release_line = pytest.mark.parametrize("containerd_version", ["1.6"], indirect=True, scope="session")


@pytest.fixture(autouse=True, scope="session")
def _nothing_left_at_the_end(nothing_left: None) -> None:
    """Checked once, after the last test, whichever tests were run."""


@pytest.fixture(scope="session")
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI archive of a static busybox, named `BUSYBOX`."""
    from containerd_aio.testing.images import busybox_image

    return busybox_image(tmp_path_factory.mktemp("images") / "busybox.tar", name=BUSYBOX)


@pytest.fixture
def folder(tmp_path: Path, busybox_archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a snippet or an example; it has ``busybox.tar`` and ``blue.conflist``, a network."""
    (tmp_path / "busybox.tar").symlink_to(busybox_archive)
    guide = (REPOSITORY / "docs/guide/networks.md").read_text(encoding="utf-8")
    (tmp_path / "blue.conflist").write_text(guide.partition("```json\n")[2].partition("```")[0])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    if Path(
        "/sys/class/net/blue0"
    ).exists():  # plugins leave the bridge, and host-local its directory, to the next
        subprocess.run(["ip", "link", "delete", "blue0"], check=True)
        shutil.rmtree("/var/lib/cni/networks/blue", ignore_errors=True)


@pytest.fixture
async def client(
    daemon: Daemon, namespace: str, busybox_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """A client in a namespace of its own that has the image `BUSYBOX`; ``Client()`` means the same place."""
    from containerd_aio import Client

    monkeypatch.setenv("CONTAINERD_ADDRESS", daemon.address)
    monkeypatch.setenv("CONTAINERD_NAMESPACE", namespace)
    async with Client() as opened:
        await opened.import_archive(busybox_archive, unpack=True)
        yield opened
