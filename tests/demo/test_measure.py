"""What is read back from the fine-tunings, and the sentences that are said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnssl.demo.measure import difference, summary
from nnssl.demo.report import table
from nnssl.demo.settings import CURVE_POINTS, Settings
from nnssl.errors import UsageError
from nnssl.evaluate.runs import read_arm


def test_an_arm_is_read_with_absent_organs_left_out(tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(json.dumps([{"iteration": 0, "dice": {"a": [0.2, None]}}]))
    (tmp_path / "final.json").write_text(json.dumps({"iteration": 8, "dice": {"a": [0.5, None], "b": [0.7, 0.9]}}))
    arm = read_arm(tmp_path)
    assert arm.curve == ((0, 0.2),)
    assert arm.final == {"a": 0.5, "b": pytest.approx(0.8)}
    assert list(arm.organs) == pytest.approx([0.6, 0.9])


def scores(mean: float, *, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {f"case_{index}": float(value) for index, value in enumerate(rng.normal(mean, 0.02, 12))}


def report(without: float, trained: float) -> dict[str, Any]:
    a, b = scores(without, seed=0), scores(trained, seed=1)
    organs = [{"organs": {"liver": mean}} for mean in (without, trained)]
    run = {"scratch": summary(a) | organs[0], "pretrained": summary(b) | organs[1], "difference": difference(a, b)}
    probe = {"untrained": summary(a), "pretrained": summary(b), "difference": difference(a, b)}
    return {"trainer": "MAETrainer", "probe": probe, "labels": {"1": run, "5": run}}


def test_a_clear_gain_is_called_one() -> None:
    text = table(report(0.5, 0.7))
    assert text.count(": a gain") == 3
    assert "Each figure is one run with one seed" in text


def test_nothing_is_claimed_where_the_interval_holds_zero() -> None:
    text = table(report(0.6, 0.6))
    assert "a gain." not in text
    assert "no difference can be claimed" in text


def test_a_loss_is_reported_like_a_gain() -> None:
    assert table(report(0.7, 0.5)).count(": a loss") == 3


def test_minutes_scale_both_trainings_in_whole_units() -> None:
    short, long = Settings(minutes=0.1), Settings(minutes=40)
    for settings in (short, long, Settings()):
        assert settings.pretraining_steps % settings.pretraining_epochs == 0
        assert settings.finetuning_iterations == settings.evaluate_every * CURVE_POINTS
    assert long.finetuning_iterations == 5 * Settings().finetuning_iterations
    with pytest.raises(UsageError, match="--minutes"):
        Settings(minutes=0)


def test_no_gain_is_claimed_where_one_run_missed_an_organ() -> None:
    from nnssl.demo.report import _claim

    def run(kidney: float) -> dict[str, object]:
        return {
            "scratch": {"mean": 0.6, "organs": {"liver": 0.9, "kidney": kidney}},
            "pretrained": {"mean": 0.8, "organs": {"liver": 0.9, "kidney": 0.7}},
            "difference": {"sentence": "a gain"},
        }

    assert "hardly found kidney" in _claim(run(0.002)) and "nothing can be claimed" in _claim(run(0.002))
    assert _claim(run(0.5)) == "a gain."
