"""The dispatcher: ordered for each key, concurrent between keys, and what one handler does is felt by its key alone."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from containerd_aio.errors import Closed, DeadlineExceeded, InvalidArgument, ResourceExhausted
from containerd_aio.events.dispatch import DeliveryFailure, Dispatcher, Retry

Failures = list[DeliveryFailure[Any, Any]]


class Recorder:
    """A handler that takes as long as `item["for"]` says, fails as often as `item["fails"]`, and notes what it saw."""

    def __init__(self) -> None:
        self.seen: defaultdict[str, list[Any]] = defaultdict(list)
        self.busy: set[str] = set()
        self.most_busy = 0

    async def __call__(self, item: dict[str, Any]) -> None:
        key = item["key"]
        assert key not in self.busy, "two calls for one key at the same time"
        self.busy.add(key)
        self.most_busy = max(self.most_busy, len(self.busy))
        try:
            if item.get("for"):
                await anyio.sleep(item["for"])
            elif item.get("yields"):
                for _ in range(item["yields"]):
                    await anyio.lowlevel.checkpoint()
            if item.get("fails", 0) > 0:
                item["fails"] -= 1
                raise RuntimeError("not now")
            self.seen[key].append(item["n"])
        finally:
            self.busy.remove(key)


def hanging_on(*keys: str, then: Callable[[Any], None]) -> Callable[[tuple[str, int]], Awaitable[None]]:
    async def handler(item: tuple[str, int]) -> None:
        if item[0] in keys:
            await anyio.sleep_forever()
        then(item)

    return handler


# -- order -------------------------------------------------------------------------------------------------------------


async def test_E24_one_key_is_handled_in_order_and_one_at_a_time() -> None:
    record = Recorder()
    async with Dispatcher[Any, Any](record) as dispatcher:
        for n in range(100):
            dispatcher.submit("a", {"key": "a", "n": n, "yields": (n * 7) % 5})
        await dispatcher.drain()
    assert record.seen["a"] == list(range(100))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.integers(0, 3),  # how long the handler takes
            st.integers(0, 2),  # how often it fails
            st.integers(0, 2),  # how long until the next is submitted
        ),
        max_size=40,
    )
)
def test_E24_E26_any_interleaving_keeps_the_order_of_each_key(
    plan: list[tuple[str, int, int, int]],
) -> None:
    async def run() -> None:
        record, expected = Recorder(), defaultdict(list)
        tasks_before = len(asyncio.all_tasks())
        retry = Retry(initial=1e-6, maximum=1e-6)
        async with Dispatcher[Any, Any](record, retry=retry, on_error=lambda _: None) as dispatcher:
            for n, (key, yields, fails, pause) in enumerate(plan):
                dispatcher.submit(key, {"key": key, "n": n, "yields": yields, "fails": fails})
                expected[key].append(n)
                for _ in range(pause):
                    await anyio.lowlevel.checkpoint()
            await dispatcher.drain()
            assert (dispatcher.pending, dispatcher.keys) == (0, 0)
            assert dispatcher.delivered == len(plan)
        assert record.seen == expected
        assert len(asyncio.all_tasks()) == tasks_before

    asyncio.run(run())


@pytest.mark.looptime
async def test_E25_keys_are_handled_at_the_same_time() -> None:
    record, loop = Recorder(), asyncio.get_running_loop()
    async with Dispatcher[Any, Any](record) as dispatcher:
        for n in range(50):
            dispatcher.submit(f"k{n}", {"key": f"k{n}", "n": n, "for": 10})
        began = loop.time()
        await dispatcher.drain()
        assert loop.time() - began == pytest.approx(10, abs=0.1)
    assert record.most_busy == 50


# -- failures are of one key -------------------------------------------------------------------------------------------


async def test_E25_S34_a_handler_that_never_returns_holds_up_its_own_key_only() -> None:
    done: list[tuple[str, int]] = []
    async with Dispatcher[Any, Any](hanging_on("stuck", then=done.append)) as dispatcher:
        for n in range(10):
            dispatcher.submit("stuck", ("stuck", n))
            dispatcher.submit("fine", ("fine", n))
        with anyio.fail_after(5):
            await dispatcher.drain("fine")
        assert done == [("fine", n) for n in range(10)]
        assert (dispatcher.pending, dispatcher.keys) == (10, 1)


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), ExceptionGroup("many", [ValueError()]), asyncio.CancelledError()]
)
async def test_E25_a_handler_that_raises_is_reported_and_the_queue_goes_on(error: BaseException) -> None:
    """A CancelledError may be the handler's own: something that it waited for was cancelled."""
    done: list[int] = []
    failures: Failures = []

    async def handler(n: int) -> None:
        if n == 1:
            raise error
        done.append(n)

    async with Dispatcher[Any, Any](handler, on_error=failures.append) as dispatcher:
        for n in range(3):
            dispatcher.submit("a", n)
        await dispatcher.drain()
    assert done == [0, 2]
    assert [(f.key, f.item, f.error, f.attempts, f.retry_in) for f in failures] == [("a", 1, error, 1, None)]
    assert (dispatcher.delivered, dispatcher.failed) == (2, 1)


