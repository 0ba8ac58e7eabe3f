"""Tests on real daemons; the fixtures are those of ``tests/conftest.py``."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _nothing_left_at_the_end(nothing_left: None) -> None:
    """Checked once, after the last test, whichever tests were run."""
