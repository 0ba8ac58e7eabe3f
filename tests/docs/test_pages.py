"""What the pages name exists: names of the package, files, tests, layers, links."""

from __future__ import annotations

import builtins
import configparser
import importlib.util
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import containerd_aio
from containerd_aio import Client, Container, Daemon, ExitStatus, Image, Process, Task, stdio
from tests.conftest import left_out
from tests.docs.markdown import REPOSITORY, blocks, pages

#: What a name in code before a dot stands for on the pages.
SPOKEN_OF = {
    "client": Client,
    "container": Container,
    "daemon": Daemon,
    "image": Image,
    "process": Process,
    "status": ExitStatus,
    "task": Task,
}
#: Columns of the text outside code blocks and tables.
WIDTH = 130


def _page(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


PAGES = pytest.mark.parametrize("page", pages(), ids=_page)


def _resolve(name: str) -> object:
    """Import `name`, a module or what is in one, as far as there are modules."""
    parts = name.split(".")
    found: object = import_module(parts[0])
    for n, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = import_module(".".join(parts[:n]))
    return found


@PAGES
def test_names_of_the_package_exist(page: Path) -> None:
    for name in re.findall(r"\bcontainerd_aio(?:\.\w+)+", page.read_text(encoding="utf-8")):
        _resolve(name)


@PAGES
def test_methods_that_are_spoken_of_exist(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        match = re.match(r"(?:await )?(\w+)\.(\w+)", code)
        if match is None:
            continue
        owner = SPOKEN_OF.get(match[1]) or getattr(containerd_aio, match[1], None)
        if owner is not None and not hasattr(owner, match[2]):
            assert re.search(rf"^ +{match[2]}: ", owner.__doc__ or "", re.MULTILINE), code  # under Attributes


@PAGES
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:\w+/)+[\w.-]*|Makefile|[\w.]+\.toml)`", text):
        top = name.split("/")[0]
        if (REPOSITORY / top).exists():
            assert (REPOSITORY / name).exists(), name


@PAGES
def test_tests_that_are_named_exist(page: Path) -> None:
    wanted = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    if wanted:
        sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py")]
        defined = {name for source in sources for name in re.findall(r"def (test_\w+)\(", source)}
        assert wanted <= defined


@PAGES
def test_lines_are_not_too_long(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        assert fenced or line.startswith("|") or len(line) <= WIDTH, f"{_page(page)}:{number}"


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_layers_are_those_of_the_linter() -> None:
    contract = configparser.ConfigParser()
    contract.read(REPOSITORY / ".importlinter")
    layers = contract["importlinter:contract:layers"]["layers"].strip().splitlines()
    drawn = blocks(REPOSITORY / "docs" / "architecture.md")[0].text.splitlines()
    assert drawn == [re.sub(r"[()]", "", layer).strip() for layer in layers]


def test_every_public_name_has_its_line() -> None:
    text = (
        (REPOSITORY / "docs" / "reference.md")
        .read_text(encoding="utf-8")
        .partition("## Below the surface")[0]
    )
    listed = re.findall(r"^\| `([\w.]+)` \| \S.* \|$", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    functions = {f"stdio.{name}" for name in stdio.__all__}
    assert set(listed) == {*containerd_aio.__all__, *functions}


def test_errors_are_listed_in_the_guide() -> None:
    text = (REPOSITORY / "docs" / "guide" / "errors.md").read_text(encoding="utf-8")
    for name in containerd_aio.__all__:
        value = getattr(containerd_aio, name)
        if isinstance(value, type) and issubclass(value, builtins.BaseException):
            assert f"`{name}`" in text, name


def test_every_decision_is_listed() -> None:
    folder = REPOSITORY / "docs" / "decisions"
    listed = re.findall(
        r"^\d+\. \[.+\]\((.+)\)$", (folder / "index.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert listed == sorted(path.name for path in folder.glob("0*.md"))
    for number, name in enumerate(listed, 1):
        assert (folder / name).read_text(encoding="utf-8").startswith(f"# {number}. ")
        assert name.startswith(f"{number:04}-")


def test_the_site_is_built_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        left_out("mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md"], ids=_page)
def test_links_from_the_top_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (REPOSITORY / target).exists(), target


def test_every_example_is_run() -> None:
    files = [
        Path(__file__).with_name("test_examples.py"),
        *(REPOSITORY / "tests/integration").glob("test_*.py"),
    ]
    tests = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [
        path.name for path in (REPOSITORY / "examples").glob("*.py") if f'"{path.name}"' not in tests
    ] == []
