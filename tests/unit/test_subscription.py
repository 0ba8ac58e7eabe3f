"""Subscriptions: bounded, honest about what was missed, and of no weight for anybody else."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio import (
    Client,
    Event,
    Gap,
    InvalidArgument,
    Lagged,
    ResourceExhausted,
    Subscription,
    TaskExit,
    TaskOOM,
    TaskPaused,
)
from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.services.containers.v1 import (
    Container,
    ContainerRuntime,
    CreateContainerRequest,
    DeleteContainerRequest,
    UpdateContainerRequest,
)
from containerd_aio.api.containerd.services.images import v1 as images
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import FieldMask
from containerd_aio.events import labels as labels_module
from containerd_aio.testing.fake import FakeContainerd

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}")


class StubHub:
    """As much of a hub as a subscription without labels needs."""

    def __init__(self) -> None:
        self.attached: list[Subscription] = []

    async def ready(self) -> None: ...

    def attach(self, subscription: Subscription) -> None:
        self.attached.append(subscription)

    def detach(self, subscription: Subscription) -> None:
        if subscription in self.attached:
            self.attached.remove(subscription)


def subscription(hub: StubHub | None = None, *filters: str, **options: Any) -> Subscription:
    options = {"namespace": None, "buffer": 3} | options
    return Subscription(hub or StubHub(), filters, **options)  # type: ignore[arg-type]


def event(n: int = 0, *, namespace: str = "ns") -> Event:
    return TaskExit("c", "c", n, topic="/tasks/exit", namespace=namespace)


def gap(minute: int) -> Gap:
    since = NOW + timedelta(minutes=minute)
    return Gap(since, since + timedelta(seconds=10), f"break {minute}")


async def read(events: Subscription) -> list[Any]:
    """Read all there is: numbers for events."""
    found: list[Any] = []
    while events.pending or events._missed or events._missed_gap:
        item = await anext(events)
        found.append(item.pid if isinstance(item, TaskExit) else item)
    return found


# -- overflow ----------------------------------------------------------------------------------------------------------


async def test_E29_drop_oldest_says_how_many_and_keeps_the_newest() -> None:
    async with subscription() as events:
        for n in range(10):
            events.offer(event(n))
        assert (events.pending, events.delivered, events.dropped) == (3, 0, 7)
        assert await read(events) == [Lagged(7), 7, 8, 9]
        assert (events.pending, events.delivered, events.dropped) == (0, 4, 7)
        events.offer(event(10))
        assert await read(events) == [10]


async def test_E29_close_ends_with_how_many_were_missed_after_what_was_buffered() -> None:
    hub = StubHub()
    async with subscription(hub, overflow="close") as events:
        for n in range(10):
            events.offer(event(n))
        assert (events.pending, events.dropped) == (3, 7)
        assert [
            item.pid for item in [await anext(events) for _ in range(3)] if isinstance(item, TaskExit)
        ] == [
            0,
            1,
            2,
        ]
        events.offer(event(10))  # missed as well
        with pytest.raises(ResourceExhausted, match="8 events were missed"):
            await anext(events)
        assert hub.attached == []
        with pytest.raises(ResourceExhausted):
            await anext(events)


async def test_E29_block_never_keeps_the_oldest_and_says_where_how_many_are_missing() -> None:
    async with subscription(overflow="block_never") as events:
        for n in range(10):
            events.offer(event(n))
        assert (events.pending, events.dropped) == (3, 7)
        assert (await anext(events)).pid == 0  # type: ignore[union-attr]
        events.offer(event(10))
        events.interrupt(gap(1))
        assert await read(events) == [1, 2, Lagged(7), 10, gap(1)]
        for n in range(5):
            events.offer(event(n))
        assert await read(events) == [0, 1, 2, Lagged(2)]


async def test_E31_a_gap_is_never_lost_to_a_full_buffer() -> None:
    async with subscription() as events:
        events.interrupt(gap(1))
        for n in range(3):
            events.offer(event(n))
        events.interrupt(gap(2))
        for n in range(3, 7):
            events.offer(event(n))
        whole = Gap(gap(1).since, gap(2).until, "break 2")
        assert await read(events) == [Lagged(4), whole, 4, 5, 6]
        assert events.dropped == 4


async def test_E31_a_gap_that_does_not_fit_ends_a_subscription_that_is_to_end() -> None:
    async with subscription(overflow="close", buffer=1) as events:
        events.offer(event(1))
        events.interrupt(gap(1))
        assert isinstance(await anext(events), Gap)
        assert isinstance(await anext(events), TaskExit)
        with pytest.raises(ResourceExhausted):
            await anext(events)


@given(
    st.integers(1, 5),
    st.lists(st.one_of(st.just("read"), st.just("gap"), st.just("event")), max_size=60),
    st.sampled_from(["drop_oldest", "block_never"]),
)
def test_E29_whatever_the_reader_does_nothing_is_unaccounted_for(
    buffer: int, steps: list[str], overflow: str
) -> None:
    async def run() -> None:
        offered, read_items, missed, gaps = 0, [], 0, 0
        async with subscription(buffer=buffer, overflow=overflow) as events:

            async def take() -> None:
                nonlocal missed
                item = await anext(events)
                if isinstance(item, Lagged):
                    missed += item.missed
                    if overflow == "block_never":  # it stands where they would have been
                        read_items.extend(range(len(read_items), len(read_items) + item.missed))
                elif isinstance(item, TaskExit):
                    read_items.append(item.pid)

            for step in steps:
                if step == "read" and (events.pending or events._missed or events._missed_gap):
                    await take()
                elif step == "gap":
                    events.interrupt(gap(gaps))
                    gaps += 1
                elif step == "event":
                    events.offer(event(offered))
                    offered += 1
                assert events.pending <= buffer + (2 if overflow == "block_never" else 0)  # the markers
            while events.pending or events._missed or events._missed_gap:
                await take()
            if overflow == "block_never":
                assert read_items == list(range(offered))
            else:
                assert read_items == sorted(read_items)
                assert len(read_items) + missed == offered
            assert events.dropped == missed

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"buffer": 0}, "buffer is 0"),
        ({"overflow": "spill"}, "one of drop_oldest, block_never, close"),
        ({"labels": {"app": 1}}, "label 'app': 1 is no text"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgument, match=match):
        subscription(**options)


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_a_reader_is_woken_by_the_next_event_and_by_the_end() -> None:
    async with subscription() as events, anyio.create_task_group() as group:
        got: list[Any] = []

        async def reader() -> None:
            async for item in events:
                got.append(item)  # noqa: PERF401 - an async comprehension would show nothing before the end

        group.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        events.offer(event(1))
        await anyio.wait_all_tasks_blocked()
        assert len(got) == 1
        events.close()


async def test_several_readers_share_what_comes_and_all_end() -> None:
    async with subscription(buffer=10) as events, anyio.create_task_group() as group:
        got: list[int] = []

        async def reader() -> None:
            async for item in events:
                assert isinstance(item, TaskExit)
                got.append(item.pid)
                await anyio.lowlevel.checkpoint()

        for _ in range(3):
            group.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        for n in range(5):
            events.offer(event(n))
        await anyio.wait_all_tasks_blocked()
        assert sorted(got) == [0, 1, 2, 3, 4]
        events.close()


@pytest.mark.parametrize("cancelled_first", [False, True])
async def test_cancelling_a_reader_loses_no_event(cancelled_first: bool) -> None:
    async with subscription() as events:
        got: list[Any] = []

        async def reader() -> None:
            item = await anext(events)
            assert isinstance(item, TaskExit)
            got.append(item.pid)

        task = asyncio.create_task(reader())
        await anyio.wait_all_tasks_blocked()
        if cancelled_first:
            task.cancel()
        events.offer(event(7))
        task.cancel()
        await asyncio.wait([task])
        assert got + await read(events) == [7]


async def test_what_is_buffered_can_be_read_after_the_end() -> None:
    async with subscription() as events:
        events.offer(event(1))
    assert [item async for item in events] == [event(1)]


async def test_E04_other_namespaces_and_what_the_filters_refuse_take_no_room() -> None:
    async with subscription(None, 'topic=="/tasks/exit"', namespace="ns") as events:
        for n in range(100):
            events.offer(event(n, namespace="other"))
            events.offer(TaskOOM("c", topic="/tasks/oom", namespace="ns"))
        events.offer(event(7))
        assert await read(events) == [7]
        assert events.dropped == 0


# -- nobody waits for a subscriber -------------------------------------------------------------------------------------


@pytest.fixture
async def fake() -> AsyncIterator[FakeContainerd]:
    async with FakeContainerd() as running:
        yield running


@pytest.fixture
async def client(fake: FakeContainerd) -> AsyncIterator[Client]:
    async with Client(fake.address, namespace="ns") as opened:
        yield opened


async def test_E29_S36_one_that_never_reads_costs_bounded_memory_and_delays_nobody(
    fake: FakeContainerd, client: Client
) -> None:
    payload = wire.TaskOom(container_id="c" * 60)
    async with client.events(buffer=100) as stuck, client.events(buffer=200) as other:
        await client.barrier()
        before: int | None = None
        tracemalloc.start()
        try:
            for round_ in range(30):
                for _ in range(100):
                    fake.publish("/tasks/oom", payload, namespace="ns")
                await client.barrier()
                assert other.pending == 100
                assert len([await anext(other) for _ in range(100)]) == 100
                if round_ == 10:
                    gc.collect()
                    before = tracemalloc.get_traced_memory()[0]
            fake._world.exchange.published.clear()
            gc.collect()
            assert before is not None
            assert tracemalloc.get_traced_memory()[0] < before + 100_000
        finally:
            tracemalloc.stop()
        assert (stuck.pending, stuck.dropped, other.dropped) == (100, 2900, 0)


async def test_E31_a_break_is_told_in_its_place(fake: FakeContainerd, client: Client) -> None:
    async with client.events() as events:
        fake.publish("/tasks/oom", wire.TaskOom(container_id="before"), namespace="ns")
        await client.barrier()
        await fake.drop_connections()
        await client.barrier()
        fake.publish("/tasks/oom", wire.TaskOom(container_id="after"), namespace="ns")
        await client.barrier()
        first, middle, last = [await anext(events) for _ in range(events.pending)]
        assert isinstance(first, TaskOOM)
        assert isinstance(middle, Gap)
        assert isinstance(last, TaskOOM)
        assert (first.container_id, last.container_id) == ("before", "after")
        assert middle.since < middle.until


async def test_closing_the_client_ends_its_subscriptions(fake: FakeContainerd) -> None:
    async with Client(fake.address, namespace="ns") as client:
        events = client.events()
        await events.__aenter__()
    assert [item async for item in events] == []


# -- labels ------------------------------------------------------------------------------------------------------------


def record(name: str, labels: dict[str, str]) -> Container:
    return Container(
        id=name, labels=labels, runtime=ContainerRuntime(name="io.containerd.runc.v2"), spec=SPEC
    )


class Containers:
    """Makes containers and their events in the namespace of a client."""

    def __init__(self, fake: FakeContainerd, client: Client) -> None:
        self.fake = fake
        self.stub = client.services.containers

    async def create(self, name: str, **labels: str) -> None:
        await self.stub.create(CreateContainerRequest(container=record(name, labels)))

    async def update(self, name: str, **labels: str) -> None:
        await self.stub.update(
            UpdateContainerRequest(
                container=Container(id=name, labels=labels), update_mask=FieldMask(paths=["labels"])
            )
        )

    async def delete(self, name: str) -> None:
        await self.stub.delete(DeleteContainerRequest(id=name))

    def happens(self, name: str) -> None:
        self.fake.publish("/tasks/paused", wire.TaskPaused(container_id=name), namespace="ns")

    def calls(self, method: str) -> int:
        return sum(call.method.endswith(f"Containers/{method}") for call in self.fake.calls)


@pytest.fixture
def containers(fake: FakeContainerd, client: Client) -> Containers:
    return Containers(fake, client)


async def settled(client: Client, events: Subscription) -> None:
    """Wait until everything published has come, and the labels of its containers with it."""
    await client.barrier()
    with anyio.fail_after(5):
        while any(labels is not None and not labels.settled for _, labels in events._items):
            await client.version()  # a call that began later and is answered


async def told(client: Client, events: Subscription) -> list[str]:
    """Return what was published by now and is delivered."""
    await settled(client, events)
    names = []
    while (item := events._next()) is not None:
        assert isinstance(item, Event)
        name = getattr(item, "container_id", None) or getattr(item, "id", "")
        names.append(f"{type(item).__name__} {name}")
    return names


async def test_labels_select_events_of_containers_that_were_there_and_that_come(
    client: Client, containers: Containers
) -> None:
    await containers.create("web-1", app="web")
    await containers.create("db-1", app="db")
    async with client.events(labels={"app": "web"}) as events:
        containers.happens("web-1")
        containers.happens("db-1")
        await containers.create("web-2", app="web", tier="front")
        await containers.create("db-2", app="db")
        await containers.create("bare")
        for name in ("web-2", "db-2", "bare"):
            containers.happens(name)
        await containers.delete("db-1")
        await containers.delete("web-1")
        assert await told(client, events) == [
            "TaskPaused web-1",
            "ContainerCreate web-2",
            "TaskPaused web-2",
            "ContainerDelete web-1",
        ]
        assert events.dropped == 0


async def test_labels_cost_no_call_per_event(client: Client, containers: Containers) -> None:
    await containers.create("web", app="web")
    async with client.events(labels={"app": "web"}, buffer=5000) as events:
        containers.happens("web")
        assert len(await told(client, events)) == 1  # the containers were listed, "new" not among them
        await containers.create("new", app="web")
        for _ in range(1000):
            containers.happens("web")
            containers.happens("new")
        assert len(await told(client, events)) == 2001
    assert (containers.calls("ListStream"), containers.calls("Get")) == (1, 1)


async def test_labels_follow_updates_without_a_call(client: Client, containers: Containers) -> None:
    await containers.create("c", app="db")
    async with client.events(labels={"app": "web"}) as events:
        containers.happens("c")
        assert await told(client, events) == []
        await containers.update("c", app="web")
        containers.happens("c")
        await containers.update("c", app="db")
        containers.happens("c")
        assert await told(client, events) == ["ContainerUpdate c", "TaskPaused c"]
    assert containers.calls("Get") == 0


async def test_every_label_must_be_there(client: Client, containers: Containers) -> None:
    await containers.create("half", app="web")
    await containers.create("whole", app="web", tier="front")
    async with client.events(labels={"app": "web", "tier": "front"}) as events:
        containers.happens("half")
        containers.happens("whole")
        assert await told(client, events) == ["TaskPaused whole"]


async def test_a_name_that_is_given_away_again_has_new_labels(client: Client, containers: Containers) -> None:
    async with client.events(labels={"app": "web"}) as events:
        await containers.create("c", app="web")
        await containers.delete("c")
        await containers.create("c", app="db")
        containers.happens("c")
        assert "TaskPaused c" not in await told(client, events)


async def test_events_wait_for_the_labels_and_keep_their_order(
    fake: FakeContainerd, client: Client, containers: Containers
) -> None:
    async with client.events(labels={"app": "web"}) as events:
        await client.barrier()
        held = fake.hold("Containers/Get")
        await containers.create("late", app="web")
        containers.happens("late")
        await client.barrier()
        assert events.pending == 2
        with anyio.move_on_after(0):
            await anext(events)
        assert events.pending == 2
        held.release()
        assert await told(client, events) == ["ContainerCreate late", "TaskPaused late"]


async def test_labels_that_cannot_be_learnt_let_the_event_through(
    fake: FakeContainerd, client: Client, containers: Containers
) -> None:
    async with client.events(labels={"app": "web"}) as events:
        containers.happens("nobody-knows")
        assert await told(client, events) == ["TaskPaused nobody-knows"]


async def test_events_that_are_of_no_container_are_not_selected(fake: FakeContainerd, client: Client) -> None:
    async with client.events(labels={"app": "web"}) as events:
        fake.publish("/images/delete", images.ImageDelete(name="i"), namespace="ns")
        assert await told(client, events) == []


async def test_labels_and_filters_must_both_match(client: Client, containers: Containers) -> None:
    await containers.create("web", app="web")
    async with client.events('topic=="/containers/delete"', labels={"app": "web"}) as events:
        containers.happens("web")
        await containers.delete("web")
        assert await told(client, events) == ["ContainerDelete web"]


async def test_after_a_break_labels_are_learnt_anew_and_the_gone_are_remembered(
    fake: FakeContainerd, client: Client, containers: Containers
) -> None:
    await containers.create("changed", app="web")
    await containers.create("gone", app="db")
    async with client.events(labels={"app": "web"}) as events:
        containers.happens("changed")
        assert await told(client, events) == ["TaskPaused changed"]
        swallowed = fake.swallow_events()
        await containers.update("changed", app="db")
        await containers.delete("gone")
        swallowed.remove()
        await fake.drop_connections()
        await client.barrier()
        assert isinstance(await anext(events), Gap)
        containers.happens("changed")
        containers.happens("gone")
        assert await told(client, events) == []
    assert containers.calls("ListStream") == 2


async def test_labels_of_all_namespaces(fake: FakeContainerd, client: Client, containers: Containers) -> None:
    other = client.namespaced("other")
    await containers.create("c", app="db")
    await other.services.containers.create(CreateContainerRequest(container=record("c", {"app": "web"})))
    async with client.events(labels={"app": "web"}, all_namespaces=True) as events:
        containers.happens("c")
        fake.publish("/tasks/paused", wire.TaskPaused(container_id="c"), namespace="other")
        await client.barrier()
        with anyio.fail_after(5):
            item = await anext(events)
        assert isinstance(item, TaskPaused)
        assert item.namespace == "other"


async def test_a_listing_that_fails_is_made_up_for_one_by_one(
    fake: FakeContainerd, client: Client, containers: Containers
) -> None:
    await containers.create("web", app="web")
    await containers.create("db", app="db")
    fake.fail("Containers/ListStream", "UNIMPLEMENTED", "unknown method")
    async with client.events(labels={"app": "web"}) as events:
        containers.happens("web")
        containers.happens("db")
        assert await told(client, events) == ["TaskPaused web"]


async def test_nothing_is_kept_without_a_subscription_that_selects_by_labels(
    client: Client, containers: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels_module, "KEEP_DELETED", 5)
    cache = client._scope.core.hub.labels
    async with client.events() as plain:
        await containers.create("c", app="web")
        await client.barrier()
        assert len(cache) == 0
        assert plain.pending == 1
    async with client.events(labels={"app": "web"}), client.events(labels={"app": "db"}) as second:
        for n in range(20):
            await containers.create(f"c{n}", app="web")
            await settled(client, second)
            await containers.delete(f"c{n}")
        assert await told(client, second) == []
        assert len(cache) <= 1 + 5  # c, and the last that were deleted
    assert len(cache) == 0
    assert containers.calls("ListStream") == 1
