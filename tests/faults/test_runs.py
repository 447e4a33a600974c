"""Runs that are killed, run out of disk, are asked to leave, or read what is spoilt: they go on to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import checks_runs as checks
from tests.faults.world import spread

pytestmark = pytest.mark.pipeline  # whole commands in processes of their own


@pytest.mark.pipeline
@pytest.mark.parametrize("kind", ["kill", "full"])
@pytest.mark.parametrize("window", list(checks.WINDOWS))
def test_a_run_struck_in_the_middle_goes_on(runs: Path, window: str, kind: str) -> None:
    total = checks.window_size(runs, window)
    checks.check_run_struck(runs, window, kind, total // 2)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full"])
@pytest.mark.parametrize("window", list(checks.WINDOWS))
def test_a_run_struck_at_many_operations_goes_on(runs: Path, window: str, kind: str) -> None:
    total = checks.window_size(runs, window)
    for at in spread(total, 12):
        checks.check_run_struck(runs, window, kind, at)  # type: ignore[arg-type]


@pytest.mark.pipeline
@pytest.mark.parametrize(("kind", "window"), [("readonly", "start"), ("foreign", "start"), ("readonly", "save")])
def test_a_folder_that_cannot_be_written_is_named(runs: Path, kind: str, window: str) -> None:
    checks.check_run_struck(runs, window, kind, 0)  # type: ignore[arg-type]


def test_a_cut_off_state_falls_back_to_the_one_before(runs: Path) -> None:
    checks.check_cut_state(runs)


def test_lines_written_after_the_last_save_are_not_there_twice(runs: Path) -> None:
    checks.check_lost_lines(runs)


@pytest.mark.pipeline
@pytest.mark.parametrize("action", ["term", "usr1"])
def test_a_signal_saves_that_very_step_and_leaves_with_its_number(runs: Path, action: str) -> None:
    checks.check_signal(runs, action)


@pytest.mark.pipeline
def test_a_job_with_a_time_limit_is_queued_again_until_it_is_done(runs: Path) -> None:
    checks.check_time_limit(runs)


@pytest.mark.pipeline
@pytest.mark.parametrize("action", ["truncate", "delete", "disk gone"])
def test_a_case_lost_between_two_steps_is_named(runs: Path, action: str) -> None:
    checks.check_case_lost(runs, action)


@pytest.mark.pipeline
def test_a_failing_worker_ends_the_run(runs: Path) -> None:
    checks.check_worker_fails(runs)


def test_a_batch_that_is_not_finite_stops_the_run(runs: Path) -> None:
    checks.check_nan_batch(runs)


@pytest.mark.pipeline
def test_two_runs_never_share_a_folder(runs: Path) -> None:
    checks.check_two_runs(runs)


@pytest.mark.pipeline
def test_a_run_whose_folder_is_taken_over_stops_without_saving(runs: Path) -> None:
    checks.check_taken_over(runs)


def test_a_run_that_came_and_went_while_another_started_is_not_started_over(runs: Path) -> None:
    checks.check_started_twice(runs)


@pytest.mark.pipeline
def test_workers_and_threads_of_the_environment_change_nothing(runs: Path) -> None:
    checks.check_other_circumstances(runs)


@pytest.mark.pipeline
def test_other_data_are_refused(runs: Path) -> None:
    checks.check_other_data(runs)


def test_other_plans_are_refused_and_the_key_is_named(runs: Path) -> None:
    checks.check_other_plans(runs)


@pytest.mark.pipeline
def test_another_recipe_is_refused_and_the_keys_are_named(runs: Path) -> None:
    checks.check_other_recipe(runs)
