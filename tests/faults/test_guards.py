"""Every guard is there for something: with it taken out, the test of its fault fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.faults import checks_runs as checks
from tests.faults.boundaries import Fault
from tests.faults.checks_files import Preprocessing, Scene, check_strike, operations, publishing, saving
from tests.faults.guards import GUARDS

NO_GUARDS = {"hard links"}  # what it takes away is a convenience of the file system
IN_FILES: list[tuple[str, str, str, str]] = [
    # guard, scene, fault, what is struck: of all operations whose line holds these words the middle one, then the first
    ("atomic files", "saving", "kill", "write state_latest"),
    ("atomic files", "publishing", "kill", "write encoder.safetensors"),
    ("atomic files", "preprocessing", "kill", "write nnssl_index"),
    ("weights last", "publishing", "kill", "write encoder.safetensors"),
    ("stale cases leave the index", "preprocessing", "kill", "write case_00.b2nd"),
    ("state sentence", "saving", "full", "write state_latest"),
    ("reason of torch", "publishing", "full", "write new.pth"),
    ("system sentence", "preprocessing", "full", "write case_00"),
]
IN_RUNS: list[tuple[str, Callable[..., None]]] = [
    ("two states", checks.check_cut_state),
    ("checksums", checks.check_cut_state),
    ("metrics cut back", checks.check_lost_lines),
    ("signals", partial(checks.check_signal, action="usr1")),
    ("save on signal", partial(checks.check_signal, action="term")),
    ("exit code", partial(checks.check_signal, action="usr1")),
    ("signals", checks.check_time_limit),
    ("case sentence", partial(checks.check_case_lost, action="truncate")),
    ("case sentence", partial(checks.check_case_lost, action="delete")),
    ("worker errors", checks.check_worker_fails),
    ("finite", checks.check_nan_batch),
    ("one verdict", checks.check_nan_on_one_rank),
    ("rank sentence", partial(checks.check_rank, action="kill")),
    ("bounded wait", partial(checks.check_rank, action="stop", seconds=30.0)),
    ("one stop", checks.check_signal_on_one_rank),
    ("system sentence", partial(checks.check_run_struck, window="start", kind="readonly", at=0)),
    ("system sentence", partial(checks.check_run_struck, window="start", kind="foreign", at=0)),
    ("lock", checks.check_two_runs),
    ("still held", checks.check_taken_over),
    ("second look", checks.check_started_twice),
    ("keyed draws", checks.check_other_circumstances),
    ("same data", checks.check_other_data),
    ("same plans", checks.check_other_plans),
    ("same recipe", checks.check_other_recipe),
]


def _id(value: Any) -> str | None:
    function = getattr(value, "func", value)
    words = [str(word) for word in getattr(value, "keywords", {}).values()]
    return "-".join([function.__name__, *words]) if callable(function) else None


@pytest.mark.slow
@pytest.mark.parametrize(("guard", "scene", "kind", "operation"), IN_FILES)
def test_files_are_harmed_without(guard: str, scene: str, kind: Any, operation: str, tmp_path: Path) -> None:
    make: Callable[[Path], Scene]
    if scene == "preprocessing":
        prepared = Preprocessing(tmp_path / "old")
        prepared.before()
        truth = prepared.scene(tmp_path / "truth")
        truth.task(*truth.arguments)
        make = prepared.scene
    else:
        make = {"saving": saving, "publishing": publishing}[scene]
    counted = make(tmp_path / "count")
    operations(counted, without=(guard,))
    listed = Fault(kind="count", root=counted.folder).list_file.read_text().splitlines()
    found = [number for number, line in enumerate(listed) if all(word in line for word in operation.split())]
    struck = [found[len(found) // 2], *found[:5]]
    check_strike(make(tmp_path / "guarded"), Fault(kind=kind, root=tmp_path, at=struck[0]))
    with pytest.raises(AssertionError):
        for number, at in enumerate(struck):
            check_strike(make(tmp_path / f"bare{number}"), Fault(kind=kind, root=tmp_path, at=at), without=(guard,))


@pytest.mark.slow
@pytest.mark.parametrize(("guard", "check"), IN_RUNS, ids=_id)
def test_runs_are_harmed_without(runs: Path, guard: str, check: Callable[..., None]) -> None:
    with pytest.raises(AssertionError):
        check(runs, without=(guard,))


def test_every_guard_is_taken_out_by_some_test() -> None:
    assert {row[0] for row in [*IN_FILES, *IN_RUNS]} == GUARDS.keys() - NO_GUARDS
