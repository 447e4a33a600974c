"""The last lines of a pretraining name commands that suit the network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from nnssl.encoders.fpn3d import FPN3d
from nnssl.encoders.tokens import TokenEncoder
from nnssl.export.next_commands import next_commands
from tests.primus import tiny_primus
from tests.tiny import tiny_plans

WEIGHTS = Path("checkpoint_final.pth")


def said(encoder: nn.Module) -> str:
    return "\n".join(next_commands(encoder, WEIGHTS, tiny_plans("Dataset745_Pre")))


def test_a_unet_gets_a_plan_and_stock_nnunet() -> None:
    words = said(nn.Conv3d(1, 1, 1))
    assert "nnssl_plan_like checkpoint_final.pth -d 4" in words
    assert "-p nnsslPlansLike745 -pretrained_weights checkpoint_final.pth" in words


def test_a_primus_is_fitted_and_trained_by_nnunets_trainer_of_its_size() -> None:
    words = said(TokenEncoder(tiny_primus((16, 16, 16)), name="primus_m", patch_size=(16, 16, 16)))
    assert "nnssl_export checkpoint_final.pth -d 4 -p nnUNetPlans" in words
    assert "-tr nnUNet_Primus_M_Trainer -pretrained_weights FILE" in words
    assert "nnssl_plan_like" not in words


def test_a_network_that_nnunet_cannot_build_gets_no_command_of_nnunet() -> None:
    words = said(FPN3d(1, width=2, levels=2))
    assert "nnssl.load_pyramid" in words and "nnUNetv2" not in words
