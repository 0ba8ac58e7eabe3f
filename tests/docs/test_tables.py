"""The generated tables of docs: what they name exists, what they claim was recorded, and no row is empty."""

from __future__ import annotations

import ast
import re
from itertools import chain

import pytest

from tests.evidence import REPOSITORY, tables, target

TABLES = tables()
EVIDENCE = TABLES.load_evidence()
ROWS = TABLES.tables()
KNOWN = {row.name for rows in ROWS.values() for row in rows}
#: The tables that have no empty row any more.
COMPLETE = ("E", "S", "go", *(f"seed:{seed}" for seed in TABLES.HOMES))


def test_names_of_tests_say_what_they_show() -> None:
    assert TABLES.names_in("test_E07_s5_and_what_follows") == ["E07", "S05"]
    assert TABLES.names_in("test_nothing_of_the_kind_s3x_e") == []
    assert target({"containerd_version": "1.7"}) == target({"backend_name": "real-1.7"}) == "1.7"
    assert target({"backend_name": "fake-1.7"}) == target({}) == "fake"


def test_the_worst_outcome_counts_and_the_newest_record() -> None:
    row = TABLES.Row("E07", ["E07", "title"], wanted=("1.6", "1.7"))
    old = {"a::test_a": {"E07": {"1.6": "failed", "fake": "passed"}}}
    assert row.missing(old) == ["not shown on 1.6", "not shown on 1.7", "a::test_a failed on 1.6"]
    new = TABLES.merge(old, {"a::test_a": {"E07": {"1.6": "passed", "1.7": "passed"}}})
    assert row.missing(new) == []
    assert old["a::test_a"]["E07"]["1.6"] == "failed"
    assert row.markdown(new) == "| E07 | title | `test_a` | yes | yes | yes |  |"
    assert row.missing({}) == ["not shown by any test"]


def test_snake() -> None:
    names = ["GetPidsForContainer", "OOMKilled", "ID", "CloseIO", "New", "IOPipe"]
    assert [TABLES.snake(name) for name in names] == [
        "get_pids_for_container",
        "oom_killed",
        "id",
        "close_io",
        "new",
        "io_pipe",
    ]


def test_what_tests_show_is_in_a_table() -> None:
    shown = {name: test for test, names in TABLES.tests_in_the_sources().items() for name in names}
    assert {test: name for name, test in shown.items() if name not in KNOWN} == {}


def test_what_was_recorded_is_shown_by_tests_that_exist() -> None:
    sources = TABLES.tests_in_the_sources()
    assert [test for test in EVIDENCE if test not in sources] == []
    assert [
        (test, name) for test, names in EVIDENCE.items() for name in names if name not in sources[test]
    ] == []


def test_the_record_says_only_what_ran_on_what_and_how_it_ended() -> None:
    outcomes = chain.from_iterable(shown.values() for shown in EVIDENCE.values())
    assert {(on, outcome) for told in outcomes for on, outcome in told.items()} <= {
        (on, "passed") for on in TABLES.TARGETS
    }
    assert all(re.fullmatch(r"tests/[\w/]+\.py::test_\w+", test) for test in EVIDENCE)


@pytest.mark.parametrize("seed", list(TABLES.HOMES))
def test_our_names_can_be_imported(seed: str) -> None:
    written = TABLES.seed_entries(seed)
    wrong = {row.name: row.problem for row in ROWS[f"seed:{seed}"] if row.name.split(".", 1)[1] in written}
    assert {name: problem for name, problem in wrong.items() if problem} == {}


@pytest.mark.parametrize("seed", list(TABLES.HOMES))
def test_members_of_seeds_have_owners(seed: str) -> None:
    names = TABLES.seed_names(seed)
    assert set(names.values()) <= {"const", "var", "func", "type", "method", "field"}
    assert {n.partition(".")[0] for n, kind in names.items() if kind in {"method", "field"}} <= set(names)


@pytest.mark.parametrize("table", COMPLETE)
def test_no_row_is_empty(table: str) -> None:
    assert TABLES.missing(EVIDENCE)[table] == {}


def test_pages_are_what_the_record_and_the_data_say() -> None:
    stale = [
        str(path.relative_to(REPOSITORY))
        for path, text in TABLES.pages(EVIDENCE).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run `make tables`"


def test_markers_are_literals() -> None:
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "shows"
            ):
                assert all(isinstance(arg, ast.Constant) for arg in node.args), f"{path.name}:{node.lineno}"
