"""Fixtures for the tests of programs that use containerd; pytest finds them when this library is installed.

* ``fake_containerd``: a `FakeContainerd` of the test's own. ``@pytest.mark.fake_containerd(release="1.6")`` chooses its
  arguments.
* ``containerd_client``: a `Client` of that fake.
* ``containerd_daemon``: a real private containerd for the whole session. Tests that ask for it are skipped where it can't
  be started.
* ``containerd_registry``: a real registry for the whole session, `RegistryServer`. Tests that ask for it are skipped where
  ``docker-registry`` is missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from containerd_aio.client import Client
    from containerd_aio.daemon import Daemon
    from containerd_aio.testing.fake import FakeContainerd
    from containerd_aio.testing.registry import RegistryServer

_async_fixture: Any = pytest.fixture
with suppress(ImportError):  # without it, another plugin runs async fixtures, and takes them as they are
    import pytest_asyncio

    _async_fixture = pytest_asyncio.fixture


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line(
        "markers", "fake_containerd(**options): arguments of FakeContainerd for the fake_containerd fixture"
    )


@_async_fixture  # type: ignore[untyped-decorator]
async def fake_containerd(request: pytest.FixtureRequest) -> AsyncIterator[FakeContainerd]:
    """A containerd in memory, of this test's own."""
    from containerd_aio.testing.fake import FakeContainerd

    mark = request.node.get_closest_marker("fake_containerd")
    async with FakeContainerd(**(mark.kwargs if mark else {})) as fake:
        yield fake


@_async_fixture  # type: ignore[untyped-decorator]
async def containerd_client(fake_containerd: FakeContainerd) -> AsyncIterator[Client]:
    """A client of ``fake_containerd``."""
    from containerd_aio.client import Client

    async with Client(fake_containerd.address) as client:
        yield client


@pytest.fixture(scope="session")
def containerd_daemon() -> Iterator[Daemon]:
    """A real containerd of this test session's own, with its own directories; needs root and containerd on ``PATH``."""
    import os
    import shutil

    if os.geteuid() != 0:
        pytest.skip("a real containerd needs root")
    if shutil.which("containerd") is None:
        pytest.skip("there is no containerd on PATH; install the package containerd")
    from anyio.from_thread import start_blocking_portal

    from containerd_aio.daemon import Daemon

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Daemon(log_level="warn")) as daemon,
    ):
        yield daemon


@pytest.fixture(scope="session")
def containerd_registry() -> Iterator[RegistryServer]:
    """A real registry of this test session's own, open to all, on a free port of loopback."""
    import shutil

    if shutil.which("docker-registry") is None:
        pytest.skip("there is no docker-registry on PATH; install the package docker-registry")
    from anyio.from_thread import start_blocking_portal

    from containerd_aio.testing.registry import RegistryServer

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(RegistryServer()) as registry:
        yield registry