async def test_a_failure_is_logged_by_default_with_what_it_takes_to_find_it() -> None:
    async def handler(n: int) -> None:
        raise RuntimeError("no")

    with capture_logs() as logs:
        async with Dispatcher[Any, Any](handler) as dispatcher:
            dispatcher.submit(("ns", "web"), 7)
            await dispatcher.drain()
    (entry,) = logs
    assert (entry["log_level"], entry["key"], entry["item"]) == ("error", ("ns", "web"), "7")
    assert str(entry["exc_info"]) == "no"


async def test_an_error_hook_that_raises_harms_nobody() -> None:
    done: list[int] = []

    async def handler(n: int) -> None:
        if n == 0:
            raise RuntimeError("no")
        done.append(n)

    def hook(failure: DeliveryFailure[str, int]) -> None:
        raise ValueError("nor the hook")

    with capture_logs() as logs:
        async with Dispatcher[Any, Any](handler, on_error=hook) as dispatcher:
            dispatcher.submit("a", 0)
            dispatcher.submit("a", 1)
            await dispatcher.drain()
    assert done == [1]
    assert [entry["event"] for entry in logs] == ["error hook failed"]


async def test_a_handler_that_is_no_async_function_is_named_as_the_fault() -> None:
    failures: Failures = []
    async with Dispatcher[Any, Any](lambda _: 5, on_error=failures.append) as dispatcher:  # type: ignore[arg-type, return-value]
        dispatcher.submit("a", 0)
        await dispatcher.drain()
    assert "must be an async function; it returned 5" in str(failures[0].error)


# -- timeout -----------------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_E25_with_a_timeout_the_queue_goes_on_and_the_hook_is_told() -> None:
    done: list[int] = []
    failures: Failures = []
    cancelled: list[int] = []
    loop = asyncio.get_running_loop()

    async def handler(n: int) -> None:
        if n == 0:
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                cancelled.append(n)
                raise
        done.append(n)

    async with Dispatcher[Any, Any](handler, timeout=30, on_error=failures.append) as dispatcher:
        dispatcher.submit("a", 0)
        dispatcher.submit("a", 1)
        await dispatcher.drain()
        assert loop.time() == pytest.approx(30, abs=0.1)
    assert (done, cancelled) == ([1], [0])
    assert isinstance(failures[0].error, DeadlineExceeded)
    assert "30 s" in str(failures[0].error)


@pytest.mark.looptime
async def test_a_timeout_of_the_handlers_own_is_not_ours() -> None:
    failures: Failures = []

    async def handler(n: int) -> None:
        with anyio.fail_after(1):
            await anyio.sleep_forever()

    async with Dispatcher[Any, Any](handler, timeout=30, on_error=failures.append) as dispatcher:
        dispatcher.submit("a", 0)
        await dispatcher.drain()
    assert type(failures[0].error) is TimeoutError


@pytest.mark.looptime
async def test_with_retry_a_call_that_took_too_long_is_made_again() -> None:
    calls = 0

    async def handler(n: int) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            await anyio.sleep_forever()

    async with Dispatcher[Any, Any](handler, timeout=5, retry=Retry(), on_error=lambda _: None) as dispatcher:
        dispatcher.submit("a", 0)
        await dispatcher.drain()
        assert (calls, dispatcher.delivered, dispatcher.failed) == (3, 1, 0)


