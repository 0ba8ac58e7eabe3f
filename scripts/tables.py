"""The tables of docs that say what is shown by which test: generated from data and from the record of a test run.

    python -m pytest --tables docs/tables/evidence.json    run tests; what each shows is added to the record
    python scripts/tables.py                               write the pages
    python scripts/tables.py --check                       fail when a page is not what would be written
    python scripts/tables.py --missing                     print the rows that no test shows

A test shows what its name says (`test_E07_...`, `test_S12_...`) and what its marker says:
`@pytest.mark.shows("go:TestContainerPids", "seed:runtime.Task.Kill")`, with literals.

`docs/tables/` holds the data: `scenarios.toml` (E and S), `go-tests.toml`, and for each seed `seed-NAME.names` (its
exported names) and `seed-NAME.toml` (our names for them), whose rows are::

    [[row]]
    seed = "Client.Pull"                              # as in the list of names; others are put behind them
    go = "client.Client.Pull"                         # optional: what it is called in containerd 2.1
    ours = "containerd_aio.Client.pull(unpack)"       # importable; a parameter in parentheses; or a list of such
    by = ["go:TestImagePull"]                         # optional: what else shows it
    note = "a keyword instead of a RemoteOpt"         # optional; alone where there is nothing of ours

A name without a row is looked for: a member at its owner, any other in the modules of `HOMES`, in the case of Python.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "docs" / "tables"
EVIDENCE = DATA / "evidence.json"
#: What a test may run on. ``fake`` stands for everything that is no real containerd.
TARGETS = ("fake", "1.6", "1.7", "2.1")
RELEASES = TARGETS[1:]
#: Seed -> where its names are looked for when no row says where they are.
HOMES = {
    "containerd": ("containerd_aio", "containerd_aio.oci", "containerd_aio.stdio"),
    "runtime": ("containerd_aio.runtime",),
    "execdriver": ("containerd_aio.execdriver",),
    "libcontainerd": ("containerd_aio.libcontainerd",),
    "libcontainerd-types": ("containerd_aio.libcontainerd",),
}
SEED_TITLES = {
    "containerd": "containerd's client package of 2017",
    "runtime": "containerd's runtime package of 2017",
    "execdriver": "Docker's execdriver package",
    "libcontainerd": "libcontainerd, as of Docker 1.12",
    "libcontainerd-types": "libcontainerd's types, as of Docker 17",
}
_SHOWN_TESTS = 4
#: test -> name of what it shows -> target -> outcome
Evidence = dict[str, dict[str, dict[str, str]]]


# -- what tests show ------------------------------------------------------------------------------------------


def names_in(function: str) -> list[str]:
    """Return what the name of a test function says that it shows: ``test_E07_s5_x`` -> ``["E07", "S05"]``."""
    found = re.findall(r"_([es])(\d{1,2})(?=_|$)", function, re.IGNORECASE)
    return [f"{kind.upper()}{int(number):02}" for kind, number in found]


@cache
def tests_in_the_sources() -> dict[str, frozenset[str]]:
    """Return for each test function what its name and the markers of its file say that it may show."""
    found: dict[str, frozenset[str]] = {}
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        decorators = {id(d) for function in functions for d in function.decorator_list}
        # What is given to the module or to single parameters may concern any test of the file.
        general = _marks(tree, leave_out=decorators)
        for function in functions:
            if function.name.startswith("test_"):
                own = {name for d in function.decorator_list for name in _marks(d)}
                key = f"{path.relative_to(REPOSITORY)}::{function.name}"
                found[key] = frozenset({*names_in(function.name), *own, *general})
    return found


def _marks(tree: ast.AST, leave_out: set[int] | frozenset[int] = frozenset()) -> set[str]:
    """Return the names given to ``shows(...)`` as literals anywhere in a tree, but for some of its nodes."""
    if id(tree) in leave_out:
        return set()
    names = {name for node in ast.iter_child_nodes(tree) for name in _marks(node, leave_out)}
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and tree.func.attr == "shows":
        names |= {a.value for a in tree.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def load_evidence(path: Path = EVIDENCE) -> Evidence:
    """Return the record of past runs, empty when there is none."""
    if not path.exists():
        return {}
    record: Evidence = json.loads(path.read_text(encoding="utf-8"))
    return record


def current(evidence: Evidence) -> Evidence:
    """Return a record without what no test shows any more."""
    known = tests_in_the_sources()
    kept = {
        test: {name: on for name, on in sorted(shown.items()) if name in known[test]}
        for test, shown in sorted(evidence.items())
        if test in known
    }
    return {test: shown for test, shown in kept.items() if shown}


def save_evidence(evidence: Evidence, path: Path = EVIDENCE) -> None:
    """Write a record, without what no test shows any more."""
    kept = current(evidence)
    lines = [f"{json.dumps(test)}: {json.dumps(shown, sort_keys=True)}" for test, shown in kept.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def merge(old: Evidence, new: Evidence) -> Evidence:
    """Return the record of both; for the same test, name and target the newer is told."""
    merged = {test: {name: dict(on) for name, on in shown.items()} for test, shown in old.items()}
    for test, shown in new.items():
        for name, on in shown.items():
            merged.setdefault(test, {}).setdefault(name, {}).update(on)
    return merged


# -- rows -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    """A row of a table.

    Attributes:
        name: What is to be shown, as the record names it.
        cells: The cells before those that are made from the record.
        wanted: On what it has to be shown; any target when empty.
        inherits: Names whose evidence counts too.
        problem: Why the row is not in order whatever the tests say.
        since: Releases before this have nothing to show.
        excused: There is nothing to show here, and the note says why.
    """

    name: str
    cells: list[str]
    wanted: tuple[str, ...] = ()
    inherits: tuple[str, ...] = ()
    problem: str = ""
    since: str = ""
    excused: bool = False

    def evidence(self, evidence: Evidence) -> dict[str, dict[str, str]]:
        """Return the tests that show it: test -> target -> outcome."""
        found: dict[str, dict[str, str]] = {}
        for test, shown in evidence.items():
            for name in (self.name, *self.inherits):
                for target, outcome in shown.get(name, {}).items():
                    before = found.setdefault(test, {}).get(target, outcome)
                    found[test][target] = outcome if before == "passed" else before
        return found

    def missing(self, evidence: Evidence) -> list[str]:
        """Return what keeps the row from being complete, in words."""
        found = self.evidence(evidence)
        passed = {t for on in found.values() for t, outcome in on.items() if outcome == "passed"}
        wrong = [
            f"{test} failed on {t}" for test, on in found.items() for t, o in on.items() if o != "passed"
        ]
        gaps = [f"not shown on {target}" for target in self.wanted if target not in passed]
        if not passed:
            gaps = [] if self.excused else ["not shown by any test"]
        return [*([self.problem] if self.problem else []), *gaps, *wrong]

    def markdown(self, evidence: Evidence) -> str:
        """Return the row as it stands on the page."""
        found = self.evidence(evidence)
        tests = sorted(found, key=lambda test: (-len(found[test]), "unit" in test, test))
        named = [f"`{test.partition('::')[2]}`" for test in tests[:_SHOWN_TESTS]]
        if len(tests) > _SHOWN_TESTS:
            named.append(f"and {len(tests) - _SHOWN_TESTS} more")
        marks = []
        for target in TARGETS:
            outcomes = {on[target] for on in found.values() if target in on}
            absent = target in RELEASES and self.since and target < self.since
            marks.append(
                "failed" if outcomes - {"passed"} else "yes" if outcomes else "absent" if absent else ""
            )
        return "| " + " | ".join([*self.cells, ", ".join(named), *marks]) + " |"


def scenario_rows(kind: str) -> list[Row]:
    """Return the rows of the promises (``E``) or of the scenarios (``S``)."""
    data = tomllib.loads((DATA / "scenarios.toml").read_text(encoding="utf-8"))[kind]
    rows = []
    for name, entry in data.items():
        title, live = (entry, False) if isinstance(entry, str) else (entry["title"], entry.get("live", False))
        rows.append(Row(name, [name, title], wanted=RELEASES if live else ()))
    return rows


def go_rows() -> list[Row]:
    """Return the rows of the integration tests of Go's client."""
    rows = []
    for name, entry in tomllib.loads((DATA / "go-tests.toml").read_text(encoding="utf-8")).items():
        since = entry.get("since", "")
        needs_no_daemon = entry["tags"] == "U" or entry.get("fake") or entry.get("left_out")
        wanted = tuple(r for r in RELEASES if r >= since and not needs_no_daemon)
        note = entry.get("left_out") or entry.get("note", "")
        cells = [f"`{name}`", entry["tags"], note]
        excused = "left_out" in entry
        rows.append(Row(f"go:{name}", cells, wanted=wanted, since=since, excused=excused))
    return rows


