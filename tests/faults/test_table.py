"""The table of faults names tests that there are, and every test of a fault is in it."""

from __future__ import annotations

import ast
import re

from tests.cli_reference import ROOT

PAGE = ROOT / "docs" / "reference" / "reliability.md"
NAMED = re.compile(r"\| `(tests/[\w/]+\.py)::(\w+)` \|$", re.MULTILINE)
ABOUT_THE_TESTS = {"test_table.py", "test_guards.py", "test_soak.py"}  # what they test are tests


def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_names_a_test_that_exists() -> None:
    table = PAGE.read_text().partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    named = NAMED.findall(PAGE.read_text())
    assert len(rows) == len(named) > 30
    assert [(file, test) for file, test in named if test not in functions_of(file)] == []


def test_every_test_of_a_fault_is_in_the_table() -> None:
    named = set(NAMED.findall(PAGE.read_text()))
    files = [path for path in sorted((ROOT / "tests" / "faults").glob("test_*.py")) if path.name not in ABOUT_THE_TESTS]
    own = {(f"tests/faults/{path.name}", test) for path in files for test in functions_of(f"tests/faults/{path.name}")}
    assert {test for _, test in own - named} == {"test_a_waiting_time_that_is_none_is_refused"}
