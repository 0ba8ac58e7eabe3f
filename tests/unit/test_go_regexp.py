"""Go's regular expressions on Python's re: what Go says, and how a refusal is worded."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio.events.go_regexp import compile_go

GOLDEN = json.loads(Path(__file__).with_name("data").joinpath("go_regexp", "verdicts.json").read_text())


def test_verdicts_are_gos() -> None:
    subjects = GOLDEN["subjects"]
    for text, expected in GOLDEN["verdicts"].items():
        try:
            expression = compile_go(text)
            found = [i for i, subject in enumerate(subjects) if expression.search(subject)]
        except ValueError:
            found = None
        assert found == expected, text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(?=x)", "RE2 has no lookaround"),
        ("(?<!x)", "RE2 has no lookaround"),
        ("(?>x)", "RE2 has no atomic groups"),
        ("(?(1)x)", "RE2 has no conditionals"),
        ("(?#x)", "RE2 has no comments"),
        ("(?P=n)", "RE2 has no such group"),
        (r"(a)\1", "backreferences are not"),
        ("a*+", "nothing possessive"),
        (r"a\Z", r"the end of text is \\z"),
        (r"\C", "not in RE2"),
        ("a{1001}", "at most 1000"),
        ("(a{100}){100}", "nested repeats"),
        ("*a", "nothing before"),
        ("(a", "is not closed"),
        ("a)", "closes nothing"),
        ("[a", "is not closed"),
        ("[b-a]", "backwards"),
        ("[[:foo:]]", "no class"),
        ("(?P<a-b>x)", "group name"),
        (r"\p{Greek}", "only general categories"),
        (r"\p{Lx}", "no category"),
        ("a\\", "ends with a backslash"),
        ("(?i", "ends too early"),
        ("\udc80", "UTF-8"),
    ],
)
def test_refusals_name_the_reason_and_the_place(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        compile_go(text)
    assert "at character" in str(caught.value)


def test_nesting_beyond_pythons_re_is_refused() -> None:
    assert compile_go("(" * 30 + "a" + ")" * 30).search("a")
    with pytest.raises(ValueError, match=r"nested too deeply|too complex"):
        compile_go("(" * 900 + "a" + ")" * 900)
    with pytest.raises(ValueError, match="nested too deeply"):
        compile_go("(" * 2000 + "a" + ")" * 2000)


@given(st.text(st.sampled_from(r"aé01()[]{}*+?|^$.,\-:PpQEdWbxzZiU<>=!&~"), max_size=15))
def test_any_text_is_an_expression_or_a_value_error(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            compile_go(text)
        except ValueError:
            return
