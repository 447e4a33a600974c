"""CADS against the formulas: four pairs, half of the loss aligned, sampled patches, the way of depth 1, the teacher."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nnssl_cads.method import CADS, CADSConfig
from nnssl_cads.sampling import balanced, blocks_of, kept_patches, pack, patch_of
from nnssl_cads.trainer import CADSTrainer
from nnssl_cads.views import view_spec
from torch import Tensor, nn

from nnssl.blocks.deferred import commit_all
from nnssl.blocks.flat import depth_one
from nnssl.blocks.pooling import pool
from nnssl.engine.optim import Schedule
from nnssl.engine.plan import plan_info
from nnssl.engine.recipe import PerTensor
from nnssl.errors import PlanError, RecipeError
from nnssl.method import Batch
from nnssl.nnunet import build_network
from nnssl.planning.wish import wished
from nnssl.testing import check_method
from nnssl.testing_world import commit, local_step, noise_batch, small_networks
from nnssl.views.intensity.apply import apply_fixed
from nnssl.views.intensity.jitter import HounsfieldUnits
from tests.plugins.matrix import PLANS, name_of
from tests.plugins.naive import naive_softmax
from tests.tiny import tiny_plans

SMALL = {"prototypes": 24, "hidden": 16, "bottleneck": 8}
WORLD: dict[str, Any] = {"patch_size": (16, 32, 32), "case_shape": (40, 64, 64)}


def build(*, dtype: torch.dtype = torch.float32, plan: Any = None, **config: Any) -> tuple[CADS, Batch]:
    networks = small_networks(**(WORLD | (plan or {})))
    chosen = CADSConfig(**(SMALL | config))
    spec = CADS.views(chosen, networks.plan, networks.data)
    method = CADS(chosen, networks).to(dtype)
    return method, noise_batch(spec, networks, needs=CADS.needs(chosen), dtype=dtype)


@pytest.mark.parametrize("config", [{}, {"head_norm": "none", "repack": "raster", "pooling": "mean"}])
def test_cads_keeps_the_contract(config: dict[str, Any]) -> None:
    check_method(CADS, CADSConfig(**(SMALL | config)), networks=lambda: small_networks(**WORLD))


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_it_runs_on_every_kind_of_plan_and_nnunet_takes_the_encoder(plan: dict[str, Any]) -> None:
    method, batch = build(plan=plan)
    losses = method(batch, local_step())
    losses.total.backward()
    assert losses.total.isfinite()
    trained = [*method.student.parameters(), *method.flat_stem.parameters()]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained)
    networks = small_networks(**(WORLD | plan))
    theirs = build_network(networks.architecture, channels=networks.plan.channels, classes=3)
    theirs.get_submodule("encoder").load_state_dict(method.export_network().encoder.state_dict(), strict=True)


# -------------------------------------------------------------------------------------------------------- loss


def test_loss_equals_a_naive_loop_over_four_pairs_of_which_two_are_aligned() -> None:
    method, batch = build(dtype=torch.float64, teacher_temperature=(0.04, 0.07), teacher_warmup_epochs=9)
    method.center.value.copy_(torch.linspace(-0.1, 0.1, 24))
    step = local_step(index=45, dtype=torch.float64)  # epoch 4 of 10
    image, valid = method._crops(batch, step)
    target = method.teacher(image, valid)
    logits = [one.tolist() for one in method._student(image, valid, method._projections(batch))]
    tau_t = 0.04 + 0.03 * 4 / 8
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2)]
    total, aligned = 0.0, 0.0
    for stage, (i, j), sample in itertools.product(range(4), pairs, range(4)):
        centred = zip(target[4 * i + sample].tolist(), method.center.value.tolist(), strict=True)
        p = naive_softmax([(t - c) / tau_t for t, c in centred])
        q = naive_softmax([s / 0.1 for s in logits[stage][4 * j + sample]])
        term = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        total += term / (4 * 4 * 4)
        aligned += term / (4 * 2 * 4) if j == 2 else 0.0
    losses = method(batch, step)
    assert losses.total.item() == pytest.approx(total, rel=1e-10)
    assert losses.parts["alignment"].item() == pytest.approx(aligned, rel=1e-10)
    assert list(losses.parts)[:4] == ["stage_1", "stage_2", "stage_3", "stage_4"]


def test_alignment_is_exactly_half_of_the_loss() -> None:
    method, batch = build(dtype=torch.float64)
    step = local_step(dtype=torch.float64)
    losses = method(batch, step)
    image, valid = method._crops(batch, step)
    p = torch.softmax(method.teacher(image, valid) / 0.04, -1).chunk(2)
    log_q = [torch.log_softmax(s / 0.1, -1).chunk(3) for s in method._student(image, valid, method._projections(batch))]
    crops = torch.stack([-(p[i] * stage[1 - i]).sum(-1).mean() for stage in log_q for i in (0, 1)]).mean()
    torch.testing.assert_close(losses.total, (losses.parts["alignment"] + crops) / 2)


def test_a_projection_is_resized_to_the_crops_plane_and_neither_turned_nor_mirrored() -> None:
    # bilinear between pixel centres: pixel i of n lies at (i + 1/2) m / n - 1/2 of m; a ramp comes back as its places
    method, batch = build()
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    ramp = (rows * 100 + columns)[None]
    source = batch.sources["case"]
    sidecars = {"projection": [{"image": ramp}] * 4}
    found = method._projections(replace(batch, sources={"case": replace(source, sidecars=sidecars)}))
    height, width = batch.views["global"].image.shape[-2:]
    assert found.shape == (4, 1, 1, height, width)

    def places(count: int, size: int) -> Tensor:
        return ((torch.arange(size) + 0.5) * count / size - 0.5).clamp(0, count - 1)

    wanted = places(40, height)[:, None] * 100 + places(50, width)
    torch.testing.assert_close(found[2, 0, 0], wanted, rtol=1e-4, atol=1e-3)


def test_a_projection_stays_with_its_sample() -> None:
    method, batch = build(head_norm="none")
    world = small_networks(**WORLD)
    spec = CADS.views(method.config, world.plan, world.data)
    part = noise_batch(spec, world, needs=CADS.needs(method.config), keys=(2, 3))
    whole = method._projections(batch)
    torch.testing.assert_close(method._projections(part), whole[2:])
    assert not torch.equal(whole[2], whole[3])
    rows = method._student(*method._crops(batch, local_step()), whole)[-1][8:]
    torch.testing.assert_close(method._student(*method._crops(part, local_step()), whole[2:])[-1][4:], rows[2:])


def test_health_hears_what_the_deepest_stage_says_of_the_other_crop() -> None:
    method, batch = build(dtype=torch.float64)
    step = local_step(dtype=torch.float64)
    image, valid = method._crops(batch, step)
    watch = method(batch, step).watch
    torch.testing.assert_close(watch["teacher_probs"], torch.softmax(method.teacher(image, valid) / 0.04, -1))
    said = torch.log_softmax(method._student(image, valid, method._projections(batch))[-1] / 0.1, -1)
    torch.testing.assert_close(watch["student_log_probs"], torch.cat((said[4:8], said[:4])))


def test_the_losses_start_where_the_closed_form_says() -> None:
    # CE0 = ln K + 1/(2 b tau_s^2) - rho/(b tau_s tau_t), H0 = ln K - 1/(2 b tau_t^2): dino3d.md 3.2. Shallow heads have
    # prototypes of their own, so their rho is 0; the deepest head's are the teacher's, and its rho is measured.
    b, K = 256, 16_384
    method, batch = build(prototypes=K, bottleneck=b, hidden=64, head_norm="none")
    losses = method(batch, local_step())
    image, valid = method._crops(batch, local_step())
    plane = method._flat(method._projections(batch))[-1]
    pooled = torch.cat((pool(method.student.encoder(image)[-1], valid=valid), pool(plane)))
    first, second, projection = F.normalize(method.student.head.mlp(pooled), dim=-1).chunk(3)
    pairs = ((first, second), (first, projection), (second, first), (second, projection))
    rho = torch.stack([(one * other).sum(-1).mean() for one, other in pairs]).mean().item()
    unlike = math.log(K) + 1 / (2 * b * 0.01)
    found = [losses.parts[f"stage_{k}"].item() for k in (1, 2, 3, 4)]
    assert found == pytest.approx([unlike, unlike, unlike, unlike - rho / (b * 0.1 * 0.04)], abs=0.05)
    assert rho > 0.5
    p = losses.watch["teacher_probs"]
    assert torch.special.entr(p).sum(-1).mean().item() == pytest.approx(math.log(K) - 1 / (2 * b * 0.04**2), abs=0.05)


def test_what_lies_outside_the_case_is_not_pooled() -> None:
    method, batch = build()
    image, valid = method._crops(batch, local_step())
    part = valid.clone()
    part[:, :, : valid.shape[2] // 2] = False
    whole, counted = (method._student(image, v, method._projections(batch)) for v in (valid, part))
    assert all(not torch.allclose(a, b) for a, b in zip(whole, counted, strict=True))


def test_teacher_says_the_same_twice() -> None:
    method, batch = build()
    image, valid = method._crops(batch, local_step())
    assert torch.equal(method.train().teacher(image, valid), method.teacher(image, valid))


def test_teacher_sees_the_sampled_crops_alone() -> None:
    method, batch = build()
    seen: list[torch.Size] = []
    method.teacher.network.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    method(batch, local_step()).total.backward()
    d, h, w = batch.views["global"].image.shape[3:]
    assert seen == [torch.Size((8, 1, d, h // 2, w // 2))]
    assert all(p.grad is None for p in method.teacher.parameters())
    assert not any("flat_stem" in name for name, _ in method.teacher.named_parameters())


def test_centre_moves_after_the_loss_by_a_tenth_of_the_mean_logits() -> None:
    method, batch = build()
    target = method.teacher(*method._crops(batch, local_step()))
    method(batch, local_step())
    assert not method.center.value.any()
    commit_all(method, commit())
    torch.testing.assert_close(method.center.value, 0.1 * target.mean(0))


def test_prototypes_of_all_heads_stay_in_the_first_epochs() -> None:
    method, batch = build(frozen_epochs=3)
    for index, frozen in ((0, True), (29, True), (30, False)):  # 10 steps an epoch
        method.zero_grad()
        method(batch, local_step(index=index)).total.backward()
        method.edit_gradients(local_step(index=index))
        heads = (*method.shallow_heads, method.student.head)
        assert [head.last_layer.weight.grad is None for head in heads] == [frozen] * 4
        assert all(p.grad is not None for p in method.student.encoder.parameters())


def test_teacher_follows_on_the_published_cosine() -> None:
    momentum = build(teacher_memory=0.0)[0].teacher.momentum
    assert momentum(0, 1000) == pytest.approx(0.996)
    assert momentum(500, 1000) == pytest.approx(0.998)
    assert build(teacher_memory=0.1)[0].teacher.momentum(0, 100) == pytest.approx(0.9)


def test_features_and_export_are_the_teachers() -> None:
    method, _ = build()
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.mul_(1.1)
    image = torch.randn(2, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    features = method.features(image)
    maps = method.teacher.network.encoder(image)
    assert all(torch.equal(a, b) for a, b in zip(features.pyramid, maps, strict=True))
    torch.testing.assert_close(features.vector, pool(maps[-1]))
    exported = method.export_network()
    assert exported.encoder is method.teacher.network.encoder
    assert exported.variants["student"][0] is method.student.encoder
    assert exported.variants["teacher"][0] is method.teacher.network.encoder


def test_published_features_are_of_hounsfield_units_as_the_views_are() -> None:
    world = small_networks(patch_size=(16, 96, 96), case_shape=(40, 200, 200))
    method = CADS(CADSConfig(**(SMALL | {"published_views": True})), world)
    values = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 900
    scaled = apply_fixed(HounsfieldUnits(), values)
    torch.testing.assert_close(
        method.features(values).vector, pool(method.teacher.network.encoder(scaled)[-1], method.config.pooling)
    )


# -------------------------------------------------------------------------------------------------------- sampling


def packed_ramp(repack: Any, n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size, patch = (16, 96, 96), (4, 8, 8)
    x = torch.arange(n * 16 * 96 * 96, dtype=torch.float64).reshape(n, 1, *size)
    blocks = blocks_of(size, patch)
    assert blocks == (4, 6, 6)
    order = torch.stack([torch.randperm(144, generator=torch.Generator().manual_seed(seed)) for seed in range(n)])
    choice = balanced(order)
    return x, choice, pack(x, kept_patches(choice, blocks, repack), patch)


@pytest.mark.parametrize("repack", ["block", "raster"])
def test_one_patch_of_each_block_is_kept_bit_for_bit(repack: str) -> None:
    x, choice, packed = packed_ramp(repack)
    assert packed.shape == (3, 1, 16, 48, 48)
    assert torch.stack([torch.bincount(row, minlength=4) for row in choice]).tolist() == [[36] * 4] * 3
    for sample in range(3):
        found = []
        for d, r, c in itertools.product(range(4), range(6), range(6)):
            corner = int(packed[sample, 0, 4 * d, 8 * r, 8 * c])
            z, rest = divmod(corner - sample * 16 * 96 * 96, 96 * 96)
            y, w = divmod(rest, 96)
            found.append((z // 4, y // 8, w // 8))
            source = x[sample, 0, z : z + 4, y : y + 8, w : w + 8]
            assert torch.equal(packed[sample, 0, 4 * d : 4 * d + 4, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8], source)
            assert (z // 4, y // 16) == (d, r)  # layer and row of blocks stay in both packings
            if repack == "block":
                assert w // 16 == c
                assert (y // 8 % 2) * 2 + w // 8 % 2 == choice[sample, (d * 6 + r) * 6 + c]
        assert len(set(found)) == 144
        assert len({(z, y // 2, w // 2) for z, y, w in found}) == 144
        assert (found == sorted(found)) == (repack == "raster")


def test_the_two_views_and_the_samples_draw_their_own_patches() -> None:
    method, batch = build()
    steps = [local_step(), local_step()]
    first, again = (method._crops(batch, step)[0] for step in steps)
    assert torch.equal(first, again)
    view = batch.views["global"]
    twins = replace(batch, views={"global": replace(view, image=view.image[:, :1].expand_as(view.image))})
    one, two = method._crops(twins, local_step())[0].chunk(2)
    assert all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))
    world = small_networks(**WORLD)
    spec = CADS.views(method.config, world.plan, world.data)
    part = noise_batch(spec, world, needs=CADS.needs(method.config), keys=(2, 3))
    torch.testing.assert_close(method._crops(part, local_step())[0], first[[2, 3, 6, 7]])


@pytest.mark.parametrize(
    ("packed", "patch"), [((16, 48, 48), (4, 8, 8)), ((20, 12, 40), (4, 4, 8)), ((5, 7, 9), (1, 1, 1))]
)
def test_patches_divide_any_packed_view(packed: Any, patch: Any) -> None:
    assert patch_of(packed) == patch


# -------------------------------------------------------------------------------------------------------- depth 1


def test_a_convolution_of_depth_one_is_its_central_plane() -> None:
    conv = nn.Conv3d(3, 5, 3, stride=(2, 2, 2), padding=1)
    image = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = F.conv2d(image[:, :, 0], conv.weight[:, :, 1], conv.bias, stride=2, padding=1)
    torch.testing.assert_close(conv(image)[:, :, 0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("anisotropic", [False, True])
def test_planes_keep_depth_one_through_every_stage_and_volumes_are_as_before(residual: bool, anisotropic: bool) -> None:
    method, _ = build(plan={"residual": residual, "anisotropic": anisotropic})
    volume = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    before = method.student.encoder(volume)
    maps = method._flat(torch.randn(2, 1, 1, 32, 32))
    assert [one.shape[2:] for one in maps] == [(1, 32, 32), (1, 16, 16), (1, 8, 8), (1, 4, 4)]
    with depth_one(method.student.encoder):
        within = method.student.encoder(volume)
    for one, same, after in zip(before, within, method.student.encoder(volume), strict=True):
        assert torch.equal(one, same)
        assert torch.equal(one, after)


def test_average_pooling_of_a_plane_is_that_of_two_dimensions() -> None:
    shortcut = nn.Sequential(nn.AvgPool3d((2, 2, 2), (2, 2, 2)))
    image = torch.randn(1, 2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with depth_one(shortcut):
        torch.testing.assert_close(shortcut(image)[:, :, 0], F.avg_pool2d(image[:, :, 0], 2))
    with pytest.raises(RuntimeError, match="smaller than kernel"):
        shortcut(image)


def test_without_the_projection_its_way_in_gets_no_gradient_and_shared_stages_get_both() -> None:
    method, batch = build()
    image, valid = method._crops(batch, local_step())
    method.student(image, valid).sum().backward()
    assert all(p.grad is None for p in method.flat_stem.parameters())
    method.zero_grad()
    pool(method._flat(method._projections(batch))[-1]).square().sum().backward()
    assert all(p.grad is not None for p in method.flat_stem.parameters())
    stages = method.student.encoder.stages
    assert all(p.grad is None for p in stages[0].parameters())
    assert all(p.grad is not None for p in stages[1:].parameters())


# -------------------------------------------------------------------------------------------------------- numbers


def test_paper_recipe_has_the_published_numbers() -> None:
    recipe = CADSTrainer.presets["paper"]
    assert recipe.optimizer.peak_lr(192) == pytest.approx(5.625e-4)
    assert recipe.optimizer.clip == PerTensor(0.3)
    schedule = Schedule(recipe)
    decay = [schedule.weight_decay(step) for step in (0, recipe.total_steps // 2, recipe.total_steps)]
    assert decay == pytest.approx([0.04, 0.22, 0.4])
    config = recipe.method
    assert (config.teacher_temperature, config.teacher_warmup_epochs) == ((0.04, 0.07), 50)
    method, _ = build(teacher_temperature=(0.04, 0.07), teacher_warmup_epochs=50)
    assert [round(method.teacher_temperature(e), 6) for e in (0, 49, 50, 149)] == [0.04, 0.07, 0.07, 0.07]
    assert method.teacher_temperature(24) == pytest.approx(0.04 + 0.03 * 24 / 49)
    assert (config.frozen_epochs, config.repack, config.sampling) == (3, "raster", "uniform25")
    assert (config.prototypes, config.hidden, config.bottleneck) == (60_000, 2048, 256)
    assert (config.pooling, config.head_norm, config.distill_stages) == ("mean", "none", 4)
    assert (config.teacher_momentum, config.teacher_memory, config.center_momentum) == (0.996, 0.0, 0.9)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "resenc"])
def test_the_plan_that_the_paper_preset_brings_holds_its_packed_views(residual: bool) -> None:
    recipe = CADSTrainer.presets["paper"]
    assert recipe.plan is not None
    plans = wished(tiny_plans("Dataset745_Tiny", residual=residual), recipe.plan)
    plan = plan_info(plans["configurations"]["3d_fullres"], channels=1)
    (group,) = view_spec(recipe.method, plan, small_networks().data).groups
    assert group.size == (16, 96, 96)
    assert all(side % step == 0 for side, step in zip((16, 48, 48), plan.total_stride, strict=True))


def test_views_that_cannot_be_halved_are_refused_with_the_way_out() -> None:
    world = small_networks(patch_size=(16, 16, 16), case_shape=(40, 40, 40))
    with pytest.raises(PlanError, match=r"--set method\.sampling=none"):
        CADS.views(CADSConfig(), world.plan, world.data)
    (group,) = CADS.views(CADSConfig(sampling="none"), world.plan, world.data).groups
    assert group.size == (16, 16, 16)
    with pytest.raises(PlanError, match="Hounsfield"):
        world = small_networks(**WORLD, modality="t1")
        CADS.views(CADSTrainer.presets["paper"].method, world.plan, world.data)


def test_a_plan_too_narrow_for_the_projection_is_refused() -> None:
    world = small_networks(patch_size=(64, 8, 8), case_shape=(128, 16, 16))
    with pytest.raises(PlanError, match="8 x 8 pixels"):
        CADS.views(CADSConfig(sampling="none"), world.plan, world.data)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(RecipeError, match="above 0"):
        CADSConfig(student_temperature=0.0)
