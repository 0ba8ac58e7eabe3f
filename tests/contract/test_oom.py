"""Out of memory: the event, the exit, and what the cgroup remembers."""

from __future__ import annotations

from typing import Any

from containerd_aio import TaskExit, oci, typeurl
from containerd_aio.api.containerd.services.tasks.v1 import DeleteTaskRequest, MetricsRequest
from containerd_aio.testing.fake import Fate
from tests.contract.backend import Backend, refused, short

EATER = ["sh", "-c", "x=a; while :; do x=$x$x; done"]
LIMIT = oci.with_memory_limit(20 << 20)


async def _oom_kills(backend: Backend, name: str) -> int:
    reply = await backend.tasks.metrics(MetricsRequest(filters=[f"id=={name}"]))
    (metric,) = reply.metrics
    assert metric.id == name
    assert metric.data is not None
    metrics: Any = typeurl.unpack(metric.data)
    control = getattr(metrics, "memory_oom_control", None)  # of cgroups v1
    kills: int = (metrics.memory_events if control is None else control).oom_kill
    return kills


async def test_an_oom_kill(backend: Backend) -> None:
    name = backend.id()
    backend.script(name, Fate(oom=True))
    async with backend.recorder() as recorder, backend.running(*EATER, id=name, spec_opts=[LIMIT]):
        assert await backend.wait(name) == 137
        assert await _oom_kills(backend, name) >= 1  # until it is deleted
        events = short(await recorder.until(lambda event: isinstance(event, TaskExit)))
        # A busy machine may lose the event, or send it late or twice.
        assert [event for event in events if event[0] != "oom"] == [
            ("create", ""),
            ("start", ""),
            ("exit", ""),
        ]
        await backend.tasks.delete(DeleteTaskRequest(container_id=name))
        assert (await backend.tasks.metrics(MetricsRequest(filters=[f"id=={name}"]))).metrics == []


async def test_the_library_tells_it(backend: Backend) -> None:
    name = backend.id()
    backend.script(name, Fate(oom=True, oom_event="never"))
    async with backend.running(*EATER, id=name, spec_opts=[LIMIT]) as (_, task):
        status = await task.wait(timeout=20)
        assert (status.code, status.oom_killed, status.oom_known) == (137, True, True)


async def test_metrics(backend: Backend) -> None:
    async with backend.running() as (name, _):
        assert await _oom_kills(backend, name) == 0
        namespace = backend.client.namespace
        for filters in [
            [f"namespace=={namespace}"],
            [f"id=={name},namespace=={namespace}"],
            ["id==x", f"id=={name}"],
        ]:
            reply = await backend.tasks.metrics(MetricsRequest(filters=filters))
            assert [metric.id for metric in reply.metrics] == [name]
        assert (await backend.tasks.metrics(MetricsRequest(filters=["id==x"]))).metrics == []
        class_name, text = await refused(backend.tasks.metrics(MetricsRequest(filters=["id=x"])))
        assert class_name == "Unknown"
        assert text.startswith("filters: parse error: [")
        assert text.endswith(": invalid argument")
