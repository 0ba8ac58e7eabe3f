"""What the documentation consists of: its pages, their Python blocks, and what those shall print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_NOT_RUN = re.compile(r"<!-- not run:(.*)-->")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: The page it stands on, from the top of the repository.
        line: Number of its first line.
        language: What stands behind the opening fence.
        text: The code.
        output: The ``text`` block directly behind it; None when there is none.
        not_run: The reason in ``<!-- not run: reason -->`` directly above it; None when there is no such comment.
    """

    page: str
    line: int
    language: str
    text: str
    output: str | None = None
    not_run: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def code(self) -> str:
        """The code, with as many empty lines in front that line numbers are those of the page."""
        return "\n" * (self.line - 1) + self.text


def pages() -> list[Path]:
    """Every page of the documentation, README and CHANGELOG included."""
    docs = sorted((REPOSITORY / "docs").rglob("*.md"))
    return [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *docs]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found: list[Block] = []
    for line, language, text, before in _fences(page.read_text(encoding="utf-8").splitlines()):
        reason = _NOT_RUN.fullmatch(before[-1].strip()) if before else None
        if language == "text" and found and found[-1].language == "python" and not any(before):
            last = found.pop()
            found.append(Block(last.page, last.line, last.language, last.text, text, last.not_run))
            continue
        name = str(page.relative_to(REPOSITORY))
        found.append(Block(name, line, language, text, not_run=reason and reason[1].strip()))
    return found


def _fences(lines: list[str]) -> Iterator[tuple[int, str, str, list[str]]]:
    """Yield line number, language, text, and the lines between this block and the one before, outer blanks cut."""
    between: list[str] = []
    position = 0
    while position < len(lines):
        opening = re.fullmatch(r"( *)```(\w*)", lines[position])
        if opening is None:
            between.append(lines[position])
            position += 1
            continue
        closing = lines.index(opening[1] + "```", position + 1)
        text = "".join(line.removeprefix(opening[1]) + "\n" for line in lines[position + 1 : closing])
        while between and not between[-1].strip():
            between.pop()
        yield position + 2, opening[2], text, between
        between, position = [], closing + 1
