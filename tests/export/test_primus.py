"""Weights of Primus: nnU-Net's own trainers take what was fitted to a target; other commands work or say why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nnssl
from nnssl.cli import doctor, finetune, plan_like
from nnssl.cli import export as command
from nnssl.encoders.tokens import TokenEncoder, token_encoder
from nnssl.errors import DataError, ExportError
from nnssl.export.checkpoint import publish
from nnssl.export.read import read_weights
from nnssl.export.sources import read_any
from nnssl.method import Exported
from nnssl.nnunet import primus_trainer
from nnssl.paths import VARIABLES
from tests.tiny import tiny_plans

TARGET = "Dataset004_T"
LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}


def random_encoder(seed: int) -> TokenEncoder:
    torch.manual_seed(seed)
    made = token_encoder("primus_s", 1, patch_size=(16, 16, 16))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenEncoder, TokenEncoder, Path]:
    """Teacher, student and their file."""
    path = tmp_path_factory.mktemp("primus") / "checkpoint_final.pth"
    teacher, student = random_encoder(0), random_encoder(1)
    publish(
        path,
        exported=Exported.distilled(teacher=teacher, student=student),
        plans=tiny_plans("Dataset745_Pre", patch_size=(32, 32, 32)),  # the run's patch was another one
        configuration="3d_fullres",
        dataset_json={"channel_names": {"0": "CT"}},
        channels=1,
        provenance={"trainer": "DINO3DTrainer"},
        citations=[],
        seed=0,
        final=True,
    )
    return teacher, student, path


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Writes a labelled data set's plan; returns it."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / variable))

    def make(patch: tuple[int, int, int] = (16, 24, 16), *, channels: int = 1, labels: Any = LABELS) -> dict[str, Any]:
        plans = tiny_plans(TARGET, plans_name="nnUNetPlans", patch_size=patch)
        chosen = plans["configurations"]["3d_fullres"]
        for key in ("normalization_schemes", "use_mask_for_norm"):
            chosen[key] = chosen[key] * channels
        properties = plans["foreground_intensity_properties_per_channel"]
        plans["foreground_intensity_properties_per_channel"] = {str(c): properties["0"] for c in range(channels)}
        about = {"channel_names": {str(c): "CT" for c in range(channels)}, "labels": labels, "numTraining": 2}
        about["file_ending"] = ".nii.gz"
        for home in ("nnUNet_preprocessed", "nnUNet_raw"):
            folder = tmp_path / home / TARGET
            (folder / "labelsTr").mkdir(parents=True, exist_ok=True)
            (folder / "dataset.json").write_text(json.dumps(about))
            (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
        return plans

    return make


def state_of(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)["network_weights"]
    return found


def start_of_training(plans: dict[str, Any], channels: int, file: Path) -> dict[str, Tensor]:
    """What a training of nnU-Net's Primus trainer starts from: its network, its loader."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    torch.manual_seed(7)
    network = primus_trainer("s").build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), channels, len(LABELS), False
    )
    load_pretrained_weights(network, str(file))
    state: dict[str, Tensor] = network.state_dict()
    return state


def test_the_file_holds_the_encoder_under_nnunets_names(published: tuple[TokenEncoder, TokenEncoder, Path]) -> None:
    teacher, student, path = published
    state = state_of(path)
    assert {name.split(".")[0] for name in state} == {"down_projection", "eva", "mask_token"}
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in state.items())
    assert read_weights(path).adaptation["architecture_plans"]["arch_class_name"] == "PrimusS"
    block = torch.load(path, weights_only=True)["nnssl_adaptation_plan"]
    assert (block["key_to_encoder"], block["key_to_stem"], block["key_to_lpe"]) == (
        "eva",
        "down_projection",
        "eva.pos_embed",
    )
    assert block["pretrain_patch_size"] == [16, 16, 16]
    image = torch.randn(1, 1, 16, 8, 24)
    for which, wanted in (("default", teacher), ("teacher", teacher), ("student", student)):
        encoder = nnssl.load_encoder(path, which=which)
        assert (encoder.channels, encoder.strides, encoder.patch_size) == ((396,), ((8, 8, 8),), (16, 16, 16))
        with torch.no_grad():
            assert torch.equal(encoder(image)[0], wanted(image)[0])
    assert path.stat().st_size < 2.1 * 4 * sum(value.numel() for value in state.values())  # the teacher lies there once


