"""The pytest plugin, in a session of its own: the tests on the page about it, and a few more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

MORE = """
import pytest
from containerd_aio.testing import FakeContainerd


@pytest.mark.fake_containerd(release="1.6")
async def test_the_mark(fake_containerd, containerd_client):
    assert isinstance(fake_containerd, FakeContainerd)
    assert containerd_client.address == fake_containerd.address
    assert str(await containerd_client.version()) == "1.6.20"


async def test_each_test_has_its_own(fake_containerd, containerd_client):
    assert str(await containerd_client.version()) == "2.1.9"
    assert await containerd_client.containers() == []
"""


def test_the_plugin(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "guide" / "testing.md").read_text(encoding="utf-8")
    shown = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def test_" in block]
    assert shown
    (tmp_path / "test_shown.py").write_text("\n\n".join([*shown, MORE]), encoding="utf-8")
    plugins = ["-p", "pytest_asyncio.plugin", "-p", "containerd_aio.testing.pytest_plugin"]
    options = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", "-W", "error"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", *plugins, *options, str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b3 passed\b", done.stdout), done.stdout


def test_the_names_of_the_package() -> None:
    from containerd_aio import testing

    lazy = {name for names in testing._HOMES.values() for name in names}
    assert lazy == set(testing.__all__) == set(dir(testing))
    for name in set(testing.__all__) - {"Program"}:  # a type alias
        assert getattr(testing, name).__doc__, name


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, containerd_aio.testing; print([m for m in sys.modules if m.split('.')[0] in ('grpclib','anyio','asyncio','pytest')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
