"""Stock nnU-Net trains from our files with every promised tensor equal, validates and predicts: two channels.

One channel, and weights that were really trained: test_full_chain.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import SimpleITK
import torch

from nnssl.encoders.pyramid import PlanUNet
from nnssl.export.checkpoint import publish
from nnssl.export.tensors import decoder_names, encoder_names
from nnssl.method import Exported
from nnssl.nnunet import build_network
from tests.stock.stock import CONFIGURATION, Stock, differing
from tests.tiny import Kind, tiny_plans

pytestmark = pytest.mark.stock


FINGERPRINT, STUB = "dataset_fingerprint.json", "{}"


def pretrained(path: Path, plans: Mapping[str, Any], *, channels: int, decoder: bool) -> list[str]:
    """Publish weights as a pretraining would; the names of the promised tensors."""
    torch.manual_seed(3)
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    unet = PlanUNet(build_network(architecture, channels=channels, classes=1))
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    publish(
        path,
        exported=Exported(encoder=unet.encoder, decoder=unet if decoder else None),
        plans=plans,
        configuration=CONFIGURATION,
        dataset_json={"channel_names": {str(channel): "X" for channel in range(channels)}},
        channels=channels,
        provenance={},
        citations=[],
        seed=0,
        final=True,
    )
    names = torch.load(path, weights_only=True)["network_weights"]
    return encoder_names(names) + (decoder_names(names) if decoder else [])


def fine_tune(stock: Stock, dataset: str, plans_name: str, weights: Path, promised: list[str]) -> None:
    """Preprocess, train, validate and predict with nnU-Net's commands; every claim of the weights file is checked."""
    stock.preprocess(dataset, plans_name)
    fold = stock.train(dataset, plans_name, weights)
    assert promised
    assert differing(fold, weights, promised) == []
    split = json.loads((stock.preprocessed / dataset / "splits_final.json").read_text())[0]
    assert (fold / "validation" / f"{split['val'][0]}.nii.gz").is_file()
    assert "foreground_mean" in json.loads((fold / "validation" / "summary.json").read_text())
    case = split["val"][0]
    predicted = SimpleITK.ReadImage(str(stock.predict(dataset, plans_name, case)))
    truth = SimpleITK.ReadImage(str(stock.raw / dataset / "labelsTr" / f"{case}.nii.gz"))
    assert predicted.GetSize() == truth.GetSize()


def plan_the_target_itself(stock: Stock, dataset: str, *, kind: Kind, residual: bool) -> dict[str, Any]:
    """What `-target` pretrains on: the labelled data set's own plan, here a tiny one."""
    folder = stock.preprocessed / dataset
    folder.mkdir(exist_ok=True)
    (folder / FINGERPRINT).write_text(STUB)  # only copied by nnU-Net's trainer; taking it is slow
    name = f"tiny{'ResEnc' if residual else ''}Plans"
    plans = tiny_plans(dataset, plans_name=name, kind=kind, residual=residual, spacing_mm=(1.5, 1.5, 1.5))
    (folder / f"{name}.json").write_text(json.dumps(plans))
    for file in ("dataset.json", "splits_final.json"):
        (folder / file).write_text((stock.raw / dataset / file).read_text())
    return plans


def plan_like(stock: Stock, dataset: str, weights: Path, *options: str) -> str:
    """Run `nnssl_plan_like`; the name of the plan that its printed commands use."""
    fingerprint = stock.preprocessed / dataset / FINGERPRINT
    if fingerprint.is_file() and fingerprint.read_text() == STUB:  # of a test before this one
        fingerprint.unlink()
    said = stock.run("nnssl_plan_like", weights, "-d", str(int(dataset[7:10])), "-np", "1", *options)
    match = re.search(rf"nnUNetv2_train {int(dataset[7:10])} 3d_fullres 0 -p (\S+) -pretrained_weights (\S+)", said)
    assert match is not None, said
    assert Path(match[2]) == weights.resolve()
    assert f"nnUNetv2_preprocess -d {int(dataset[7:10])} -plans_name {match[1]} -c 3d_fullres" in said
    return match[1]


def test_a_plain_plan_like_two_channel_weights_at_the_targets_own_spacing(
    stock: Stock, tiny: str, tmp_path: Path
) -> None:
    plans = tiny_plans("Dataset745_Other", kind="two", spacing_mm=(3.0, 3.0, 3.0))
    promised = pretrained(tmp_path / "w.pth", plans, channels=2, decoder=True)
    name = plan_like(stock, tiny, tmp_path / "w.pth", "--keep_spacing")
    written = json.loads((stock.preprocessed / tiny / f"{name}.json").read_text())
    assert written["configurations"][CONFIGURATION]["spacing"] == [1.5, 1.25, 1.0]
    fine_tune(stock, tiny, name, tmp_path / "w.pth", promised)