def test_nnunets_primus_starts_from_what_was_fitted(
    published: tuple[TokenEncoder, TokenEncoder, Path],
    target: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher, student, path = published
    plans = target(channels=2)
    fitted = tmp_path / "fitted.pth"
    assert command.main([str(path), "-d", "4", "-o", str(fitted)]) == 0
    said = capsys.readouterr().out
    assert "encoder  100 % of 282 (280 exact, 2 adapted, 0 fresh)" in said
    assert "10 fresh: nnU-Net's decoder of Primus is made for the target's classes" in said
    assert "1 adapted: positions of 2x2x2 -> 2x3x2 tokens" in said
    assert f"-p nnUNetPlans -tr nnUNet_Primus_S_Trainer -pretrained_weights {fitted}" in said
    start, trained = start_of_training(plans, 2, fitted), teacher.state_dict()
    table = trained["eva.pos_embed"].transpose(1, 2).reshape(1, 396, 2, 2, 2)
    wanted = {
        **{name: value for name, value in trained.items()},
        "eva.pos_embed": F.interpolate(table, size=(2, 3, 2), mode="trilinear").flatten(2).transpose(1, 2),
        "down_projection.proj.weight": trained["down_projection.proj.weight"].repeat(1, 2, 1, 1, 1) / 2,
    }
    for name, value in wanted.items():
        torch.testing.assert_close(start[name], value, rtol=1e-6, atol=1e-7, msg=name)
    assert all(torch.equal(start[name], trained[name]) for name in trained if name.startswith("eva.blocks."))
    about = read_any(fitted).provenance
    assert about["transferred"] == {"encoder": 282, "decoder": 0}

    other = tmp_path / "student.pth"
    assert command.main([str(path), "-d", "4", "--which", "student", "--seed", "1", "-o", str(other)]) == 0
    one, two = state_of(fitted), state_of(other)
    decoder = [name for name in one if name.startswith("up_projection.") and one[name].std() > 0]
    assert decoder and not any(torch.equal(one[name], two[name]) for name in decoder if one[name].ndim == 5)
    assert torch.equal(two["eva.norm.weight"], student.state_dict()["eva.norm.weight"])
    # what was fitted can be loaded and fitted again
    assert nnssl.load_encoder(fitted)(torch.zeros(1, 2, 8, 8, 8))[0].shape == (1, 396, 1, 1, 1)
    assert doctor.main([str(fitted), "-d", "4"]) == 0
    assert "It fits" in capsys.readouterr().out


def test_the_doctor_tells_what_does_not_fit(
    published: tuple[TokenEncoder, TokenEncoder, Path],
    target: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    target()
    assert doctor.main([str(published[2]), "-d", "4"]) == 1
    said = capsys.readouterr().out
    assert "-tr nnUNet_Primus_S_Trainer" in said and "nnU-Net refuses the shape; the export interpolates" in said
    assert "10 of 292 names are missing, first up_projection" in said


def test_commands_for_unets_say_what_to_do_instead(
    published: tuple[TokenEncoder, TokenEncoder, Path],
    target: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    target()
    weights = str(published[2])
    assert plan_like.main([weights, "-d", "4"]) == 1
    assert finetune.main(["4", "3d_fullres", "0", "-w", weights]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("holds PrimusS, and this command is for the U-Nets that plans describe") == 2
    for form in ("nnssl", "safetensors"):
        assert command.main([weights, "-d", "4", "--format", form]) == 2
        assert f"--format {form} is for U-Nets" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(DataError, match=r"no trained decoder\. Use nnssl\.load_encoder"):
        nnssl.load_pyramid(weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": (20, 16, 16)}, r"Primus is not built for nnUNetPlans.*tokens of \(8, 8, 8\)"),
        ({"labels": {}}, "`labels` of dataset.json"),
    ],
)
def test_targets_that_no_primus_is_built_for_are_refused(
    published: tuple[TokenEncoder, TokenEncoder, Path],
    target: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
) -> None:
    import re

    target(**options)
    assert command.main([str(published[2]), "-d", "4", "-o", str(tmp_path / "f.pth")]) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "f.pth").exists()


def test_a_target_without_dataset_json_is_refused(
    published: tuple[TokenEncoder, TokenEncoder, Path],
    target: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    target()
    for home in ("nnUNet_preprocessed", "nnUNet_raw"):
        (tmp_path / home / TARGET / "dataset.json").unlink()
    assert command.main([str(published[2]), "-d", "4"]) == 1
    assert "there is no dataset.json of Dataset004_T" in " ".join(capsys.readouterr().err.split())


def test_nothing_larger_than_the_file_is_built(
    published: tuple[TokenEncoder, TokenEncoder, Path], tmp_path: Path
) -> None:
    content = torch.load(published[2], weights_only=True)
    chosen = content["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"]["3d_fullres"]
    chosen["patch_size"] = [8 * 4096] * 3
    torch.save(content, tmp_path / "large.pth")
    with pytest.raises(ExportError, match="it holds positions of"):
        nnssl.load_encoder(tmp_path / "large.pth")
    chosen["patch_size"] = [16, 16, 16]
    del content["network_weights"]["eva.blocks.3.norm1.weight"]
    torch.save(content, tmp_path / "lacks.pth")
    with pytest.raises(ExportError, match=r"does not hold what it says.*eva\.blocks\.3\.norm1"):
        nnssl.load_encoder(tmp_path / "lacks.pth")
