"""The labels of the restart monitor: what they look like, and what the monitor makes of them."""

from __future__ import annotations

import pytest

from containerd_aio import ExitStatus, InvalidArgument, RestartPolicy, RestartState, restart


def ended(code: int) -> ExitStatus:
    return ExitStatus(code=code, exited_at_ns=None, pid=1, source="event")


def test_labels() -> None:
    assert restart.labels("running") == {"containerd.io/restart.status": "running"}
    policy = RestartPolicy.on_failure(3)
    assert restart.labels("running", policy=policy, log_uri="file:///var/log/x") == {
        "containerd.io/restart.status": "running",
        "containerd.io/restart.policy": "on-failure:3",
        "containerd.io/restart.loguri": "file:///var/log/x",
    }
    assert (
        restart.labels("stopped", policy="unless-stopped")["containerd.io/restart.policy"] == "unless-stopped"
    )
    assert restart.explicitly_stopped() == {"containerd.io/restart.explicitly-stopped": "true"}
    assert restart.explicitly_stopped(False) == {"containerd.io/restart.explicitly-stopped": None}
    everything = restart.labels("running", policy="always", log_uri="/x") | restart.explicitly_stopped()
    assert everything.keys() | {"containerd.io/restart.count"} == restart.no_restarts().keys()
    assert {*restart.no_restarts().values()} == {None}


@pytest.mark.parametrize("text", ["no", "always", "on-failure", "on-failure:5", "unless-stopped"])
def test_a_policy_is_read_as_it_is_written(text: str) -> None:
    assert str(RestartPolicy.parse(text)) == text


def test_the_monitor_takes_no_policy_for_always_and_no_count_for_no_limit() -> None:
    assert RestartPolicy.parse("") == RestartPolicy("always")
    assert str(RestartPolicy.parse("on-failure:0")) == "on-failure"


@pytest.mark.parametrize(
    "text",
    ["sometimes", "always:3", "no:0", "on-failure:", "on-failure:x", "on-failure:-1", "on-failure:1:2"],
)
def test_policies_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="restart policy"):
        RestartPolicy.parse(text)


def test_what_can_not_be_asked_of_the_monitor() -> None:
    with pytest.raises(InvalidArgument, match="only on-failure"):
        RestartPolicy("always", 2)
    with pytest.raises(InvalidArgument, match="running or stopped"):
        restart.labels("paused")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="log URI"):
        restart.labels("running", log_uri="log.txt")
    with pytest.raises(InvalidArgument, match="no number"):
        RestartState.from_labels({"containerd.io/restart.count": "many"})


@pytest.mark.parametrize(
    ("policy", "extra", "after_0", "after_1"),
    [
        ("", {}, True, True),
        ("always", {}, True, True),
        ("no", {}, False, False),
        ("on-failure", {"count": "9"}, False, True),
        ("on-failure:2", {"count": "1"}, False, True),
        ("on-failure:2", {"count": "2"}, False, False),
        ("on-failure:2", {}, False, True),
        ("unless-stopped", {}, True, True),
        ("unless-stopped", {"explicitly-stopped": "true"}, False, False),
        ("unless-stopped", {"explicitly-stopped": "false"}, True, True),
    ],
)
def test_what_the_monitor_does(policy: str, extra: dict[str, str], after_0: bool, after_1: bool) -> None:
    labels = {"containerd.io/restart.status": "running", "containerd.io/restart.policy": policy}
    labels |= {f"containerd.io/restart.{name}": value for name, value in extra.items()}
    state = RestartState.from_labels(labels)
    assert (state.restarts(ended(0)), state.restarts(ended(1))) == (after_0, after_1)
    for status in ("stopped", "", "odd"):
        left_alone = RestartState.from_labels(labels | {"containerd.io/restart.status": status})
        assert not left_alone.restarts(ended(1))
        assert left_alone.desired in {"stopped", None}
