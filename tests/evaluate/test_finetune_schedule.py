"""Fine-tuning schedules as formulas, and how their numbers reach nnU-Net's process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnssl.errors import RecipeError
from nnssl.evaluate.finetune.schedule import VARIABLE, FinetuneSchedule, MeasuredSchedule, given
from nnssl.evaluate.settings import changed


def small(**values: object) -> FinetuneSchedule:
    """10 epochs of 10 iterations, 20 of them warm-up."""
    return changed(FinetuneSchedule(), {"epochs": 10, "iterations_per_epoch": 10, "warmup": 0.2, **values})


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(0, 1e-3 / 21), (9, 1e-3 * 10 / 21), (19, 1e-3 * 20 / 21), (20, 1e-3), (60, 1e-3 * 0.5**0.9), (100, 0.0)],
)
def test_the_rate_rises_linearly_then_falls_as_a_polynomial(iteration: int, rate: float) -> None:
    assert small().learning_rate(iteration) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(0, 1e-3 / 31), (29, 1e-3 * 30 / 31), (30, 1e-3 / 21), (49, 1e-3 * 20 / 21), (50, 1e-3), (75, 1e-3 * 0.5**0.9)],
)
def test_a_sawtooth_rises_twice(iteration: int, rate: float) -> None:
    schedule = small(schedule="sawtooth", frozen_epochs=3)
    assert schedule.learning_rate(iteration) == pytest.approx(rate, rel=1e-12)


def test_a_cosine_is_at_half_its_peak_half_way() -> None:
    assert small(decay="cosine").learning_rate(60) == pytest.approx(0.5e-3, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "rests"),
    [("warmup", []), ("sawtooth", [0, 1]), ("frozen_then_thawed", [0, 1]), ("frozen", list(range(10)))],
)
def test_the_encoder_rests_as_the_schedule_says(schedule: str, rests: list[int]) -> None:
    values = {"schedule": schedule} | ({"frozen_epochs": 2} if len(rests) == 2 else {})
    made = small(**values)
    assert [epoch for epoch in range(10) if made.encoder_rests(epoch)] == rests


def test_a_long_training_has_a_first_phase_of_a_twentieth() -> None:
    assert FinetuneSchedule(schedule="sawtooth").first_phase == 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "Did you mean epochs"),
        ({"epochs": 1, "schedule": "sawtooth"}, r"below epochs \(1\)"),
        ({"epochs": "many"}, "epochs must be a whole number"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"peak_lr": -1.0}, "peak_lr must be positive"),
        ({"warmup": 1.0}, "share of the iterations"),
        ({"schedule": "thawed"}, "one of warmup, sawtooth"),
        ({"frozen_epochs": 2}, "not to warmup"),
        ({"schedule": "sawtooth", "frozen_epochs": 10}, r"below epochs \(10\)"),
        ({"schedule": "sawtooth", "frozen_epochs": 8}, "warms up twice"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        small(**values)


def test_values_reach_another_process_as_json_or_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, '{"epochs": 7}')
    assert changed(FinetuneSchedule(), given()).epochs == 7
    schedule = MeasuredSchedule(epochs=3, seed=11)
    schedule.save(tmp_path / "s.json")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "s.json"))
    assert changed(MeasuredSchedule(), given()) == schedule
    monkeypatch.delenv(VARIABLE)
    assert given() == {}


@pytest.mark.parametrize(
    ("text", "message"), [("nowhere.json", "is no file"), ("{epochs: 1}", "not valid JSON"), ("[1]", "is no file")]
)
def test_a_variable_that_says_nothing_is_refused(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(RecipeError, match=message):
        given()


def test_a_file_that_is_no_object_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.json").write_text(json.dumps([1]))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "s.json"))
    with pytest.raises(RecipeError, match="must be a JSON object"):
        given()