# -- retry -------------------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_E26_S35_retries_back_off_from_1_s_to_5_min_and_keep_the_order() -> None:
    failures: Failures = []
    record, loop = Recorder(), asyncio.get_running_loop()
    async with Dispatcher[Any, Any](record, retry=Retry(), on_error=failures.append) as dispatcher:
        dispatcher.submit("a", {"key": "a", "n": 0, "fails": 14})
        dispatcher.submit("a", {"key": "a", "n": 1})
        dispatcher.submit("b", {"key": "b", "n": 2})
        await dispatcher.drain("b")
        assert loop.time() < 0.1
        await dispatcher.drain()
    assert record.seen == {"a": [0, 1], "b": [2]}
    assert [f.attempts for f in failures] == list(range(1, 15))
    delays = [f.retry_in for f in failures]
    for attempt, delay in enumerate(delays):
        assert delay is not None
        assert 0.5 <= delay <= min(300, 2**attempt)
    assert loop.time() == pytest.approx(sum(d for d in delays if d), abs=1)
    assert dispatcher.failed == 0


@pytest.mark.looptime
async def test_E26_attempts_may_be_limited_and_the_next_item_follows() -> None:
    failures: Failures = []
    record = Recorder()
    async with Dispatcher[Any, Any](record, retry=Retry(attempts=3), on_error=failures.append) as dispatcher:
        dispatcher.submit("a", {"key": "a", "n": 0, "fails": 9})
        dispatcher.submit("a", {"key": "a", "n": 1, "fails": 2})
        await dispatcher.drain()
    assert record.seen == {"a": [1]}
    assert [f.retry_in is None for f in failures] == [False, False, True, False, False]
    assert (dispatcher.delivered, dispatcher.failed) == (1, 1)


@pytest.mark.parametrize(
    "options", [{"initial": 0}, {"initial": 2, "maximum": 1}, {"attempts": 0}, {"initial": float("nan")}]
)
def test_a_retry_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="retry"):
        Retry(**options)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": -1}, {"buffer": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    async def handler(n: int) -> None: ...

    with pytest.raises(InvalidArgument, match=next(iter(options))):
        Dispatcher[Any, Any](handler, **options)


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_E29_what_waits_for_one_key_is_bounded_and_nothing_goes_silently() -> None:
    failures: Failures = []
    done: list[tuple[str, int]] = []
    async with Dispatcher[Any, Any](
        hanging_on("stuck", then=done.append), buffer=10, on_error=failures.append
    ) as dispatcher:
        dispatcher.submit("stuck", ("stuck", 0))
        await anyio.lowlevel.checkpoint()  # the handler has it
        for n in range(1, 101):
            dispatcher.submit("stuck", ("stuck", n))
        assert dispatcher.pending == 11
        assert dispatcher.dropped == 90
        # The oldest went, each to the hook; the newest, which says how things stand, is kept.
        assert [f.item[1] for f in failures] == list(range(1, 91))
        assert all(isinstance(f.error, ResourceExhausted) and f.attempts == 0 for f in failures)


async def test_E29_100_000_items_for_a_stuck_handler_cost_no_memory() -> None:
    async with Dispatcher[Any, Any](
        hanging_on("stuck", then=lambda _: None), buffer=100, on_error=lambda _: None
    ) as dispatcher:
        dispatcher.submit("stuck", ("stuck", 0))
        await anyio.lowlevel.checkpoint()
        tracemalloc.start()
        try:
            for n in range(100_000):
                dispatcher.submit("stuck", ("stuck", n))
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert used < 100_000


# -- nothing is left ---------------------------------------------------------------------------------------------------


async def test_10_000_keys_come_and_go_and_nothing_of_them_remains() -> None:
    tasks = len(asyncio.all_tasks())
    record = Recorder()
    async with Dispatcher[Any, Any](record) as dispatcher:
        for round_ in range(3):
            for n in range(10_000):
                dispatcher.submit(f"k{n}", {"key": f"k{n}", "n": round_, "yields": 1})
            assert dispatcher.keys == 10_000
            await dispatcher.drain()
            assert (dispatcher.keys, dispatcher.pending) == (0, 0)
            assert len(asyncio.all_tasks()) == tasks + 1  # the owner of the group
    assert len(record.seen) == 10_000
    assert all(seen == [0, 1, 2] for seen in record.seen.values())
    assert len(asyncio.all_tasks()) == tasks


