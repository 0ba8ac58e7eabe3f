"""Events as lines; the library's log as lines."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from containerd_aio.cli.event_lines import describe, json_line, line
from containerd_aio.cli.logs import configure_logs
from containerd_aio.events.event import Event, Gap, Lagged, UnknownEvent
from containerd_aio.events.model import (
    ContainerCreate,
    ContainerRuntime,
    ImageCreate,
    SnapshotPrepare,
    TaskCreate,
    TaskExecStarted,
    TaskExit,
    TaskOOM,
)

AT = 1_700_000_000_123_456_789
SINCE = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)


def _common(topic: str) -> dict[str, Any]:
    return {"topic": topic, "namespace": "default", "timestamp_ns": AT}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            TaskExit("web", "web", 42, 0, AT, **_common("/tasks/exit")),
            "2023-11-14T22:13:20.123Z default /tasks/exit        web pid=42 exit_status=0",
        ),
        (
            TaskExit("web", "shell", 43, 137, AT, **_common("/tasks/exit")),
            "2023-11-14T22:13:20.123Z default /tasks/exit        web/shell pid=43 exit_status=137",
        ),
        (
            TaskExecStarted("web", "shell", 43, **_common("/tasks/exec-started")),
            "2023-11-14T22:13:20.123Z default /tasks/exec-started web/shell pid=43",
        ),
        (
            TaskCreate("web", "/run/bundle", pid=42, **_common("/tasks/create")),
            "2023-11-14T22:13:20.123Z default /tasks/create      web pid=42",
        ),
        (
            TaskOOM("web", origin="resync", **_common("/tasks/oom")),
            "2023-11-14T22:13:20.123Z default /tasks/oom         web (resync)",
        ),
        (
            ImageCreate("busybox", {"a": "b c"}, **_common("/images/create")),
            "2023-11-14T22:13:20.123Z default /images/create     busybox labels.a='b c'",
        ),
        (
            SnapshotPrepare("key", "parent", **_common("/snapshot/prepare")),
            "2023-11-14T22:13:20.123Z default /snapshot/prepare  key parent=parent",
        ),
        (
            UnknownEvent("x.Y", b"123", **_common("/x/y")),
            "2023-11-14T22:13:20.123Z default /x/y               x.Y bytes=3",
        ),
        (TaskOOM("web", topic="/tasks/oom"), "- - /tasks/oom         web"),
    ],
)
def test_lines(event: Event, text: str) -> None:
    assert line(event) == text


def test_nested_fields() -> None:
    event = ContainerCreate("web", "busybox", ContainerRuntime("runc"), **_common("/containers/create"))
    assert describe(event) == ("web", ["image=busybox", "runtime.name=runc"])


def test_markers() -> None:
    gap = Gap(SINCE, SINCE + timedelta(seconds=1.25), "the daemon died")
    assert line(gap) == "-- gap 2026-01-02T03:04:05.678Z to 2026-01-02T03:04:06.928Z (1.2 s): the daemon died"
    assert line(Lagged(7)).startswith("-- lagged: 7 events were dropped")
    assert json.loads(json_line(gap))["gap"]["reason"] == "the daemon died"
    assert json_line(Lagged(7)) == '{"lagged":{"missed":7}}'


def test_json_is_one_line_with_everything() -> None:
    event = TaskExit("wéb\n", "web", 42, 7, AT, **_common("/tasks/exit"))
    text = json_line(event)
    assert "\n" not in text
    assert json.loads(text) == {
        "timestamp": "2023-11-14T22:13:20.123456789Z",
        "namespace": "default",
        "topic": "/tasks/exit",
        "type": "containerd.events.TaskExit",
        "origin": "live",
        "event": {
            "container_id": "wéb\n",
            "id": "web",
            "pid": 42,
            "exit_status": 7,
            "exited_at": "2023-11-14T22:13:20.123456789Z",
        },
    }


def test_colour_is_only_around() -> None:
    event = TaskExit("web", "web", 42, 0, AT, **_common("/tasks/exit"))
    coloured = line(event, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == line(event)


def test_names_cannot_write_on_the_terminal() -> None:
    event = ImageCreate("evil\x1b[2J\nname", **_common("/images/create"))
    assert line(event).endswith("evil\\x1b[2J\\nname")


def test_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("warning", tracebacks=False)
    try:
        log = structlog.get_logger().bind(container_id="web", exec_id=None)
        log.info("not shown")
        log.warning("output lost", waited=5)
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")
    finally:
        structlog.reset_defaults()
    assert capsys.readouterr().err.splitlines() == [
        "containerd-aio: warning: output lost (container_id=web, waited=5)",
        "containerd-aio: error: failed (container_id=web): why",
    ]
