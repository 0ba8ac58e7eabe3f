"""Progress as lines and as bars."""

from __future__ import annotations

import io
import re

import pytest

from containerd_aio.cli.transfer_display import TransferDisplay, human_size, short_name
from containerd_aio.distribution.progress import Action, Progress, ProgressEvent

DIGEST = "sha256:" + "0123456789abcdef" * 4


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEPS = [
    ProgressEvent(Action.RESOLVING, "example.com/a:1"),
    ProgressEvent(Action.RESOLVED, "example.com/a:1"),
    ProgressEvent(Action.WAITING, DIGEST, 0, 1_500_000),
    *(ProgressEvent(Action.DOWNLOADING, DIGEST, n * 300_000, 1_500_000) for n in range(5)),
    ProgressEvent(Action.DONE, DIGEST, 1_500_000, 1_500_000),
    ProgressEvent(Action.DONE, DIGEST, 1_500_000, 1_500_000),
    ProgressEvent(Action.UNPACKING, DIGEST, 0, 1_500_000),
    ProgressEvent(Action.UNPACKED, DIGEST, 1_500_000, 1_500_000),
    ProgressEvent(Action.OTHER, "layer", text="extracting"),
    ProgressEvent(Action.OTHER, "", text="Resolving from OCI Registry (example.com/a:1)"),
]


def test_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with TransferDisplay(stream=out) as display:
        for step in STEPS:
            display(step)
    assert out.getvalue().splitlines() == [
        "example.com/a:1: resolving",
        "example.com/a:1: resolved",
        "sha256:0123456789ab: done 1.5 MB",
        "sha256:0123456789ab: unpacking 1.5 MB",
        "sha256:0123456789ab: unpacked 1.5 MB",
        "layer: extracting",
        "Resolving from OCI Registry (example.com/a:1)",
    ]


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    with TransferDisplay(stream=out) as display:
        for step in STEPS:
            display(step)
        display._bars.refresh()
    last = out.getvalue()
    assert "sha256:0123456789ab" in last
    assert "unpacked" in last
    assert "1.5/1.5 MB" in last
    assert "\x1b[" in last


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_there_is_a_bar_whatever_the_names_and_the_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Terminal()
    with TransferDisplay(stream=out) as display:
        for name in ("registry.example.com/somewhere/deep/down/team/application:1.2.3", "/tmp/[/b].tar"):
            display(ProgressEvent(Action.READING, name, 1_000_000, 2_000_000))
        display(STEPS[-1])
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= columns
    for begin in ("registry", "/tmp/[/b]", "Resolving"):
        last = next(line for line in reversed(lines) if line.startswith(begin))
        assert ("━" in last) == (columns > 30)
        assert ("1.0/2.0 MB" in last) == (columns > 70 and begin != "Resolving")


def test_quiet_is_quiet() -> None:
    for out in (io.StringIO(), Terminal()):
        with TransferDisplay(quiet=True, stream=out) as display:
            for step in STEPS:
                display(step)
        assert not out.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (2_000_000, "2.0 MB"),
        (3 * 10**9, "3.0 GB"),
        (10**13, "10.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert human_size(count) == text


def test_names() -> None:
    assert short_name(DIGEST) == "sha256:0123456789ab"
    assert short_name("example.com/a:1") == "example.com/a:1"


async def test_the_iterator_has_the_latest_step_of_each_object_and_ends() -> None:
    async with Progress() as progress:
        for step in STEPS:
            progress(step)
        progress.close()
        progress(ProgressEvent(Action.DONE, "late"))
        got = [event async for event in progress]
    assert [(e.name, e.action) for e in got] == [
        ("example.com/a:1", Action.RESOLVED),
        (DIGEST, Action.UNPACKED),
        ("layer", Action.OTHER),
        ("", Action.OTHER),
    ]
    assert "late" in progress.state
