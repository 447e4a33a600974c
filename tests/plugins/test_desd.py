"""DeSD against the paper's formulas: targets, pairs, stages, centre, head, schedules, views."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from nnssl_desd.method import DeSD, DeSDConfig
from nnssl_desd.trainer import DeSDTrainer

from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.deferred import commit_all
from nnssl.blocks.heads import Branch
from nnssl.blocks.multicrop import flat_views
from nnssl.blocks.pooling import pool
from nnssl.engine.optim import Schedule
from nnssl.errors import PlanError, RecipeError
from nnssl.method import Batch, View
from nnssl.nnunet import build_network
from nnssl.testing import check_method
from nnssl.testing_world import commit, local_step, noise_batch, small_networks
from nnssl.views.intensity import BrightnessAdd, BrightnessMultiply, Contrast, Gamma, GaussianBlur, GaussianNoise
from nnssl.views.intensity.apply import apply_fixed
from nnssl.views.intensity.jitter import HounsfieldUnits
from nnssl.views.spec import Geometry
from tests.plugins.matrix import PLANS, name_of

SMALL = {"prototypes": 24, "hidden": 16, "bottleneck": 8}


def build(*, seed: int = 0, keys: tuple[int, ...] = (0, 1, 2, 3), **config: Any) -> tuple[DeSD, Batch]:
    networks = small_networks(seed=seed)
    chosen = DeSDConfig(**(SMALL | config))
    spec = DeSD.views(chosen, networks.plan, networks.data)
    return DeSD(chosen, networks), noise_batch(spec, networks, keys=keys)


def flat(view: View) -> tuple[torch.Tensor, torch.Tensor]:
    return flat_views(view.image), flat_views(view.valid)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"local_views": 2},
        {"head_norm": "none", "pooling": "mean_std"},
        {"distill_stages": 2, "pooling": "mean_max", "head_norm": "hidden"},
    ],
)
def test_desd_keeps_the_contract(config: dict[str, Any]) -> None:
    check_method(DeSD, DeSDConfig(**(SMALL | config)))


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_it_runs_on_every_kind_of_plan_and_nnunet_takes_the_encoder(plan: dict[str, Any]) -> None:
    networks = small_networks(**plan)
    config = DeSDConfig(**(SMALL | {"local_views": 1}))
    method = DeSD(config, networks)
    losses = method(noise_batch(DeSD.views(config, networks.plan, networks.data), networks), local_step())
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in method.student.parameters())
    commit_all(method, commit())
    exported = method.export_network()
    assert exported.encoder is method.teacher.network.encoder
    assert exported.variants["student"][0] is method.student.encoder
    theirs = build_network(networks.architecture, channels=networks.plan.channels, classes=3)
    theirs.get_submodule("encoder").load_state_dict(exported.encoder.state_dict(), strict=True)


@pytest.mark.parametrize("local_views", [0, 2])
def test_loss_equals_a_naive_loop_over_the_formulas(local_views: int) -> None:
    method, _ = build(
        local_views=local_views,
        stage_weights=(0.1, 0.2, 0.3, 0.4),
        teacher_temperature=(0.04, 0.07),
        teacher_warmup_epochs=20,
    )
    method = method.double()
    world = small_networks()
    batch = noise_batch(DeSD.views(method.config, world.plan, world.data), world, dtype=torch.float64)
    method.center.value.copy_(torch.linspace(-0.1, 0.1, 24))
    step = local_step(index=55, dtype=torch.float64)  # epoch 5 of 10
    groups = [flat(batch.views[name]) for name in batch.views]
    target = method.teacher(*groups[0])
    heads = [*method.shallow_heads, method.student.head]
    total = 0.0
    tau_t = 0.04 + 0.03 * 5 / 19
    for k, head in enumerate(heads):
        vectors = [pool(method.student.encoder(image)[-4:][k], method.config.pooling) for image, _ in groups]
        logits = head(torch.cat(vectors)).tolist()
        stage, pairs = 0.0, 0
        for i in range(2):
            for j in range(2 + local_views):
                if i == j:
                    continue
                pairs += 1
                for sample in range(4):
                    raw = zip(target[i * 4 + sample].tolist(), method.center.value.tolist(), strict=True)
                    t = [(value - center) / tau_t for value, center in raw]
                    s = [v / 0.1 for v in logits[j * 4 + sample]]
                    p_sum, q_sum = sum(map(math.exp, t)), sum(map(math.exp, s))
                    stage -= sum(math.exp(a) / p_sum * (b - math.log(q_sum)) for a, b in zip(t, s, strict=True)) / 4
        assert pairs == 2 * (1 + local_views)
        total += (0.1, 0.2, 0.3, 0.4)[k] * stage / pairs
    losses = method(batch, step)
    assert losses.total.item() == pytest.approx(total, rel=1e-10)


def test_total_is_the_mean_of_four_stages() -> None:
    method, batch = build()
    losses = method(batch, local_step())
    assert list(losses.parts) == ["stage_1", "stage_2", "stage_3", "stage_4"]
    torch.testing.assert_close(losses.total.detach(), torch.stack(list(losses.parts.values())).mean())


def test_teacher_gets_no_gradient_and_sees_the_global_views_alone() -> None:
    method, batch = build(local_views=2)
    seen: list[torch.Size] = []
    method.teacher.network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    method(batch, local_step()).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert seen == [torch.Size((8, 1, *batch.views["global"].image.shape[-3:]))]


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_loss_of_a_stage_reaches_that_stage_and_shallower_ones_alone(stage: int) -> None:
    weights = tuple(1.0 if k == stage else 0.0 for k in (1, 2, 3, 4))
    method, batch = build(stage_weights=weights)
    method(batch, local_step()).total.backward()

    def reached(module: torch.nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())

    assert [reached(s) for s in method.student.encoder.stages] == [k <= stage for k in (1, 2, 3, 4)]
    heads = [*method.shallow_heads, method.student.head]
    assert [reached(head) for head in heads] == [k == stage for k in (1, 2, 3, 4)]


def test_all_stages_share_the_target_of_the_deepest_teacher_stage() -> None:
    method, batch = build()
    before = method(batch, local_step()).parts
    encoder = method.teacher.network.encoder
    real = encoder.forward

    def disturbed(image: torch.Tensor, *, stages: range) -> list[torch.Tensor]:
        return [m + torch.randn_like(m) * (k in stages) for k, m in enumerate(real(image))]

    encoder.forward = lambda image: disturbed(image, stages=range(3))
    same = method(batch, local_step()).parts
    encoder.forward = lambda image: disturbed(image, stages=range(3, 4))
    other = method(batch, local_step()).parts
    assert all(torch.equal(before[name], same[name]) for name in before)
    assert all(not torch.equal(before[name], other[name]) for name in before)


def test_order_of_local_views_does_not_matter() -> None:
    method, batch = build(local_views=3)
    before = method(batch, local_step()).total
    local = batch.views["local"]
    object.__setattr__(local, "image", local.image.flip(1))
    torch.testing.assert_close(method(batch, local_step()).total, before)


def test_a_view_is_never_compared_with_its_own_target() -> None:
    # without batch norm, views do not meet in the head: p(1) goes with q(2) and p(2) with q(1)
    method, batch = build(head_norm="none")
    watch = method(batch, local_step()).watch
    groups = [flat(batch.views["global"])]
    logits = method.student(*groups[0])
    log_q = torch.log_softmax(logits / 0.1, -1)
    torch.testing.assert_close(watch["student_log_probs"], torch.cat((log_q[4:], log_q[:4])))


def test_losses_at_the_start_are_near_the_published_ones() -> None:
    # K and dimension as published; the networks small: shallow stages within 0.3 of ln K + 1/(2 b tau^2) = 11.2
    method, batch = build(prototypes=60_000, bottleneck=256, head_norm="hidden")
    parts = method(batch, local_step()).parts
    for name in ("stage_1", "stage_2", "stage_3"):
        assert abs(parts[name].item() - math.log(60_000)) < 0.35


def test_centre_moves_after_the_loss_by_a_tenth_of_the_mean_logits() -> None:
    method, batch = build(prototypes=16)
    target = method.teacher(*flat(batch.views["global"]))
    method(batch, local_step())
    assert not method.center.value.any()
    commit_all(method, commit())
    torch.testing.assert_close(method.center.value, 0.1 * target.mean(0))
    assert "center.value" in method.state_dict()


def test_teacher_moves_by_name_and_starts_as_the_student() -> None:
    method, _ = build(teacher_memory=0.0)
    old = {name: p.clone() for name, p in method.teacher.network.named_parameters()}
    for name, parameter in method.student.named_parameters():
        assert torch.equal(old[name], parameter)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(1.0)
    commit_all(method, commit(index=0))
    m = method.config.teacher_momentum
    for name, parameter in method.teacher.network.named_parameters():
        torch.testing.assert_close(parameter, old[name] + (1 - m), rtol=0, atol=1e-6)


def test_prototypes_of_all_heads_stay_in_the_first_epochs() -> None:
    method, batch = build(frozen_epochs=2)
    heads = [*method.shallow_heads, method.student.head]
    for index, frozen in ((0, True), (19, True), (20, False)):
        method.zero_grad()
        step = local_step(index=index)  # 10 steps an epoch
        method(batch, step).total.backward()
        method.edit_gradients(step)
        assert [head.last_layer.weight.grad is None for head in heads] == [frozen] * 4
        assert method.student.encoder.stages[0][0].convs[0].conv.weight.grad is not None


@pytest.mark.parametrize(("norm", "count"), [("none", 0), ("hidden", 2), ("everywhere", 4)])
def test_batch_norm_is_in_every_head_as_configured(norm: Any, count: int) -> None:
    method, _ = build(head_norm=norm)
    for head in (*method.shallow_heads, method.student.head):
        assert sum(isinstance(m, BatchNorm) for m in head.modules()) == count
    assert DeSD.needs(method.config).batch_coupled == (norm != "none")


def test_teacher_temperature_warms_up_by_epoch() -> None:
    method, _ = build(teacher_temperature=(0.04, 0.07), teacher_warmup_epochs=20)
    assert [round(method.teacher_temperature(e), 6) for e in (0, 19, 20, 299)] == [0.04, 0.07, 0.07, 0.07]
    assert method.teacher_temperature(10) == pytest.approx(0.04 + 0.03 * 10 / 19)


def test_paper_recipe_has_the_published_schedule() -> None:
    recipe = DeSDTrainer.presets["paper"]
    assert recipe.optimizer.peak_lr(recipe.batch_size) == pytest.approx(0.225)
    lr = Schedule(recipe).learning_rate
    warm = 10 * 651
    assert lr(0) == 0
    assert lr(warm - 1) == pytest.approx(0.225)
    assert lr(warm) == pytest.approx(0.225)
    assert lr(recipe.total_steps - 1) == pytest.approx(0.048, abs=1e-4)
    assert recipe.method.prototypes == 60_000


def test_one_dimensional_parameters_get_no_weight_decay() -> None:
    method, _ = build()
    undecayed = [group for group in method.parameter_groups() if group.get("weight_decay_factor") == 0.0]
    plain = [p for group in undecayed for p in group["params"]]
    assert {id(p) for p in plain} == {id(p) for p in method.parameters() if p.ndim <= 1 and p.requires_grad}


def test_paper_views_are_the_published_ones() -> None:
    config = DeSDTrainer.presets["paper"].method
    networks = small_networks(anisotropic=True, case_shape=(60, 300, 300))
    spec = DeSD.views(config, networks.plan, networks.data)
    (group,) = spec.groups
    assert (group.size, group.count) == ((16, 96, 96), 2)
    assert spec.sources[0].size == ((24, 24), (134, 172), (134, 172))
    assert group.geometry == Geometry(
        scale=(0.8, 1.2), through_plane_scale=(1.0, 1.0), per_axis=True, flip=(0.8, 0.8, 0.8)
    )
    first, second = group.intensity
    assert first.slicewise
    assert first != second
    chances = [(op.probability, op.channel_probability) for op in first.ops[1:]]
    assert chances == [(1.0, 1.0), (0.8, 0.8), (0.8, 1.0), (0.8, 0.8), (1.0, 1.0), (0.8, 1.0)]
    assert DeSD.needs(config).values == "raw"


def test_hounsfield_units_become_minus_one_to_one() -> None:
    from nnssl.views.intensity.jitter import HounsfieldUnits

    rows = torch.tensor([[[[-3000.0, -1024.0, 0.0, 512.0, 4000.0]]]])
    assert HounsfieldUnits().apply(rows, {}, torch.randn_like).flatten().tolist() == [-1.0, -1.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("networks", "sentence"),
    [
        ({"modality": "t1"}, "Hounsfield units"),
        ({"features": (4, 4, 4, 4, 4, 4)}, r"divisible by the encoder's total stride, which is \(32, 32, 32\)"),
    ],
)
def test_paper_views_are_refused_with_the_reason(networks: dict[str, Any], sentence: str) -> None:
    world = small_networks(**networks)
    with pytest.raises(PlanError, match=sentence):
        DeSD.views(DeSDTrainer.presets["paper"].method, world.plan, world.data)


def test_paper_views_are_refused_on_other_voxels() -> None:
    world = small_networks()
    object.__setattr__(world.plan, "spacing_mm", (3.0, 1.0, 1.0))
    with pytest.raises(PlanError, match=r"voxels of \(1.0, 1.0, 1.0\) mm \(D H W\); the plan's are \(3.0, 1.0, 1.0\)"):
        DeSD.views(DeSDTrainer.presets["paper"].method, world.plan, world.data)


def test_default_views_fit_small_cases() -> None:
    world = small_networks(patch_size=(40, 56, 40), case_shape=(31, 45, 31))
    spec = DeSD.views(DeSDConfig(), world.plan, world.data)
    assert spec.groups[0].size == (16, 32, 16)  # 31/1.5, 45/1.4 and 31/1.4, snapped down to 8
    with pytest.raises(PlanError, match="at least 8 cells"):
        tiny = small_networks(case_shape=(12, 12, 12))
        DeSD.views(DeSDConfig(), tiny.plan, tiny.data)


def test_local_views_are_half_as_large_in_plane_at_low_resolution() -> None:
    world = small_networks(patch_size=(16, 48, 32), case_shape=(60, 120, 100))
    _, local = DeSD.views(DeSDConfig(local_views=3), world.plan, world.data).groups
    assert (local.size, local.count) == ((16, 24, 16), 3)
    assert local.geometry == Geometry(
        scale=(1.5, 2.0), through_plane_scale=(1.0, 1.0), per_axis=True, flip=(0.5, 0.5, 0.5)
    )
    chances = [(op.probability, op.channel_probability) for op in local.intensity.ops]
    assert chances == [(1.0, 1.0), (0.5, 0.8), (1.0, 1.0), (0.8, 0.8), (1.0, 1.0), (0.8, 1.0)]
    with pytest.raises(PlanError, match=r"have 2 cells of them, and needs 4. Use --set method\.local_views=0"):
        small = small_networks(patch_size=(16, 16, 16), case_shape=(60, 60, 60))
        DeSD.views(DeSDConfig(local_views=1), small.plan, small.data)


def test_published_intensities_have_the_published_ranges() -> None:
    spec = DeSD.views(DeSDConfig(), (world := small_networks()).plan, world.data)
    for intensity in spec.groups[0].intensity:
        noise, blur, multiply, add, contrast, gamma = intensity.ops
        assert (noise, replace(blur, probability=1.0, channel_probability=1.0)) == (
            GaussianNoise((0.0, 0.1)), GaussianBlur((0.1, 2.0)),
        )  # fmt: skip
        assert replace(multiply, probability=1.0) == BrightnessMultiply((0.75, 1.25))
        assert replace(add, probability=1.0, channel_probability=1.0) == BrightnessAdd(0.4)
        assert contrast == Contrast((0.75, 1.25))
        assert replace(gamma, probability=1.0) == Gamma((0.7, 1.5))


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(RecipeError, match="needs 4 numbers"):
        build(stage_weights=(1.0, 2.0))
    with pytest.raises(RecipeError, match="above 0"):
        DeSDConfig(student_temperature=0.0)


def test_copy_of_the_method_is_independent() -> None:
    method, batch = build()
    method(batch, local_step()).total.backward()
    twin = copy.deepcopy(method)
    assert isinstance(twin.student, Branch)
    commit_all(twin, commit())
    assert not method.center.value.any()


def test_published_features_are_of_hounsfield_units_as_the_views_are() -> None:
    world = small_networks()
    torch.manual_seed(0)
    paper = DeSD(DeSDConfig(prototypes=16, bottleneck=8, published_views=True), world).eval()
    torch.manual_seed(0)
    plain = DeSD(DeSDConfig(prototypes=16, bottleneck=8), world).eval()
    plain.load_state_dict(paper.state_dict())
    values = torch.randn(1, 1, 32, 32, 32) * 500
    scaled = apply_fixed(HounsfieldUnits(), values)
    assert torch.equal(paper.features(values).vector, plain.features(scaled).vector)
    assert not torch.equal(values, scaled)


def test_features_are_the_teachers() -> None:
    method, batch = build()
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.mul_(1.1)
    image, _ = flat(batch.views["global"])
    wanted = pool(method.teacher.network.encoder(image)[-1], method.config.pooling)
    torch.testing.assert_close(method.features(image).vector, wanted)
    assert not torch.allclose(wanted, pool(method.student.encoder(image)[-1], method.config.pooling))
