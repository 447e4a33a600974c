"""Weights that `nnssl_export` fitted to another network start stock nnU-Net's training with every promised tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from nnssl.encoders.tokens import token_encoder
from nnssl.export.checkpoint import publish
from nnssl.export.tensors import decoder_names, encoder_names
from nnssl.method import Exported
from tests.stock.stock import CONFIGURATION, PRIMUS_TRAINER, Stock, differing
from tests.stock.test_fine_tuning import fine_tune, plan_the_target_itself, pretrained
from tests.tiny import tiny_plans

pytestmark = pytest.mark.stock


def test_isotropic_one_channel_weights_on_an_anisotropic_two_channel_target(
    stock: Stock, tiny: str, tmp_path: Path
) -> None:
    pretrained(tmp_path / "w.pth", tiny_plans("Dataset745_Other", kind="mr"), channels=1, decoder=True)
    plans = plan_the_target_itself(stock, tiny, kind="two", residual=False)
    plans["plans_name"] = "flatPlans"
    chosen = plans["configurations"][CONFIGURATION]
    chosen["data_identifier"] = "flatPlans_3d_fullres"
    made = chosen["architecture"]["arch_kwargs"]
    made["kernel_sizes"][0], made["strides"][1] = [1, 3, 3], [1, 2, 2]
    (stock.preprocessed / tiny / "flatPlans.json").write_text(json.dumps(plans))
    said = stock.run("nnssl_export", tmp_path / "w.pth", "-d", "5", "-p", "flatPlans", "-o", tmp_path / "fitted.pth")
    assert re.search(r"nnUNetv2_train 5 3d_fullres 0 -p flatPlans -pretrained_weights \S+fitted\.pth", said)
    assert "encoder  100 % of 16 (15 exact, 1 adapted, 0 fresh)" in said
    names = torch.load(tmp_path / "fitted.pth", weights_only=True)["network_weights"]
    fine_tune(stock, tiny, "flatPlans", tmp_path / "fitted.pth", encoder_names(names) + decoder_names(names))


def test_primus_weights_start_nnunets_own_primus_trainer(stock: Stock, tiny: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    encoder = token_encoder("primus_s", 2, patch_size=(16, 32, 16))
    about = {"channel_names": {"0": "a", "1": "b"}}
    publish(
        tmp_path / "w.pth", exported=Exported(encoder=encoder), plans=tiny_plans("Dataset745_Other", kind="two"),
        configuration=CONFIGURATION, dataset_json=about, channels=2, provenance={}, citations=[], seed=0, final=True,
    )  # fmt: skip
    plan_the_target_itself(stock, tiny, kind="two", residual=False)
    said = stock.run("nnssl_export", tmp_path / "w.pth", "-d", "5", "-p", "tinyPlans", "-o", tmp_path / "fitted.pth")
    assert "-p tinyPlans -tr nnUNet_Primus_S_Trainer -pretrained_weights" in said
    stock.preprocess(tiny, "tinyPlans")
    fold = stock.train(tiny, "tinyPlans", tmp_path / "fitted.pth", PRIMUS_TRAINER)
    file = torch.load(tmp_path / "fitted.pth", weights_only=True)["network_weights"]
    assert differing(fold, tmp_path / "fitted.pth", list(file)) == []
    assert "foreground_mean" in json.loads((fold / "validation" / "summary.json").read_text())
