"""MAE: what is hidden, what counts, what transfers; sparse encoders see visible cells alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from nnssl_mae.method import MAE, MAEConfig, block_size

from nnssl.blocks.sparse import visible_instance_norm, visible_only
from nnssl.errors import PlanError, RecipeError
from nnssl.method import Batch
from nnssl.testing import check_method
from nnssl.testing_world import local_step, noise_batch, small_networks


def build(*, invalid_slices: int = 0, networks: Any = None, **config: Any) -> tuple[MAE, Batch]:
    networks = networks or small_networks()
    chosen = MAEConfig(**config)
    spec = MAE.views(chosen, networks.plan, networks.data)
    return MAE(chosen, networks), noise_batch(spec, networks, invalid_slices=invalid_slices)


@pytest.mark.parametrize("config", [MAEConfig(), MAEConfig(sparse=True)])
@pytest.mark.parametrize("plan", [{}, {"residual": True, "anisotropic": True, "channels": 2}])
def test_mae_keeps_the_contract(config: MAEConfig, plan: dict[str, Any]) -> None:
    check_method(MAE, config, networks=lambda: small_networks(**plan))


def changed(batch: Batch, where: torch.Tensor, by: float) -> Batch:
    view = batch.views["crop"]
    return replace(batch, views={"crop": replace(view, image=torch.where(where, view.image + by, view.image))})


@pytest.mark.parametrize("sparse", [False, True])
def test_hidden_voxels_never_reach_the_prediction_nor_invalid_ones_the_loss(sparse: bool) -> None:
    method, batch = build(invalid_slices=3, sparse=sparse)
    view = batch.views["crop"]
    assert view.mask is not None
    seen: list[torch.Tensor] = []
    method.to_voxels.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    loss = method(batch, local_step()).total
    hidden_and_outside = changed(batch, view.mask & ~view.valid, 5.0)
    assert torch.equal(method(hidden_and_outside, local_step()).total, loss)
    hidden_inside = changed(batch, view.mask & view.valid, 5.0)
    assert not torch.equal(method(hidden_inside, local_step()).total, loss)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_visible_voxels_are_no_target() -> None:
    method, batch = build()
    view = batch.views["crop"]
    assert view.mask is not None
    with torch.no_grad():
        method.to_voxels.weight.zero_()  # predicts its bias whatever it sees
    visible_changed = changed(batch, ~view.mask, 5.0)
    assert torch.equal(method(batch, local_step()).total, method(visible_changed, local_step()).total)


def test_constant_predictor_has_the_known_loss() -> None:
    method, batch = build(invalid_slices=2)
    view = batch.views["crop"]
    assert view.mask is not None
    with torch.no_grad():
        method.to_voxels.weight.zero_()
        method.to_voxels.bias.fill_(0.25)
    expected = 0.0
    for sample in range(4):
        counted = (view.mask & view.valid)[sample, 0]
        expected += ((view.image[sample, 0][counted] - 0.25) ** 2).mean().item() / 4
    assert method(batch, local_step()).total.item() == pytest.approx(expected, rel=1e-6)


def test_hidden_share_is_between_sixty_and_seventy_five_percent_in_whole_blocks() -> None:
    networks = small_networks()
    method, batch = build(networks=networks)
    mask = batch.views["crop"].mask
    assert mask is not None
    block = block_size(method.config, networks.plan)
    cells = torch.nn.functional.avg_pool3d(mask[:, 0].float(), block, stride=block)
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    blocks = cells[0].numel()
    for sample in cells:
        assert round(0.6 * blocks) <= sample.sum() <= round(0.75 * blocks)


def test_blocks_follow_the_strides_of_the_plan() -> None:
    deep = small_networks(features=(4, 4, 4, 4, 4, 4), patch_size=(64, 64, 64), case_shape=(80, 80, 80)).plan
    flat = small_networks(anisotropic=True).plan
    assert block_size(MAEConfig(), deep) == (16, 16, 16)
    assert block_size(MAEConfig(sparse=True), deep) == (32, 32, 32)
    assert block_size(MAEConfig(), flat) == (4, 8, 8)
    assert block_size(MAEConfig(block=(2, 4, 8)), deep) == (2, 4, 8)


def test_view_is_the_patch_bounded_by_the_cases() -> None:
    networks = small_networks(patch_size=(40, 56, 40), case_shape=(31, 45, 31))
    (group,) = MAE.views(MAEConfig(), networks.plan, networks.data).groups
    assert group.size == (24, 40, 24)


def test_wrong_numbers_are_refused() -> None:
    networks = small_networks()
    with pytest.raises(PlanError, match=r"must divide the view \(16, 16, 32\)"):
        MAE.views(MAEConfig(block=(3, 3, 3)), networks.plan, networks.data)
    with pytest.raises(RecipeError, match="low <= high"):
        MAEConfig(ratio=(0.8, 0.6))
    with pytest.raises(RecipeError, match="three positive sizes"):
        MAEConfig(block=(8, 8))


def test_decoder_is_exported_with_the_encoder_inside_it() -> None:
    method, _ = build()
    exported = method.export_network()
    assert exported.decoder is method.unet
    assert exported.encoder is method.unet.encoder


@pytest.mark.parametrize("residual", [False, True])
def test_sparse_encoder_equals_one_that_never_had_the_hidden_cells(residual: bool) -> None:
    """Visible cells fill the first half of D; statistics and values are those of the visible half alone."""
    torch.manual_seed(0)
    encoder = small_networks(residual=residual).encoder()
    image = torch.randn(2, 1, 32, 16, 16)
    visible = torch.zeros(2, 1, 32, 16, 16, dtype=torch.bool)
    visible[:, :, :16] = True
    image = torch.where(visible, image, 0.0)
    with visible_only(encoder, visible):
        maps = encoder(image)
    alone = encoder(image[:, :, :16])
    for ours, theirs in zip(maps, alone, strict=True):
        half = theirs.shape[2]
        torch.testing.assert_close(ours[:, :, :half], theirs, rtol=1e-3, atol=1e-4)
        assert not ours[:, :, half:].any()
    assert not any(module._forward_hooks for module in encoder.modules())


def test_norm_of_all_cells_is_torchs_own() -> None:
    norm = torch.nn.InstanceNorm3d(3, affine=True)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 4, 4, 4)
    everything = torch.ones(2, 1, 4, 4, 4, dtype=torch.bool)
    torch.testing.assert_close(visible_instance_norm(x, everything, norm), norm(x))
    nothing = visible_instance_norm(x, ~everything, norm)
    assert not nothing.any()