def seed_names(seed: str) -> dict[str, str]:
    """Return the names that a seed exports, and of what kind each is."""
    lines = (DATA / f"seed-{seed}.names").read_text(encoding="utf-8").splitlines()
    return {name: kind for kind, _, name in (line.partition(" ") for line in lines)}


def seed_entries(seed: str) -> dict[str, dict[str, Any]]:
    """Return what was written down about the names of a seed, by name."""
    path = DATA / f"seed-{seed}.toml"
    if not path.exists():
        return {}
    rows = tomllib.loads(path.read_text(encoding="utf-8")).get("row", [])
    return {row["seed"].removeprefix(f"{seed}."): row for row in rows}


def seed_rows(seed: str) -> list[Row]:
    """Return the rows of a seed: its names, then others that were written down."""
    names, entries = seed_names(seed), seed_entries(seed)
    rows = []
    for name in [*names, *(name for name in entries if name not in names)]:
        entry = entries.get(name, {})
        ours, problem = _ours(seed, name, entry)
        inherits = [*entry.get("by", ())]
        if names.get(name) == "field":
            owner = name.partition(".")[0]
            inherits += [f"seed:{seed}.{owner}", *entries.get(owner, {}).get("by", ())]
        cells = [
            name,
            entry.get("go", ""),
            ", ".join(f"`{path}`" for path in ours),
            entry.get("note", ""),
        ]
        rows.append(
            Row(
                f"seed:{seed}.{name}",
                cells,
                inherits=tuple(inherits),
                problem=problem,
                excused=not ours and not problem,
            )
        )
    return rows


