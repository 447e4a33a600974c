"""No command offers what it does not read, and what it reads reaches the work."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnssl import launch
from nnssl.cli import match, pretrain
from nnssl.match.table import TableSettings
from nnssl.needs import Match
from tests.cli_reference import commands, parse


def names_in(file: Path) -> set[str]:
    """Names and attributes that a module speaks of."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        node.id for node in nodes if isinstance(node, ast.Name)
    }


@pytest.mark.parametrize("command", commands())
def test_every_option_of_a_command_is_read_by_it(command: str) -> None:
    file = importlib.import_module(commands()[command].split(":")[0]).__file__
    assert file is not None
    known = {action.dest for action in parse(command, None).parser._actions} - {"help"}
    read = names_in(Path(file))
    if "apply_workspace" in read:
        read.add("workspace")
    if "request_of" in read:
        read |= names_in(Path(file).with_name("_request.py"))
    assert known - read == set()


@pytest.mark.parametrize("words", [(), ("--deterministic",)])
def test_deterministic_reaches_the_run(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    asked: list[launch.Request] = []
    monkeypatch.setattr(launch, "pretrain", asked.append)
    monkeypatch.setattr("nnssl.paths.dataset", lambda *every, **named: "Dataset701_X")
    monkeypatch.setattr("nnssl.paths.folders", lambda: None)
    assert pretrain.main(["701", "3d_fullres", "-tr", "MAETrainer", *words]) == 0
    assert asked[0].options.deterministic == bool(words)


def test_bounds_and_seed_of_a_table_reach_the_matching(
    no_folders: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[TableSettings] = []

    def note(matcher: object, cases: object, settings: TableSettings, *, say: object) -> list[Match]:
        asked.append(settings)
        return []

    monkeypatch.setattr("nnssl.match.choose.make_matcher", lambda *every, **named: SimpleNamespace())
    monkeypatch.setattr("nnssl.paths.dataset", lambda *every, **named: "Dataset745_X")
    monkeypatch.setattr("nnssl.match.cases.dataset_cases", lambda *every: [])
    monkeypatch.setattr("nnssl.match.table.make_table", note)
    words = ["--least_score", "0.4", "--most_cycle_mm", "7", "--seed", "3", "-o", str(tmp_path / "table.csv")]
    assert match.main(["--workspace", str(tmp_path), "-d", "745", "--table", "--matcher", "body", *words]) == 0
    assert (asked[0].least_score, asked[0].most_cycle_mm, asked[0].seed) == (0.4, 7.0, 3)
