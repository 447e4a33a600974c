"""The loss scale of half precision, and which precision is chosen."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from nnssl.engine.precision import LossScale, settled
from nnssl.engine.recipe import Recipe
from nnssl.engine.run_folder import RunFolder, RunOptions
from nnssl.errors import RecipeError


@dataclass(frozen=True)
class Nothing:
    """A method without numbers."""


def test_loss_scale_falls_after_a_bad_step_and_doubles_after_good_ones() -> None:
    scale = LossScale(enabled=True, start=8.0, interval=3)
    values = []
    for applied in (True, False, True, True, True, True):
        scale.update(torch.tensor(applied))
        values.append(scale.value.item())
    assert values == [8.0, 4.0, 4.0, 4.0, 8.0, 8.0]


def test_unscale_undoes_scaled() -> None:
    scale = LossScale(enabled=True, start=1024.0)
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    scale.scaled(weight.square().sum()).backward()
    assert weight.grad is not None
    scale.unscale([weight.grad])
    assert torch.equal(weight.grad, torch.tensor([2.0, 4.0]))


def test_other_precisions_are_not_scaled() -> None:
    scale = LossScale(enabled=False)
    scale.update(torch.tensor(False))
    assert scale.value.item() == 1.0
    assert scale.scaled(torch.tensor(3.0)).item() == 3.0


def test_loss_scale_resumes() -> None:
    scale = LossScale(enabled=True)
    scale.update(torch.tensor(False))
    other = LossScale(enabled=True)
    other.load_state_dict(scale.state_dict())
    assert torch.equal(other.value, scale.value)


def test_auto_is_single_precision_on_the_cpu() -> None:
    cpu = torch.device("cpu")
    assert settled(Recipe(), cpu).precision == "fp32"
    assert settled(Recipe(precision="bf16"), cpu).precision == "bf16"


def test_a_run_continued_on_another_device_keeps_its_arithmetic(tmp_path: Path) -> None:
    class Trainer:
        recipe = Recipe(method=Nothing())

    stored = {"preset": "default", "recipe": replace(Trainer.recipe, precision="bf16").to_json()}
    (tmp_path / "recipe.json").write_text(json.dumps(stored))
    folder = RunFolder(tmp_path)
    assert folder.recipe_for(Trainer, RunOptions(continue_run=True), torch.device("cpu")).precision == "bf16"
    asked = RunOptions(overrides={"precision": "auto"}, continue_run=True)
    with pytest.raises(RecipeError, match="precision: bf16 -> fp32"):
        folder.recipe_for(Trainer, asked, torch.device("cpu"))
