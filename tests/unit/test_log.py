"""Log events go to structlog once the application has configured it, and never to stdout before."""

from __future__ import annotations

import logging

import pytest
import structlog
from structlog.testing import capture_logs

from containerd_aio._log import get_logger


@pytest.fixture(autouse=True)
def _unconfigured() -> None:
    structlog.reset_defaults()


def test_without_structlog_nothing_reaches_stdout_and_warnings_reach_logging(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = get_logger("containerd_aio.test").bind(container_id="web", exec_id=None)
    log.info("quiet")
    log.warning("odd", code=3)
    assert capsys.readouterr().out == ""
    assert [record.getMessage() for record in caplog.records] == ["odd container_id='web' code=3"]
    assert caplog.records[0].name == "containerd_aio.test"


def test_with_structlog_every_event_goes_there_with_its_values() -> None:
    log = get_logger("containerd_aio.test").bind(container_id="web")
    with capture_logs() as events:
        log.debug("seen", n=1)
    assert events == [{"event": "seen", "log_level": "debug", "container_id": "web", "n": 1}]


def test_exceptions_are_told(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        get_logger("containerd_aio.test").exception("failed")
    assert caplog.records[0].levelno == logging.ERROR
    assert caplog.records[0].exc_info is not None