# -- our names ------------------------------------------------------------------------------------------------


def snake(name: str) -> str:
    """Return a Go name in the case of Python's functions: ``OOMKilled`` -> ``oom_killed``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def resolve(path: str) -> object:
    """Import what a dotted path names, with a parameter in parentheses.

    Raises:
        LookupError: There is no such thing.
    """
    dotted, _, parameter = path.rstrip(")").partition("(")
    parts = dotted.split(".")
    try:
        found: object = importlib.import_module(parts[0])
    except ImportError:
        raise LookupError(path) from None
    for n, part in enumerate(parts[1:], 2):
        found = _member(found, part, ".".join(parts[:n]))
    if parameter and parameter.rstrip("=") not in inspect.signature(found).parameters:  # type: ignore[arg-type]
        raise LookupError(path)
    return found


def _member(owner: object, name: str, path: str) -> object:
    try:
        return getattr(owner, name)
    except AttributeError:
        pass
    if isinstance(owner, type):
        declared = {field for cls in owner.__mro__ for field in vars(cls).get("__annotations__", {})}
        if name in declared or re.search(rf"^ +{name}: ", owner.__doc__ or "", re.MULTILINE):
            return name
        raise LookupError(path)
    try:
        return importlib.import_module(path)
    except ImportError:
        raise LookupError(path) from None


def _ours(seed: str, name: str, entry: dict[str, Any]) -> tuple[list[str], str]:
    """Return our names for one of a seed, and what is wrong with them."""
    given = entry.get("ours")
    if given is not None:
        ours = [given] if isinstance(given, str) else list(given)
        for path in ours:
            try:
                resolve(path)
            except LookupError:
                return ours, f"there is no {path}"
        return ours, ""
    if "note" in entry:
        return [], ""
    for path in _candidates(seed, name):
        try:
            resolve(path)
        except LookupError:
            continue
        return [path], ""
    return [], "no row, and nothing of that name"


def _candidates(seed: str, name: str) -> Iterator[str]:
    owner, _, member = name.rpartition(".")
    cases = dict.fromkeys([member, snake(member), snake(member).upper()])
    if owner:
        homes = _ours(seed, owner, seed_entries(seed).get(owner, {}))[0]
        cases = dict.fromkeys([snake(member)])
    else:
        homes = list(HOMES[seed])
    yield from (f"{home}.{case}" for home in homes for case in cases)


# -- pages ----------------------------------------------------------------------------------------------------


def _table(heads: list[str], rows: list[Row], evidence: Evidence) -> list[str]:
    heads = [*heads, "test", *TARGETS]
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *(row.markdown(evidence) for row in rows),
        "",
    ]


_ORIGIN = "This page is generated by `scripts/tables.py` from the record of a test run."
_COLUMNS = (
    "`fake` stands for the fake daemon and for tests that need no daemon at all; the other columns are real releases\n"
    "of containerd."
)


def tables() -> dict[str, list[Row]]:
    """Return the rows of every table."""
    return {
        "E": scenario_rows("E"),
        "S": scenario_rows("S"),
        "go": go_rows(),
        **{f"seed:{seed}": seed_rows(seed) for seed in HOMES},
    }


def pages(evidence: Evidence) -> dict[Path, str]:
    """Return every generated page."""
    rows = tables()
    heads = {"E": ["", "promise"], "S": ["", "scenario"]}
    coverage = ["# Coverage", "", _ORIGIN, _COLUMNS, ""]
    coverage += ["## What the event core promises", "", *_table(heads["E"], rows["E"], evidence)]
    coverage += ["## What it is tried with", "", *_table(heads["S"], rows["S"], evidence)]
    go = ["# The tests of Go's client", "", _ORIGIN, _COLUMNS, ""]
    go += [
        "Each integration test of containerd 2.1.9's client that concerns a client, and ours that shows the same."
    ]
    go += [
        "Tags: L needs nothing else, P privileges, C CRIU, N a registry, D a daemon that is restarted,",
        "U a unit test of Go's whose cases are tried here too.",
        "",
    ]
    go += _table(["Go's test", "tags", "note"], rows["go"], evidence)
    found = {REPOSITORY / "docs" / "coverage.md": coverage, DATA / "go-tests.md": go}
    for seed, title in SEED_TITLES.items():
        page = [f"# Names: {title}", "", _ORIGIN, _COLUMNS, ""]
        page += _table(["there", "today in Go", "here", "note"], rows[f"seed:{seed}"], evidence)
        found[DATA / f"seed-{seed}.md"] = page
    return {path: "\n".join(lines) for path, lines in found.items()}


def missing(evidence: Evidence) -> dict[str, dict[str, list[str]]]:
    """Return for each table the rows that are not complete, and why."""
    return {
        table: {row.name: gaps for row in rows if (gaps := row.missing(evidence))}
        for table, rows in tables().items()
    }


def main() -> int:
    """Write, check or tell what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    parser.add_argument("--missing", action="store_true", help="print the rows that are not complete")
    options = parser.parse_args()
    evidence = current(load_evidence())
    if options.missing:
        for table, rows in missing(evidence).items():
            print(f"{table}: {len(rows)} of {len(tables()[table])} rows are not complete")
            for name, gaps in rows.items():
                print(f"  {name}: {'; '.join(gaps)}")
        return 0
    stale = {
        path: text
        for path, text in pages(evidence).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{path.relative_to(REPOSITORY)} {'is out of date' if options.check else 'written'}")
        if not options.check:
            path.write_text(text, encoding="utf-8")
    if not options.check and evidence:
        save_evidence(evidence)
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
