"""The file satisfies the contract of nnU-Net's nnssl flow, read here as that flow reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnssl.errors import ExportError
from nnssl.export.adaptation import adaptation_plan, resolved_configuration
from nnssl.nnunet import build_network
from tests.export.weights import write_weights
from tests.tiny import tiny_plans

KEYS = {
    "architecture_plans", "pretrain_plan", "pretrain_num_input_channels", "recommended_downstream_patchsize",
    "key_to_encoder", "key_to_stem", "keys_to_in_proj", "key_to_lpe",
}  # fmt: skip


def load_part(network: nn.Module, weights: dict[str, Tensor], key: str) -> int:
    """As the flow does: every tensor whose name starts with `key` goes strictly into that submodule."""
    part = {name[len(key) + 1 :]: tensor for name, tensor in weights.items() if name.startswith(key)}
    network.get_submodule(key).load_state_dict(part, strict=True)
    return len(part)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "resenc"])
def test_the_nnssl_flow_builds_the_network_and_loads_stem_and_encoder(tmp_path: Path, residual: bool) -> None:
    unet = write_weights(tmp_path / "w.pth", tiny_plans("Dataset745_Tiny", residual=residual))
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    about = content["nnssl_adaptation_plan"]
    assert set(about) >= KEYS
    block = about["architecture_plans"]
    architecture = {
        "network_class_name": block["arch_class_name"],
        "arch_kwargs": block["arch_kwargs"],
        "_kw_requires_import": block["arch_kwargs_requiring_import"],
    }
    network = build_network(architecture, channels=about["pretrain_num_input_channels"], classes=4)
    counts = [load_part(network, content["network_weights"], about[key]) for key in ("key_to_encoder", "key_to_stem")]
    assert min(counts) > 0
    loaded = network.get_submodule("encoder").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in unet.encoder.state_dict().items())
    shapes = {network.get_submodule(key).weight.shape for key in about["keys_to_in_proj"]}
    assert len(shapes) == 1
    assert about["key_to_lpe"] is None


def test_the_pretrain_plan_holds_exactly_the_trained_configuration() -> None:
    plans = tiny_plans("Dataset745_Tiny")
    plans["configurations"]["2d"] = {"spacing": [1.0, 1.0], "patch_size": [64, 64]}
    plans["configurations"]["3d_fullres_bs4"] = {"inherits_from": "3d_fullres", "batch_size": 4}
    plans["continue_training"] = False
    block = plans["configurations"]["3d_fullres"]["architecture"]
    about = adaptation_plan(build_network(block, channels=1, classes=2), plans, "3d_fullres_bs4", 1)
    ((name, configuration),) = about["pretrain_plan"]["configurations"].items()
    assert name == "3d_fullres_bs4"
    assert configuration["batch_size"] == 4
    assert configuration["spacing"] == [1.5, 1.25, 1.0]
    assert "continue_training" not in about["pretrain_plan"]
    assert about["recommended_downstream_patchsize"] == [32, 32, 32]


def test_inheritance_in_a_circle_and_unknown_configurations_are_refused() -> None:
    plans = tiny_plans("Dataset745_Tiny")
    plans["configurations"]["3d_fullres"]["inherits_from"] = "3d_fullres"
    for name in ("3d_fullres", "3d_lowres"):
        with pytest.raises(ExportError, match="must hold configuration"):
            resolved_configuration(plans, name)


def test_a_network_that_does_not_name_its_encoder_is_refused() -> None:
    plans: dict[str, Any] = tiny_plans("Dataset745_Tiny")
    with pytest.raises(ExportError, match="lacks key_to_encoder, key_to_stem, keys_to_in_proj"):
        adaptation_plan(nn.Linear(1, 1), plans, "3d_fullres", 1)
