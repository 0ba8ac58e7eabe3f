"""What is decided before a task is asked for, and what is made of the daemon's words about one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from containerd_aio import (
    Cgroup1Metrics,
    Cgroup2Metrics,
    CheckpointOptions,
    ContainerInfo,
    InvalidArgument,
    Mount,
    ProcessInfo,
    TaskMetrics,
    oci,
    typeurl,
)
from containerd_aio._mount import temporary_mount
from containerd_aio._new_task import merged_options, with_mount_label
from containerd_aio.api.containerd.runc.v1 import Options, ProcessDetails
from containerd_aio.api.containerd.services.containers.v1 import Container as RawContainer
from containerd_aio.api.containerd.services.containers.v1 import ContainerRuntime
from containerd_aio.api.containerd.types import Metric
from containerd_aio.api.containerd.v1.types import ProcessInfo as RawProcessInfo
from containerd_aio.api.io.containerd.cgroups import v1, v2
from containerd_aio.api.runtimeoptions.v1 import Options as OtherOptions


def info(options: Any = None) -> ContainerInfo:
    packed = None if options is None else typeurl.pack(options)
    return ContainerInfo.from_raw(RawContainer(id="c", runtime=ContainerRuntime(name="r", options=packed)))


@pytest.mark.shows("go:TestNewTaskWithRuntimeOption")
def test_options_of_a_task_are_put_over_those_of_its_container() -> None:
    own = oci.RuncOptions(root="/state", io_uid=1)
    assert merged_options(info(own.raw), None) is None  # the daemon takes the container's
    sent = merged_options(info(own.raw), oci.RuncOptions(io_uid=2, shim_cgroup="/s"))
    assert sent is not None
    assert sent.type_url == "containerd.runc.v1.Options"
    assert typeurl.unpack(sent) == Options(root="/state", io_uid=2, shim_cgroup="/s")
    alone = merged_options(info(), oci.RuncOptions(io_gid=3))
    assert alone is not None
    assert typeurl.unpack(alone) == Options(io_gid=3)
    with pytest.raises(InvalidArgument, match="another kind"):
        merged_options(info(OtherOptions(config_path="/x")), oci.RuncOptions())


def test_mounts_get_the_label_of_the_spec() -> None:
    mounts = [Mount("overlay", "overlay", options=("index=off",)), Mount("bind", "/x")]
    assert with_mount_label(mounts, {"linux": {}}) == mounts
    labelled = with_mount_label(mounts, {"linux": {"mountLabel": "system_u:object_r:t:s0:c1,c2"}})
    context = 'context="system_u:object_r:t:s0:c1,c2"'
    assert labelled == [
        replace(mounts[0], options=("index=off", context)),
        replace(mounts[1], options=(context,)),
    ]


async def test_a_bind_mount_needs_no_mounting(tmp_path: Path) -> None:
    for mount in (
        Mount("bind", str(tmp_path), options=("rbind", "rw")),
        Mount("", str(tmp_path), options=("bind",)),
    ):
        async with temporary_mount([mount]) as path:
            assert path == tmp_path
    assert tmp_path.is_dir()


def test_processes_as_runc_tells_of_them() -> None:
    details = typeurl.pack(ProcessDetails(exec_id="e"))
    assert ProcessInfo.from_raw(RawProcessInfo(pid=5, info=details)).exec_id == "e"
    unknown = typeurl.pack(b"?", "somebody.else/Details")
    for raw in (RawProcessInfo(pid=5), RawProcessInfo(pid=5, info=unknown)):
        assert (ProcessInfo.from_raw(raw).pid, ProcessInfo.from_raw(raw).exec_id) == (5, None)


def metrics(data: Any) -> TaskMetrics:
    return TaskMetrics.from_raw(Metric(id="c", data=typeurl.pack(data) if data is not None else None))


def test_metrics_of_cgroups_of_version_1() -> None:
    measured = metrics(
        v1.Metrics(
            pids=v1.PidsStat(current=3, limit=9),
            cpu=v1.CpuStat(usage=v1.CpuUsage(total=7, per_cpu=[3, 4])),
            memory=v1.MemoryStat(cache=1, usage=v1.MemoryEntry(usage=5, limit=6)),
            memory_oom_control=v1.MemoryOomControl(oom_kill=2),
            blkio=v1.BlkIoStat(io_serviced_recursive=[v1.BlkIoEntry(op="Read", major=8, value=4)]),
            hugetlb=[v1.HugetlbStat(pagesize="2MB", usage=1)],
        )
    )
    assert isinstance(measured.data, Cgroup1Metrics)
    assert (measured.memory_usage, measured.cpu_usage, measured.pids, measured.oom_kills) == (5, 7, 3, 2)
    assert measured.data.cpu is not None
    assert measured.data.cpu.usage is not None
    assert measured.data.cpu.usage.per_cpu == (3, 4)
    assert measured.data.cpu.throttling is None
    assert measured.data.blkio is not None
    assert measured.data.blkio.io_serviced_recursive[0].op == "Read"
    assert measured.data.hugetlb[0].pagesize == "2MB"


def test_metrics_of_cgroups_of_version_2() -> None:
    measured = metrics(
        v2.Metrics(
            pids=v2.PidsStat(current=3),
            cpu=v2.CpuStat(usage_usec=7, psi=v2.PsiStats(some=v2.PsiData(avg10=0.5))),
            memory=v2.MemoryStat(usage=5, usage_limit=6),
            memory_events=v2.MemoryEvents(oom_kill=2),
            io=v2.IoStat(usage=[v2.IoEntry(rbytes=4)]),
        )
    )
    assert isinstance(measured.data, Cgroup2Metrics)
    assert (measured.memory_usage, measured.cpu_usage, measured.pids, measured.oom_kills) == (5, 7000, 3, 2)
    assert measured.data.cpu is not None
    assert measured.data.cpu.psi is not None
    assert measured.data.cpu.psi.some is not None
    assert measured.data.cpu.psi.some.avg10 == 0.5
    assert measured.data.io is not None
    assert measured.data.io.usage[0].rbytes == 4


@pytest.mark.parametrize(
    "data", [None, v1.Metrics(), v2.Metrics(), ProcessDetails(exec_id="of another kind")]
)
def test_what_is_not_measured_is_none(data: Any) -> None:
    measured = metrics(data)
    assert [measured.memory_usage, measured.cpu_usage, measured.pids, measured.oom_kills] == [None] * 4


def test_every_number_of_the_daemon_has_its_place() -> None:
    for raw, ours in ((v1, Cgroup1Metrics), (v2, Cgroup2Metrics)):
        _same_names(raw.Metrics, ours)


def _same_names(raw: Any, ours: Any) -> None:
    from dataclasses import fields, is_dataclass
    from typing import get_args, get_type_hints

    hints, raw_hints = get_type_hints(ours), get_type_hints(raw)
    assert {f.name for f in fields(ours)} == {f.name for f in fields(raw)}, ours
    for name, hint in hints.items():
        part = next((p for p in get_args(hint) if is_dataclass(p)), None)
        raw_part = next((p for p in get_args(raw_hints[name]) if is_dataclass(p)), None)
        assert (part is None) == (raw_part is None), (ours, name)
        if part is not None:
            _same_names(raw_part, part)


@pytest.mark.parametrize("wrong", [{"image_path": "here"}, {"work_path": "."}, {"cgroups_mode": "hard"}])
def test_options_of_a_checkpoint_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        CheckpointOptions(**wrong)


@pytest.mark.shows("seed:containerd.CheckpointTaskInfo")
def test_options_of_a_checkpoint_as_they_are_sent() -> None:
    options = CheckpointOptions(exit=True, file_locks=True, empty_namespaces=["network"], image_path="/x")
    raw = options.raw
    assert (raw.exit, raw.file_locks, raw.empty_namespaces, raw.image_path) == (True, True, ["network"], "/x")
    assert not CheckpointOptions().raw.exit
