"""Networks of a plan: pyramid shapes, nnU-Net's tensor names, and that they compute what nnU-Net computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnssl.blocks.ema import CosineMomentum
from nnssl.encoders.factory import PlanNetworks
from nnssl.encoders.pyramid import cumulative_strides
from nnssl.errors import PlanError, PluginError
from nnssl.nnunet import build_network
from nnssl.testing_world import small_architecture, small_networks

PLANS = [(residual, anisotropic) for residual in (False, True) for anisotropic in (False, True)]


@pytest.mark.parametrize(("residual", "anisotropic"), PLANS)
def test_encoder_is_a_pyramid_of_any_plan(residual: bool, anisotropic: bool) -> None:
    networks = small_networks(residual=residual, anisotropic=anisotropic, channels=2)
    encoder = networks.encoder()
    maps = encoder(torch.randn(1, 2, 16, 32, 32))
    assert encoder.channels == (4, 8, 12, 16)
    assert [m.shape[1] for m in maps] == [4, 8, 12, 16]
    for feature_map, stride in zip(maps, encoder.strides, strict=True):
        assert tuple(feature_map.shape[2:]) == tuple(s // d for s, d in zip((16, 32, 32), stride, strict=True))


@pytest.mark.parametrize(("residual", "anisotropic"), PLANS)
def test_unet_computes_what_nnunet_computes_under_its_names(residual: bool, anisotropic: bool) -> None:
    networks = small_networks(residual=residual, anisotropic=anisotropic)
    unet = networks.unet()
    theirs = build_network(networks.architecture, channels=1, classes=3, deep_supervision=True)
    missing, unexpected = theirs.load_state_dict(unet.state_dict(), strict=False)
    assert not unexpected
    # what is missing: segmentation layers, and the alias of the encoder inside their decoder
    assert all(".seg_layers." in key or key.startswith("decoder.encoder.") for key in missing)
    image = torch.randn(1, 1, 16, 32, 32)
    maps = unet(image)
    outputs = [layer(m) for layer, m in zip(reversed(theirs.decoder.seg_layers), maps[:-1], strict=True)]
    for ours, other in zip(outputs, theirs(image), strict=True):
        torch.testing.assert_close(ours, other)
    torch.testing.assert_close(maps[-1], theirs.encoder(image)[-1])
    assert [m.shape[1] for m in maps] == list(unet.channels)


@pytest.mark.parametrize("residual", [False, True])
def test_encoder_state_is_exactly_that_of_nnunet(residual: bool) -> None:
    networks = small_networks(residual=residual)
    theirs = build_network(networks.architecture, channels=1, classes=3).get_submodule("encoder")
    theirs.load_state_dict(networks.encoder().state_dict(), strict=True)


def test_no_parameter_is_left_without_a_gradient() -> None:
    unet = small_networks(residual=True).unet()
    sum(m.square().mean() for m in unet(torch.randn(2, 1, 16, 32, 32))).backward()
    assert [name for name, p in unet.named_parameters() if p.grad is None] == []


def test_same_seed_gives_same_weights() -> None:
    first, second, other = (small_networks(seed=seed).encoder() for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_teacher_starts_as_the_student_and_compiles_in_place() -> None:
    networks = small_networks()
    student = nn.Sequential(networks.encoder())
    teacher = networks.teacher(student, momentum=CosineMomentum(0.9))
    image = torch.randn(1, 1, 16, 32, 32)
    torch.testing.assert_close(teacher(image)[-1], student(image)[-1])
    compiled = PlanNetworks(networks.architecture, networks.plan, networks.data, compile=True).encoder()
    assert list(compiled.state_dict()) == list(networks.encoder().state_dict())
    assert compiled._compiled_call_impl is not None


def test_other_names_what_is_known() -> None:
    with pytest.raises(PluginError, match=r"No network 'primus_x'.*known"):
        small_networks().other("primus_x")


def test_foreign_architecture_is_refused_by_name() -> None:
    networks = small_networks()
    block = small_architecture() | {"network_class_name": "some.module.SwinUNETR"}
    with pytest.raises(PlanError, match=r"SwinUNETR.*PlainConvUNet, ResidualEncoderUNet"):
        PlanNetworks(block, networks.plan, networks.data)


def test_two_dimensional_strides_are_refused() -> None:
    with pytest.raises(PlanError, match="3d_fullres"):
        cumulative_strides([[1, 1], [2, 2]])
    assert cumulative_strides([1, [1, 2, 2], 2]) == ((1, 1, 1), (1, 2, 2), (2, 4, 4))
