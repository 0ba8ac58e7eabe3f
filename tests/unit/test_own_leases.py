"""Leases that say whose they are, and what is done about those of the dead."""

from __future__ import annotations

import os
from typing import Any

import pytest

from containerd_aio.distribution import _leases
from containerd_aio.distribution._leases import HOLDER_LABEL, own_lease
from containerd_aio.services.leases import Leases
from tests.unit.fake_support import world


async def test_a_lease_is_not_taken_for_dead_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as w:
        services = w.client.services
        real = Leases.create

        async def create(self: Leases, **options: Any) -> Any:
            made = await real(self, **options)
            await _leases._delete_dead(
                services
            )  # another work of this process ends before we have the answer
            return made

        monkeypatch.setattr(Leases, "create", create)
        async with own_lease(services) as name:
            assert [lease.id for lease in await Leases(services).list()] == [name]
        assert await Leases(services).list() == []


async def test_those_of_the_dead_go_at_the_end_of_the_whole_work() -> None:
    async with world() as w:
        leases = Leases(w.client.services)
        left = await leases.create(labels={HOLDER_LABEL: _leases.identity(os.getpid())})
        other = await leases.create(labels={HOLDER_LABEL: _leases.identity(os.getppid())})
        async with own_lease(w.client.services) as outer:
            async with own_lease(w.client.services) as inner:
                assert inner == outer
            assert {lease.id for lease in await leases.list()} == {left.id, other.id, outer}
        assert [lease.id for lease in await leases.list()] == [other.id]