async def test_submitting_from_within_the_handler_is_in_order_and_does_not_deadlock() -> None:
    seen: list[int] = []

    async def handler(n: int) -> None:
        seen.append(n)
        if n < 5:
            dispatcher.submit("a", n + 1)
        await anyio.lowlevel.checkpoint()

    async with Dispatcher[Any, Any](handler) as dispatcher:
        dispatcher.submit("a", 0)
        await dispatcher.drain()
    assert seen == [0, 1, 2, 3, 4, 5]


async def test_closing_cancels_what_runs_and_forgets_what_waits() -> None:
    cancelled = anyio.Event()

    async def handler(n: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    dispatcher = Dispatcher[Any, Any](handler)
    async with dispatcher:
        for n in range(5):
            dispatcher.submit("a", n)
        dispatcher.submit("never begun", 0)
        await anyio.lowlevel.checkpoint()
        dispatcher.submit("not begun yet", 0)
    assert cancelled.is_set()
    assert (dispatcher.pending, dispatcher.keys, dispatcher.delivered) == (0, 0, 0)
    with pytest.raises(Closed):
        dispatcher.submit("a", 1)
    await dispatcher.drain()
    await dispatcher.aclose()


async def test_submitting_before_it_is_open_is_refused() -> None:
    async def handler(n: int) -> None: ...

    with pytest.raises(Closed, match="async with"):
        Dispatcher[Any, Any](handler).submit("a", 1)


async def test_cancelling_the_owner_leaves_nothing() -> None:
    tasks = len(asyncio.all_tasks())
    with anyio.CancelScope() as scope:
        async with Dispatcher[Any, Any](hanging_on("a", then=lambda _: None)) as dispatcher:
            dispatcher.submit("a", ("a", 1))
            await anyio.lowlevel.checkpoint()
            scope.cancel()
            await dispatcher.drain()
    assert scope.cancelled_caught
    assert len(asyncio.all_tasks()) == tasks
    assert dispatcher.keys == 0


async def test_cancelling_a_drain_harms_nothing() -> None:
    go = anyio.Event()
    seen: list[int] = []

    async def handler(n: int) -> None:
        await go.wait()
        seen.append(n)

    async with Dispatcher[Any, Any](handler) as dispatcher:
        dispatcher.submit("a", 1)
        with anyio.move_on_after(0):
            await dispatcher.drain()
        go.set()
        await dispatcher.drain()
    assert seen == [1]


async def test_E25_a_handler_that_cancels_its_own_task_has_failed_and_nothing_else_is_lost() -> None:
    seen: list[int] = []
    failures: list[Any] = []
    go = anyio.Event()

    async def handler(n: int) -> None:
        if n == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await anyio.sleep_forever()
        if n == 3:
            await go.wait()
        await anyio.lowlevel.checkpoint()
        seen.append(n)

    async with Dispatcher[Any, Any](handler, on_error=failures.append) as dispatcher:
        dispatcher.submit("b", 3)
        dispatcher.submit("a", 0)
        dispatcher.submit("a", 1)
        await dispatcher.drain("a")
        dispatcher.submit("a", 2)
        go.set()
        await dispatcher.drain()
        assert (dispatcher.pending, dispatcher.keys) == (0, 0)
    assert sorted(seen) == [1, 2, 3]
    assert [(failure.key, failure.item, type(failure.error)) for failure in failures] == [
        ("a", 0, asyncio.CancelledError)
    ]


async def test_what_is_withdrawn_is_not_handled_and_what_waits_behind_it_is() -> None:
    seen: list[str] = []

    async def handler(item: str) -> None:
        seen.append(item)
        if item == "refused":
            raise OSError("no")
        if item == "stuck":
            await anyio.sleep_forever()

    retry = Retry(initial=100, maximum=100)
    async with Dispatcher[Any, Any](handler, retry=retry, on_error=lambda _: None) as dispatcher:
        for item in ("stuck", "waiting", "refused", "last"):
            dispatcher.submit("a", item)
        await anyio.wait_all_tasks_blocked()
        dispatcher.withdraw("a", "waiting")
        dispatcher.withdraw("a", "stuck")
        await anyio.wait_all_tasks_blocked()
        dispatcher.withdraw("a", "refused")  # in the pause before it is handed out again
        dispatcher.withdraw("b", "never there")
        await dispatcher.drain()
        assert dispatcher.pending == 0
    assert seen == ["stuck", "refused", "last"]
