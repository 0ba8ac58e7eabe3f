"""What a pull decides without asking anybody: when to try again, what to fetch, what is done once."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from containerd_aio.distribution._retry import Patience, Retries, parse_retry_after
from containerd_aio.distribution.fetch import append_source, source_label
from containerd_aio.distribution.platforms import any_platform, match_only, parse_platform
from containerd_aio.distribution.pull import choose, first_error
from containerd_aio.errors import NotFound
from containerd_aio.services import _alone
from containerd_aio.services.descriptor import Descriptor

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("-5", None),
        ("soon", None),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 12:00:30", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_patience_has_an_end_and_progress_renews_it() -> None:
    patience = Patience(Retries(attempts=3, initial=1, maximum=4))
    delays = [patience.after_failure() for _ in range(3)]
    assert delays[2] is None
    assert all(delay is not None and 0 < delay <= 4 for delay in delays[:2])
    patience.progressed()
    assert patience.after_failure() is not None


@pytest.mark.parametrize(
    ("status", "last", "tried"),
    [(429, True, True), (429, False, True), (408, False, True), (503, True, True), (503, False, False),
     (404, True, False), (401, True, False), (200, True, False), (501, True, False)],
)  # fmt: skip
def test_which_statuses_are_tried_again(status: int, last: bool, tried: bool) -> None:
    assert (Patience(Retries(), last=last).after_status(status, None) is not None) is tried


def test_what_the_registry_asks_for_is_the_delay() -> None:
    assert Patience(Retries()).after_status(429, "7") == 7.0
    assert Patience(Retries()).after_status(429, "61") is None
    assert Patience(Retries(), now=lambda: NOW).after_status(503, "Thu, 01 Jan 2026 12:00:09 GMT") == 9.0


@pytest.mark.parametrize(
    ("known", "value"),
    [("", "a/b"), ("a/b", "a/b"), ("x", "a/b,x"), ("a/a,z", "a/a,a/b,z")],
)
def test_sources_are_a_sorted_list(known: str, value: str) -> None:
    assert append_source(known, "a/b") == value


@pytest.mark.parametrize(
    ("registry", "host"),
    [("docker.io", "docker.io"), ("localhost:5000", "localhost"), ("[::1]:5000", "::1")],
)
def test_the_label_of_sources_has_no_port(registry: str, host: str) -> None:
    assert source_label(registry) == f"containerd.io/distribution.source.{host}"


def entry(platform: str | None, n: int = 0) -> Descriptor:
    return Descriptor(
        "m", f"sha256:{n:064x}", 1, platform=None if platform is None else parse_platform(platform)
    )


def test_which_entries_of_an_index_are_fetched() -> None:
    x86, amd64, v3, arm, unnamed = (
        entry(p, n) for n, p in enumerate(["linux/386", "linux/amd64", "linux/amd64/v3", "linux/arm64", None])
    )
    entries = [x86, amd64, v3, arm, unnamed]
    here = match_only(parse_platform("linux/amd64"))
    assert choose(entries, here, best_only=True) == [amd64]
    assert choose(entries, here, best_only=False) == [x86, amd64, unnamed]
    assert choose(entries, any_platform, best_only=False) == entries
    assert choose([arm, unnamed], here, best_only=True) == [unnamed]
    assert choose([arm], here, best_only=True) == []
    newer = match_only(parse_platform("linux/amd64/v4"))
    assert choose(entries, newer, best_only=True) == [v3]


def test_an_error_in_groups_is_raised_itself() -> None:
    cause = OSError("cause")
    error = NotFound("it")
    error.__cause__ = cause
    with pytest.raises(NotFound) as caught, first_error():
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [error]), NotFound("another")])
    assert caught.value is error
    assert caught.value.__cause__ is cause


async def test_what_several_want_is_done_by_one_after_the_other() -> None:
    services: Any = SimpleNamespace(connections=SimpleNamespace(address="x"), namespace="n")
    running = most = 0

    async def work(key: str) -> None:
        nonlocal running, most
        async with _alone.alone(services, key):
            running += 1
            most = max(most, running)
            await anyio.lowlevel.checkpoint()
            running -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(work, "same")
    assert most == 1
    async with anyio.create_task_group() as tasks:
        for n in range(5):
            tasks.start_soon(work, f"other {n}")
    assert most == 5
    # One that is cancelled while it waits leaves the others their turn, and nothing behind.
    async with _alone.alone(services, "k"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, "k")
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            assert [users for _, users in _alone._locks._locks.values()] == [2]
            tasks.cancel_scope.cancel()
        assert [users for _, users in _alone._locks._locks.values()] == [1]
    await work("k")
    assert not len(_alone._locks)
