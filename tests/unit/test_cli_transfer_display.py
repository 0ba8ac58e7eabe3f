"""Progress as lines and as bars."""

from __future__ import annotations

import io

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
    ]
    assert "late" in progress.state
