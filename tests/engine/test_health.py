"""The health probe: exact features give no error, collapsed ones are told, and looking changes nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.engine.health import HealthProbe
from nnssl.engine.probe_set import ProbeSet, draw_probe_set
from tests.engine.probes import MapMethod, case_of, coordinate_batch


@pytest.fixture(scope="module")
def boxes() -> ProbeSet:
    return draw_probe_set(coordinate_batch, case_of=case_of, boxes=6, seed=0)


def probe(boxes: ProbeSet, *, total_steps: int = 100, measurements: int | None = None) -> HealthProbe:
    return HealthProbe(boxes, total_steps=total_steps, steps_per_epoch=5, device="cpu", measurements=measurements)


@pytest.mark.parametrize("strides", [((1, 1, 1),), ((2, 2, 2),), ((1, 4, 2), (4, 4, 4)), ((1, 1, 1), (2, 6, 4))])
def test_features_that_are_coordinates_have_no_correspondence_error(
    boxes: ProbeSet, strides: tuple[tuple[int, int, int], ...]
) -> None:
    values = probe(boxes).measure(MapMethod("exact", strides), 0).values
    assert values["dense_mm"] == pytest.approx(0.0, abs=1e-6)
    assert values["dense_pck"] > 0.9
    assert values["dense_chance_mm"] > 8
    assert values["retrieval_recall"] == 1.0


@pytest.mark.parametrize("kind", ["constant", "noise"])
def test_features_without_or_with_the_wrong_place_err_about_as_chance(boxes: ProbeSet, kind: str) -> None:
    values = probe(boxes).measure(MapMethod(kind), 0).values
    assert values["dense_mm"] > 0.5 * values["dense_chance_mm"]
    assert values["dense_pck"] < 0.2


def test_constant_features_are_red_once_trained_and_not_before(boxes: ProbeSet) -> None:
    health = probe(boxes)
    assert health.measure(MapMethod("constant"), 0).light == "green"
    health = probe(boxes)
    health.measure(MapMethod("exact"), 0)
    report = health.measure(MapMethod("constant"), 10)
    assert report.light == "red"
    assert any("constant collapse" in sentence for sentence in report.sentences)


def test_every_value_is_told_beside_the_one_at_the_start(boxes: ProbeSet) -> None:
    health = probe(boxes)
    health.measure(MapMethod("noise"), 0)
    report = health.measure(MapMethod("exact"), 10)
    assert report.light == "green"
    assert "dense correspondence error 0.0 mm (" in report.sentences[0]
    assert report.sentences[0].startswith("Health after 10 steps is green (in brackets: at the start): dense ")


def test_looking_changes_neither_modes_nor_buffers_nor_random_states(boxes: ProbeSet) -> None:
    method = MapMethod("layers").train()
    method.frozen.eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    random, numbers = torch.get_rng_state(), np.random.get_state(legacy=False)
    probe(boxes).measure(method, 0)
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert str(numbers) == str(np.random.get_state(legacy=False))
    assert method.training
    assert method.norm.training
    assert not method.frozen.training
    assert not any(method.asked)  # neither gradient nor training mode while looking


def test_modes_are_put_back_after_an_error(boxes: ProbeSet) -> None:
    method = MapMethod("exact", strides=((1000, 1, 1),)).train()
    with pytest.raises(RuntimeError):
        probe(boxes).measure(method, 0)
    assert method.training


def test_measurements_are_due_at_the_start_at_the_end_and_between(boxes: ProbeSet) -> None:
    health = probe(boxes, total_steps=100, measurements=4)
    assert [step for step in range(101) if health.due(step)] == [0, 25, 50, 75, 100]
    health.measure(MapMethod(), 25)
    assert not health.due(25)
    assert not any(probe(boxes, measurements=0).due(step) for step in range(101))


@pytest.mark.parametrize(("steps", "count"), [(5, 1), (200, 2), (1000, 4), (250_000, 20)])
def test_measurements_take_little_of_a_run(boxes: ProbeSet, steps: int, count: int) -> None:
    health = probe(boxes, total_steps=steps)
    assert sum(health.due(step) for step in range(1, steps + 1)) == count


def test_a_short_run_is_measured_at_most_once_an_epoch(boxes: ProbeSet) -> None:
    health = probe(boxes, total_steps=12, measurements=10)
    assert [step for step in range(13) if health.due(step)] == [0, 5, 10, 12]


def test_teacher_values_are_means_since_the_last_measurement(boxes: ProbeSet) -> None:
    health = probe(boxes)
    uniform, point = torch.full((4, 8), 1 / 8), torch.eye(8)[:4]
    for teacher in (uniform, point):
        health.observe({"teacher_probs": teacher, "student_log_probs": uniform.log()})
    values = health.measure(MapMethod(), 5).values
    assert values["teacher_entropy"] == pytest.approx(0.5)
    assert values["teacher_kl"] == pytest.approx((0 + math.log(8)) / 2, abs=1e-6)
    mean = (uniform.mean(0) + point.mean(0)) / 2
    assert values["prototype_use"] == pytest.approx(float(torch.exp(-(mean * mean.log()).sum())) / 8, rel=1e-5)
    assert values["prototypes_used"] == pytest.approx(8 * values["prototype_use"])
    assert "teacher_entropy" not in health.measure(MapMethod(), 10).values


def test_uniform_collapse_is_told_with_its_cure(boxes: ProbeSet) -> None:
    health = probe(boxes)
    health.measure(MapMethod(), 0)
    uniform = torch.full((4, 64), 1 / 64)
    health.observe({"teacher_probs": uniform, "student_log_probs": uniform.log()})
    report = health.measure(MapMethod(), 5)
    assert report.light == "red"
    assert any("loss equals ln K" in s and "Lower the teacher temperature" in s for s in report.sentences)


def test_a_probe_goes_on_exactly_from_its_state(boxes: ProbeSet) -> None:
    teacher = torch.softmax(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), -1)
    straight, first, second = probe(boxes), probe(boxes), probe(boxes)
    for health in (straight, first):
        health.measure(MapMethod("noise"), 0)
        health.observe({"teacher_probs": teacher})
    second.load_state_dict(first.state_dict())
    for health in (straight, second):
        health.observe({"teacher_probs": teacher.flip(1)})
    assert straight.measure(MapMethod(), 5) == second.measure(MapMethod(), 5)
    assert straight.state_dict() == second.state_dict()
    assert second.baseline["dense_mm"] > 0


def test_health_json_holds_the_history_and_the_boxes(boxes: ProbeSet, tmp_path: Path) -> None:
    health = probe(boxes)
    health.measure(MapMethod(), 0)
    health.write(tmp_path)
    content = json.loads((tmp_path / "health.json").read_text())
    assert content["probe"]["boxes"] == 6
    assert content["probe"]["cases"] == ["case_0", "case_1", "case_2"]
    assert [entry["step"] for entry in content["history"]] == [0]
    assert content["start"]["retrieval_recall"] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["health.json"]
