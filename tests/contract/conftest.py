"""The same tests on the fake and on the real daemons, of three release lines each: the fake may not differ from reality."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from containerd_aio import Client
from containerd_aio.testing.fake import FakeContainerd
from containerd_aio.testing.images import build_image_archive, busybox_image
from tests.contract.backend import IMAGE, Backend

if TYPE_CHECKING:
    from containerd_aio import Daemon

_RELEASES = ("1.6", "1.7", "2.1")
_PROGRAMS = ("sh", "sleep", "true", "false", "echo", "cat")


@pytest.fixture(
    scope="session", params=[f"{kind}-{release}" for kind in ("fake", "real") for release in _RELEASES]
)
def backend_name(request: pytest.FixtureRequest) -> str:
    """Which containerd a test runs on."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def containerd_version(backend_name: str, request: pytest.FixtureRequest) -> str:
    """The release line, for the fixtures that start real daemons."""
    request.getfixturevalue("real_machine")
    line = backend_name.partition("-")[2]
    testbed = sys.modules["testbed"]
    if line not in testbed.listing():
        reason = f"no containerd {line} in the test bed: run `make testbed`"
        pytest.fail(reason, pytrace=False) if testbed.in_ci() else pytest.skip(reason)
    return line


# The fixtures below bear the names of those in tests/conftest.py, and must not be those: pytest would keep their values
# for the tests of other folders, where another release is asked for.


@pytest.fixture(scope="session")
def containerd_binary(containerd_version: str) -> str:
    """Path of that line's containerd."""
    return str(sys.modules["testbed"].listing()[containerd_version]["containerd"])


@pytest.fixture(scope="session")
def daemon(containerd_binary: str, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon shared by all contract tests of one release line."""
    with _parent(request).shared_daemon(containerd_binary) as shared:
        yield shared


def _parent(request: pytest.FixtureRequest) -> Any:
    return request.config.pluginmanager.get_plugin(str(Path(__file__).parent.parent / "conftest.py"))


@pytest.fixture(scope="session")
def real_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image for the real daemons."""
    return busybox_image(tmp_path_factory.mktemp("contract") / "busybox.tar", name=IMAGE)


@pytest.fixture(scope="session")
def fake_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image for the fakes: the names of its programs are all they look at."""
    files = {f"bin/{name}": b"" for name in _PROGRAMS} | {"etc/group": b"root:x:0:\n"}
    config = {"Env": ["PATH=/bin"], "Cmd": ["sh"]}
    path = tmp_path_factory.mktemp("contract") / "fake.tar"
    return build_image_archive(path, IMAGE, layers=[files], config=config)


@pytest.fixture(scope="module")
def module_namespace(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the real daemon for the tests of one module; emptied and removed afterwards."""
    parent = _parent(request)
    name = f"{parent.RUN}-contract-{secrets.token_hex(2)}"
    yield name
    anyio.run(parent._remove_namespace, daemon.address, name)
    for folder in (Path("/run/containerd/runc", name), *Path("/sys/fs/cgroup").glob(f"*/{name}")):
        with suppress(OSError):
            folder.rmdir()


@pytest.fixture(scope="module")
def real_place(daemon: Daemon, module_namespace: str, real_archive: Path) -> tuple[str, str]:
    """Address of the real daemon, and a namespace with the image for the tests of one module."""

    async def prepare() -> None:
        async with Client(daemon.address, namespace=module_namespace) as client:
            await client.import_archive(real_archive, unpack=True)

    anyio.run(prepare)
    return daemon.address, module_namespace


@pytest.fixture
def place(backend_name: str, request: pytest.FixtureRequest) -> tuple[str, str] | Path:
    """What `backend` needs, made outside of the event loop: where the real daemon is, or the fake's image."""
    place: tuple[str, str] | Path = request.getfixturevalue(
        "real_place" if backend_name.startswith("real-") else "fake_archive"
    )
    return place


@pytest.fixture
async def backend(backend_name: str, place: tuple[str, str] | Path) -> AsyncIterator[Backend]:
    """The containerd of this test, with the image in it."""
    release: Any = backend_name.partition("-")[2]
    if isinstance(place, tuple):
        async with Client(place[0], namespace=place[1]) as client:
            yield Backend(client, release)
        return
    async with FakeContainerd(release=release) as fake, Client(fake.address, namespace="contract") as client:
        yield Backend(client, release, fake, place)
