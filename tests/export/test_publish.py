"""What is published is what was trained, in a form that every reader takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from nnssl.encoders.pyramid import PlanUNet
from nnssl.errors import ExportError
from nnssl.export.checkpoint import ExportReport, publish
from nnssl.export.proof import load_like_nnunet
from nnssl.method import Exported
from nnssl.nnunet import build_network
from tests.tiny import tiny_plans


@pytest.fixture(params=[False, True], ids=["plain", "resenc"])
def plans(request: pytest.FixtureRequest) -> dict[str, Any]:
    return tiny_plans("Dataset745_Tiny", residual=request.param)


def architecture(plans: dict[str, Any]) -> dict[str, Any]:
    block: dict[str, Any] = plans["configurations"]["3d_fullres"]["architecture"]
    return block


def trained(plans: dict[str, Any], *, seed: int = 7) -> PlanUNet:
    """A U-Net as a method holds it, every value different from any initial one."""
    torch.manual_seed(seed)
    unet = PlanUNet(build_network(architecture(plans), channels=1, classes=1))
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn_like(parameter))
    return unet


def publish_tiny(path: Path, plans: dict[str, Any], exported: Exported, **changes: Any) -> ExportReport:
    arguments: dict[str, Any] = {
        "exported": exported,
        "plans": plans,
        "configuration": "3d_fullres",
        "dataset_json": {"channel_names": {"0": "CT"}, "labels": {"background": 0}},
        "channels": 1,
        "provenance": {"trainer": "MAETrainer", "steps": 3},
        "citations": [{"type": "Pretraining", "name": "MAE", "apa_citations": ["He et al. (2022)."]}],
        "seed": 1,
        "final": True,
    }
    return publish(path, **(arguments | changes))


def fresh(plans: dict[str, Any], *, classes: int = 5) -> nn.Module:
    torch.manual_seed(99)
    return build_network(architecture(plans), channels=1, classes=classes, deep_supervision=True)


def test_nnunet_starts_from_the_trained_encoder_under_every_alias(plans: dict[str, Any], tmp_path: Path) -> None:
    unet = trained(plans)
    report = publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=unet.encoder))
    network = fresh(plans)
    load_like_nnunet(network, tmp_path / "w.pth")
    state, own = network.state_dict(), unet.encoder.state_dict()
    for name, value in own.items():
        assert torch.equal(state[f"encoder.{name}"], value)
        assert torch.equal(state[f"decoder.encoder.{name}"], value)
    assert report.encoder_tensors == len(own)
    assert report.decoder_tensors == 0
    assert report.compared == 2 * len(own)


def test_a_trained_decoder_is_transferred_and_counted(plans: dict[str, Any], tmp_path: Path) -> None:
    unet = trained(plans)
    report = publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=unet.encoder, decoder=unet))
    network = fresh(plans)
    load_like_nnunet(network, tmp_path / "w.pth")
    state, own = network.state_dict(), unet.decoder.state_dict()
    for name, value in own.items():
        assert torch.equal(state[f"decoder.{name}"], value)
    assert report.decoder_tensors == len(own)


def test_a_fresh_decoder_depends_on_the_seed_alone(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    exported = Exported(encoder=trained(plans).encoder)
    for index, seed in enumerate((1, 1, 2)):
        torch.manual_seed(index)
        publish_tiny(tmp_path / f"{index}.pth", plans, exported, seed=seed)
    first, same, other = (torch.load(tmp_path / f"{i}.pth", weights_only=True)["network_weights"] for i in range(3))
    key = "decoder.transpconvs.0.weight"
    assert torch.equal(first[key], same[key])
    assert not torch.equal(first[key], other[key])


def test_publishing_leaves_the_randomness_of_the_run_alone(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    exported = Exported(encoder=trained(plans).encoder)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    publish_tiny(tmp_path / "w.pth", plans, exported)
    assert torch.equal(torch.get_rng_state(), before)


def test_aliases_share_their_storage_so_that_the_file_is_not_three_times_as_large(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=trained(plans).encoder))
    parameters = sum(p.numel() for p in fresh(plans).parameters())
    assert (tmp_path / "w.pth").stat().st_size < 1.2 * 4 * parameters


def test_wrappers_of_ddp_and_compile_do_not_matter(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    unet = trained(plans)
    wrapped = nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": unet.encoder})})
    publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=wrapped))
    weights = torch.load(tmp_path / "w.pth", weights_only=True)["network_weights"]
    key = "stages.0.0.convs.0.conv.weight"
    assert torch.equal(weights[f"encoder.{key}"], unet.encoder.state_dict()[key])


def test_variants_are_exported_by_name(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    student, teacher = trained(plans, seed=1), trained(plans, seed=2)
    exported = Exported(encoder=student.encoder, variants={"teacher": (teacher.encoder, None)})
    publish_tiny(tmp_path / "w.pth", plans, exported, which="teacher")
    weights = torch.load(tmp_path / "w.pth", weights_only=True)["network_weights"]
    key = "stages.1.0.convs.0.conv.weight"
    assert torch.equal(weights[f"encoder.{key}"], teacher.encoder.state_dict()[key])
    with pytest.raises(ExportError, match=r"no variant 'ema'.*teacher"):
        publish_tiny(tmp_path / "w.pth", plans, exported, which="ema")


def test_the_encoder_file_holds_each_tensor_once_with_its_provenance(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny", residual=True)
    unet = trained(plans)
    publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=unet.encoder))
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        names = list(file.keys())
        assert len(names) == len(list(unet.encoder.parameters()))
        own = unet.encoder.state_dict()
        assert all(torch.equal(file.get_tensor(name), own[name.removeprefix("encoder.")]) for name in names)
        assert json.loads(file.metadata()["nnssl"])["steps"] == 3


def test_the_card_says_what_it_is_how_to_use_it_and_whom_to_cite(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=trained(plans).encoder), final=False)
    card = (tmp_path / "MODEL_CARD.md").read_text()
    for text in (
        "MAETrainer on Dataset745_Tiny",
        "still going on",
        "1.5 x 1.25 x 1 mm",
        "CTNormalization",
        "He et al.",
    ):
        assert text in card


def test_an_encoder_of_another_plan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    plans, other = tiny_plans("Dataset745_Tiny"), tiny_plans("Dataset745_Tiny")
    architecture(other)["arch_kwargs"]["features_per_stage"] = [8, 16, 32, 48]
    publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=trained(plans).encoder))
    before = (tmp_path / "w.pth").read_bytes()
    with pytest.raises(ExportError, match=r"shape \(64, 32, 3, 3, 3\).*\(48, 32, 3, 3, 3\)"):
        publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=trained(other).encoder))
    assert (tmp_path / "w.pth").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_shallower_encoder_names_a_missing_tensor(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    encoder = trained(plans).encoder
    encoder.stages = encoder.stages[:3]
    with pytest.raises(ExportError, match=r"lacks 8 of them, first encoder.stages.3"):
        publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=encoder))


def test_a_deeper_encoder_is_refused_since_its_surplus_would_be_lost(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    encoder = trained(plans).encoder
    encoder.stages.append(nn.Conv3d(64, 64, 1))
    with pytest.raises(ExportError, match=r"2 tensors that nnU-Net's has no place for, first stages.4"):
        publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=encoder))


def test_layers_beside_the_stages_are_not_nnunets_business(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    encoder = trained(plans).encoder
    encoder.head = nn.Linear(64, 8)
    publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=encoder))
    assert not any("head" in key for key in torch.load(tmp_path / "w.pth", weights_only=True)["network_weights"])


def test_two_encoders_with_different_values_are_refused_as_ambiguous(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    both = nn.ModuleDict({"student": trained(plans, seed=1).encoder, "teacher": trained(plans, seed=2).encoder})
    with pytest.raises(ExportError, match=r"twice, under 'student.' and 'teacher.'"):
        publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=both))


def test_values_that_are_not_finite_are_never_published(tmp_path: Path) -> None:
    plans = tiny_plans("Dataset745_Tiny")
    encoder = trained(plans).encoder
    with torch.no_grad():
        next(encoder.parameters())[0] = float("nan")
    with pytest.raises(ExportError, match="not finite"):
        publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=encoder))
    assert not list(tmp_path.iterdir())


def test_the_proof_catches_a_file_whose_last_alias_is_not_the_trained_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net's alias trap: the last name of a tensor wins, in silence."""
    plans = tiny_plans("Dataset745_Tiny")
    saved = torch.save

    def save_with_a_stale_alias(content: dict[str, Any], stream: Any) -> None:
        weights = dict(content["network_weights"])
        key = "decoder.encoder.stages.0.0.convs.0.all_modules.0.weight"
        weights[key] = torch.zeros_like(weights[key])
        saved({**content, "network_weights": weights}, stream)

    monkeypatch.setattr(torch, "save", save_with_a_stale_alias)
    with pytest.raises(ExportError, match=r"promised tensors.*differs"):
        publish_tiny(tmp_path / "w.pth", plans, Exported(encoder=trained(plans).encoder))
    assert not list(tmp_path.iterdir())
