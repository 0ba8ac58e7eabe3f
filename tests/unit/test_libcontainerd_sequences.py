"""What a backend is told, on the fake: the same sequences as on real daemons (``tests/integration/test_libcontainerd.py``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from containerd_aio.testing import FakeContainerd
from tests.unit.libcontainerd_support import SEQUENCES, Place, Scenario, literal, nothing_left

pytestmark = pytest.mark.looptime


@pytest.fixture(params=["1.6", "1.7", "2.1"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    release: Any = request.param
    async with FakeContainerd(release=release) as fake:
        yield Place(fake.address, "ns", tmp_path / "state", "/rootfs", fake)


@pytest.mark.parametrize("scenario", SEQUENCES, ids=lambda scenario: scenario.__name__)
async def test_E24_what_is_told_is_literally_this(place: Place, scenario: Scenario) -> None:
    await scenario(place, "c1")
    assert literal(place.book.of("c1")) == SEQUENCES[scenario]
    await nothing_left(place)
