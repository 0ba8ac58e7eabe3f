"""Any order, repetition and loss of evidence: the registry against a simulated daemon, thousands of times.

A schedule is a tape of bytes that `registry_world.World` plays. In CI there are 12 000 of them, always the same;
elsewhere 1 500. ``SCHEDULES=100000`` plays that many, new ones each time.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.unit.registry_world import World

settings.register_profile(
    "schedules", max_examples=500, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
settings.register_profile("schedules-ci", settings.get_profile("schedules"), max_examples=4_000)
settings.register_profile(
    "schedules-search",
    settings.get_profile("schedules"),
    max_examples=int(os.environ.get("SCHEDULES", "3")) // 3,
    derandomize=False,
)


def _profile() -> settings:
    if os.environ.get("SCHEDULES"):
        return settings.get_profile("schedules-search")
    return settings.get_profile("schedules-ci" if os.environ.get("CI") else "schedules")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("drops", "reuse"),
    [(False, False), (True, False), (False, True)],
    ids=["plain", "events-dropped", "pids-reused"],
)
def test_E07_E09_E10_E11_E12_E13_E15_E20_E30_whatever_the_schedule(
    drops: bool, reuse: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[str] = Counter()

    @_profile()
    @given(tape=st.binary(min_size=300, max_size=300))
    def play(tape: bytes) -> None:
        world = World(tape, drops=drops, reuse=reuse)
        try:
            world.run()
        except AssertionError:
            told = World(tape, drops=drops, reuse=reuse, verbose=True)
            with suppress(AssertionError):
                told.run()
            note("\n".join(told.log))
            raise
        seen["schedules"] += 1
        seen.update(world.seen())

    play()
    with capsys.disabled():
        print("\n  " + ", ".join(f"{number} {what}" for what, number in seen.items()))
    # A world in which nothing happens proves nothing.
    assert seen["exits decided"] > seen["schedules"]
    assert seen["reconnects"] > seen["schedules"]
    assert seen["exits unknown"] > 0
    assert seen["OOM kills"] > 0
