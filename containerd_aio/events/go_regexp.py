r"""Go's regular expressions (RE2's syntax), as containerd matches them, on Python's ``re``.

containerd takes a regular expression it can't compile without a word, and then it never matches. So expressions are
read here by Go's own rules (Go: regexp/syntax with the flags of ``regexp.Compile``), refused with a reason when Go would
not compile them, and written down again for ``re`` where the two languages differ:

* ``^`` and ``$`` mean the ends of the text, ``\d``, ``\w``, ``\s`` and ``\b`` are about ASCII, ``\s`` has no ``\v``;
* ``(?i)`` may stand anywhere and counts to the end of its group, ``(?U)`` swaps greedy and lazy;
* ``[[:alpha:]]``, ``\pN``, ``\Q..\E``, ``\z`` and ``\x{1F600}`` exist;
* backreferences, lookaround, atomic groups, possessive repeats, conditionals, comments and ``\Z`` do not.

What is known and not the same: ``\p{Greek}`` and the other scripts are refused, because Python has no table of them; and
``re`` needs time exponential in the length of the text for some expressions that RE2 matches in linear time.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

_MAX_RUNE = sys.maxunicode
_MAX_REPEAT = 1000
_MAX_DEPTH = 1000

Ranges = list[tuple[int, int]]

_DIGIT: Ranges = [(0x30, 0x39)]
_UPPER: Ranges = [(0x41, 0x5A)]
_LOWER: Ranges = [(0x61, 0x7A)]
_WORD = [*_DIGIT, *_UPPER, (0x5F, 0x5F), *_LOWER]
_POSIX: dict[str, Ranges] = {
    "alnum": [*_DIGIT, *_UPPER, *_LOWER],
    "alpha": [*_UPPER, *_LOWER],
    "ascii": [(0x00, 0x7F)],
    "blank": [(0x09, 0x09), (0x20, 0x20)],
    "cntrl": [(0x00, 0x1F), (0x7F, 0x7F)],
    "digit": _DIGIT,
    "graph": [(0x21, 0x7E)],
    "lower": _LOWER,
    "print": [(0x20, 0x7E)],
    "punct": [(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)],
    "space": [(0x09, 0x0D), (0x20, 0x20)],
    "upper": _UPPER,
    "word": _WORD,
    "xdigit": [*_DIGIT, (0x41, 0x46), (0x61, 0x66)],
}
_PERL: dict[str, Ranges] = {"d": _DIGIT, "s": [(0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20)], "w": _WORD}
_CONTROL = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_ASSERTIONS = {"A": r"\A", "z": r"\Z", "b": r"(?a:\b)", "B": r"(?a:(?!\b))"}
_HINTS = {
    "=": "lookaround",
    "!": "lookaround",
    "<": "lookaround",
    ">": "atomic groups",
    "#": "comments",
    "(": "conditionals",
    "|": "branch resets",
}


def compile_go(expression: str) -> re.Pattern[str]:
    """Compile `expression` as Go's ``regexp.Compile`` would; use ``search`` on the result, as containerd does.

    Raises:
        ValueError: Go would not compile it, or Python's ``re`` can't express it; the message says which and where.
    """
    translated = _Parser(expression).parse()
    try:
        return re.compile(translated)
    except (re.error, RecursionError, OverflowError) as exc:
        raise ValueError(f"too complex for Python's re: {exc}") from exc


class _Flags(NamedTuple):
    fold: bool = False  # i
    lines: bool = False  # m
    dot_all: bool = False  # s
    lazy: bool = False  # U


class _Node(NamedTuple):
    """A piece of the translation.

    `text` is in Python's syntax; a quantifier may be put right behind it if it is an `atom`. `repeat` is how often the
    innermost part is repeated at most, of which Go wants no more than a thousand.
    """

    text: str
    atom: bool = False
    repeat: int = 1


@dataclass
class _Group:
    """A parenthesis that is still open: its alternatives so far, the last one growing, and the flags outside of it."""

    outer: _Flags
    done: list[list[_Node]] = field(default_factory=list)
    items: list[_Node] = field(default_factory=list)

    def close(self) -> _Node:
        branches = [*self.done, self.items]
        text = "|".join("".join(node.text for node in branch) for branch in branches)
        return _Node(f"(?:{text})", atom=True, repeat=max([n.repeat for b in branches for n in b], default=1))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.flags = _Flags()
        self.groups = [_Group(self.flags)]

    def error(self, reason: str, at: int | None = None) -> ValueError:
        return ValueError(f"{reason} (at character {(self.pos if at is None else at) + 1} of {self.text!r})")

    def peek(self, text: str) -> bool:
        return self.text.startswith(text, self.pos)

    def take(self) -> str:
        if self.pos >= len(self.text):
            raise self.error("it ends too early")
        char = self.text[self.pos]
        self.pos += 1
        return char

    def push(self, text: str, *, atom: bool = False) -> None:
        self.groups[-1].items.append(_Node(text, atom))

    # -- expressions

    def parse(self) -> str:
        for pos, char in enumerate(self.text):
            if 0xD800 <= ord(char) <= 0xDFFF:
                raise self.error("it is not valid UTF-8", pos)
        repeated = False  # what stands directly before is a repeat: a second one would be refused
        while self.pos < len(self.text):
            char = self.text[self.pos]
            if char in "*+?" or (char == "{" and self.repeat_count() is not None):
                self.repeat(refuse=repeated)
                repeated = True
                continue
            repeated = False
            self.pos += 1
            self.item(char)
        if len(self.groups) > 1:
            raise self.error("a ( is not closed")
        return self.groups[0].close().text

    def item(self, char: str) -> None:
        match char:
            case "(":
                self.open_group()
            case ")":
                if len(self.groups) == 1:
                    raise self.error("a ) closes nothing", self.pos - 1)
                group = self.groups.pop()
                self.flags = group.outer
                self.groups[-1].items.append(group.close())
            case "|":
                group = self.groups[-1]
                group.done.append(group.items)
                group.items = []
            case "^":
                self.push("(?m:^)" if self.flags.lines else r"\A")
            case "$":
                self.push("(?m:$)" if self.flags.lines else r"\Z")
            case ".":
                self.push("(?s:.)" if self.flags.dot_all else r"[^\n]", atom=True)
            case "[":
                self.char_class()
            case "\\":
                self.backslash()
            case _:
                self.literal(ord(char))

    def literal(self, rune: int) -> None:
        ranges = self.fold([(rune, rune)])
        self.push(_escape(rune) if len(ranges) == 1 else _class_text(ranges), atom=True)

    def fold(self, ranges: Ranges) -> Ranges:
        return _fold(ranges) if self.flags.fold else ranges

    # -- groups

    def open_group(self) -> None:
        if len(self.groups) > _MAX_DEPTH:
            raise self.error("it is nested too deeply")
        start = self.pos - 1
        outer = self.flags
        if self.peek("?"):
            self.pos += 1
            if self.peek("P<") or (self.peek("<") and not self.peek("<=") and not self.peek("<!")):
                self.group_name(start)
            elif not self.group_flags(start):
                return
        self.groups.append(_Group(outer))

    def group_name(self, start: int) -> None:
        end = self.text.find(">", self.pos)
        name = self.text[self.text.index("<", self.pos) + 1 : end]
        if end < 0 or not re.fullmatch("[A-Za-z0-9_]+", name):
            raise self.error("a group name is letters, digits and _ between < and >", start)
        self.pos = end + 1

    def group_flags(self, start: int) -> bool:
        """Read ``flags)`` or ``flags:``; True when a group was opened with them."""
        flags = self.flags
        value = True
        seen = True
        while True:
            char = self.take()
            name = {"i": "fold", "m": "lines", "s": "dot_all", "U": "lazy"}.get(char)
            if name is not None:
                flags = flags._replace(**{name: value})
                seen = True
            elif char == "-" and value:
                value = seen = False
            elif char in ":)" and seen:
                self.flags = flags
                return char == ":"
            else:
                raise self.error(f"RE2 has no {_HINTS.get(char, 'such group')}", start)

    # -- repeats

    def repeat_count(self) -> tuple[int, int | None, int] | None:
        """Least, most (None: no bound) and the position behind; None when this { is an ordinary character."""
        found = re.compile(r"\{(0|[1-9][0-9]*)(?:(,)(0|[1-9][0-9]*)?)?\}").match(self.text, self.pos)
        if found is None:
            return None
        low = int(found[1])
        return low, (int(found[3]) if found[3] else None if found[2] else low), found.end()

    def repeat(self, *, refuse: bool) -> None:
        start = self.pos
        least, most, self.pos = self.repeat_bounds()
        lazy = self.flags.lazy
        if self.peek("?"):
            self.pos += 1
            lazy = not lazy
        operator = self.text[start : self.pos]
        if refuse:
            raise self.error(f"{operator} repeats a repeat; RE2 does not, and has nothing possessive", start)
        items = self.groups[-1].items
        if not items:
            raise self.error(f"there is nothing before {operator} to repeat", start)
        node = items.pop()
        repeat = node.repeat
        if self.text[start] == "{":
            if least > _MAX_REPEAT or (most or 0) > _MAX_REPEAT or (most is not None and least > most):
                raise self.error(f"{operator} is not a repeat of at most {_MAX_REPEAT}", start)
            repeat *= (least if most is None else most) or 1
            if repeat > _MAX_REPEAT and max(least, most or 0) > 1:
                raise self.error(f"nested repeats come to more than {_MAX_REPEAT}", start)
        text = node.text if node.atom else f"(?:{node.text})"
        bounds = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
        if bounds is None:
            bounds = f"{{{least},{'' if most is None else most}}}"
        items.append(_Node(f"{text}{bounds}{'?' if lazy else ''}", repeat=repeat))

    def repeat_bounds(self) -> tuple[int, int | None, int]:
        behind = self.pos + 1
        match self.text[self.pos]:
            case "*":
                return 0, None, behind
            case "+":
                return 1, None, behind
            case "?":
                return 0, 1, behind
        count = self.repeat_count()
        assert count is not None
        return count

    # -- escapes and classes

    def backslash(self) -> None:
        char = self.text[self.pos : self.pos + 1]
        if char in _ASSERTIONS:
            self.pos += 1
            self.push(_ASSERTIONS[char])
        elif char == "Q":
            quoted, _, _ = self.text[self.pos + 1 :].partition(r"\E")
            self.pos += 1 + len(quoted) + 2
            for letter in quoted:
                self.literal(ord(letter))
        elif (ranges := self.named_class()) is not None:
            self.push(_class_text(ranges), atom=True)
        else:
            self.literal(self.escape())

    def named_class(self) -> Ranges | None:
        r"""Read ``d``, ``W``, ``pN`` or ``P{Lu}`` behind a backslash; None when it is something else."""
        char = self.text[self.pos : self.pos + 1]
        if char and char in "dDsSwW":
            self.pos += 1
            ranges = self.fold(_PERL[char.lower()])
            return ranges if char.islower() else _complement(ranges)
        if not char or char not in "pP":
            return None
        start = self.pos - 1
        self.pos += 1
        negated = char == "P"
        name = self.take()
        if name == "{":
            name, closed, _ = self.text[self.pos :].partition("}")
            self.pos += len(name) + 1
            if not closed:
                raise self.error("a { is not closed", start)
            if name.startswith("^"):
                negated, name = not negated, name[1:]
        if not re.fullmatch("Any|[CLMNPSZ][a-z]?", name):
            raise self.error(
                f"only general categories such as \\p{{Lu}} can be matched here, not \\p{{{name}}}", start
            )
        ranges = self.fold(_category(name))
        if not ranges:
            raise self.error(f"there is no category \\p{{{name}}}", start)
        return _complement(ranges) if negated else ranges

    def escape(self) -> int:
        """Read what stands for one character behind a backslash."""
        start = self.pos - 1
        if self.pos >= len(self.text):
            raise self.error("it ends with a backslash", start)
        char = self.take()
        if char in _CONTROL:
            return _CONTROL[char]
        if char.isascii() and not char.isalnum():
            return ord(char)
        if char in "01234567":
            digits = re.compile("[0-7]{0,2}").match(self.text, self.pos)
            assert digits is not None
            if char == "0" or digits[0]:
                self.pos = digits.end()
                return int(char + digits[0], 8)
        if char == "x":
            digits = re.compile(r"([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]+)\}").match(self.text, self.pos)
            if digits is not None and int(digits[1] or digits[2], 16) <= _MAX_RUNE:
                self.pos = digits.end()
                return int(digits[1] or digits[2], 16)
        reason = ": backreferences are not" if char.isdigit() else r"; the end of text is \z" * (char == "Z")
        raise self.error(f"\\{char} is not in RE2{reason}", start)

    def char_class(self) -> None:
        start = self.pos - 1
        negated = self.peek("^")
        self.pos += negated
        ranges: Ranges = []
        first = True
        while first or not self.peek("]"):
            first = False
            if self.pos >= len(self.text):
                raise self.error("a [ is not closed", start)
            ranges += self.class_item(start)
        self.pos += 1
        self.push(_class_text(ranges, negated=negated), atom=True)

    def class_item(self, start: int) -> Ranges:
        if self.peek("[:") and (end := self.text.find(":]", self.pos + 2)) >= 0:
            name = self.text[self.pos + 2 : end]
            ranges = _POSIX.get(name.removeprefix("^"))
            if ranges is None:
                raise self.error(f"there is no class [:{name}:]")
            self.pos = end + 2
            ranges = self.fold(ranges)
            return _complement(ranges) if name.startswith("^") else ranges
        if self.peek("\\"):
            self.pos += 1
            named = self.named_class()
            if named is not None:
                return named
            self.pos -= 1
        low = high = self.class_char(start)
        if self.peek("-") and not self.peek("-]") and self.pos + 1 < len(self.text):
            self.pos += 1
            high = self.class_char(start)
            if high < low:
                raise self.error("a range runs backwards")
        return self.fold([(low, high)])

    def class_char(self, start: int) -> int:
        if self.pos >= len(self.text):
            raise self.error("a [ is not closed", start)
        char = self.take()
        return self.escape() if char == "\\" else ord(char)


def _escape(rune: int) -> str:
    char = chr(rune)
    return char if char.isalnum() and char.isascii() else f"\\U{rune:08x}"


def _class_text(ranges: Ranges, *, negated: bool = False) -> str:
    if not ranges:
        ranges, negated = [(0, _MAX_RUNE)], not negated
    body = "".join(
        _escape(low) if low == high else f"{_escape(low)}-{_escape(high)}" for low, high in _merged(ranges)
    )
    return f"[{'^' * negated}{body}]"


def _merged(ranges: Ranges) -> Ranges:
    merged: Ranges = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _complement(ranges: Ranges) -> Ranges:
    behind = [0, *(high + 1 for _, high in _merged(ranges))]
    before = [*(low - 1 for low, _ in _merged(ranges)), _MAX_RUNE]
    return [(low, high) for low, high in zip(behind, before, strict=True) if low <= high]


@cache
def _category(name: str) -> Ranges:
    """Return the characters of a general category (``Lu``) or of a family of them (``L``)."""
    if name == "Any":
        return [(0, _MAX_RUNE)]
    ranges: Ranges = []
    start = -1
    for rune in range(_MAX_RUNE + 2):
        inside = rune <= _MAX_RUNE and _in_category(rune, name)
        if inside and start < 0:
            start = rune
        elif not inside and start >= 0:
            ranges.append((start, rune - 1))
            start = -1
    return ranges


def _in_category(rune: int, name: str) -> bool:
    category = unicodedata.category(chr(rune))
    return category.startswith(name) and category != "Cn"  # Go has no category for what is not assigned


def _fold(ranges: Ranges) -> Ranges:
    """Add what differs from `ranges` only in case."""
    ordered = sorted(ranges)
    folded = list(ranges)
    for same in _FOLDS_OF_ASCII if all(high < 0x80 for _, high in ranges) else _folds():
        if any(_contains(ordered, rune) for rune in same):
            folded += [(rune, rune) for rune in same]
    return folded


def _contains(ordered: Ranges, rune: int) -> bool:
    place = bisect_right(ordered, (rune, _MAX_RUNE + 1)) - 1
    return place >= 0 and ordered[place][1] >= rune


_KELVIN, _LONG_S = 0x212A, 0x17F
_FOLDS_OF_ASCII: list[tuple[int, ...]] = [
    (rune, rune + 0x20, *{0x4B: (_KELVIN,), 0x53: (_LONG_S,)}.get(rune, ())) for rune in range(0x41, 0x5B)
]
_LAST_CASED = 0x1FFFF


@cache
def _folds() -> list[tuple[int, ...]]:
    """Return all sets of characters that Unicode's simple case folding holds for equal."""
    same: dict[str, list[int]] = {}
    for rune in range(_LAST_CASED):
        char = chr(rune)
        folded = char.casefold()
        if len(folded) > 1:  # the full folding; where a simple one exists too, it is the lower case
            folded = char.lower()
        if len(folded) == 1:
            same.setdefault(folded, []).append(rune)
    return [tuple(runes) for runes in same.values() if len(runes) > 1]
