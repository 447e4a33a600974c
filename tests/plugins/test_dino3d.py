"""DINO3D against the formulas: targets, 18 pairs, centre, options, schedules, and a run on every kind of plan."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from nnssl_dino3d.config import DINO3DConfig
from nnssl_dino3d.method import DINO3D
from nnssl_dino3d.trainer import DINO3DTrainer
from torch import Tensor

from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.deferred import commit_all
from nnssl.blocks.heads import DINOHead, Prototypes
from nnssl.blocks.losses import entropy, student_log_probabilities, teacher_probabilities
from nnssl.blocks.multicrop import flat_views
from nnssl.blocks.pooling import pool
from nnssl.blocks.sinkhorn import sinkhorn
from nnssl.engine.optim import Schedule
from nnssl.engine.recipe import PerTensor
from nnssl.errors import RecipeError
from nnssl.method import Batch
from nnssl.nnunet import build_network
from nnssl.testing import check_method
from nnssl.testing_world import commit, local_step, noise_batch, small_networks
from tests.plugins.matrix import PLANS, name_of
from tests.plugins.naive import naive_softmax

SMALL = {"prototypes": 24, "hidden": 16, "bottleneck": 8, "local_views": 2}
EVERYTHING = {"dense": 1.0, "koleo": 0.1, "targets": "sinkhorn", "dense_fill": "noise"}


def build(*, dtype: torch.dtype = torch.float32, invalid_slices: int = 0, **config: Any) -> tuple[DINO3D, Batch]:
    networks = small_networks()
    chosen = DINO3DConfig(**(SMALL | config))
    spec = DINO3D.views(chosen, networks.plan, networks.data)
    method = DINO3D(chosen, networks).to(dtype)
    return method, noise_batch(spec, networks, dtype=dtype, invalid_slices=invalid_slices)


def flat(batch: Batch, name: str = "global") -> tuple[Tensor, Tensor]:
    return flat_views(batch.views[name].image), flat_views(batch.views[name].valid)


# -------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize(
    "config", [{}, {"head_norm": "none", "dense": 1.0, "local_views": 0}, EVERYTHING | {"body": True}]
)
def test_dino3d_keeps_the_contract(config: dict[str, Any]) -> None:
    check_method(DINO3D, DINO3DConfig(**(SMALL | config)))


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_it_runs_on_every_kind_of_plan_and_nnunet_takes_the_encoder(plan: dict[str, Any]) -> None:
    networks = small_networks(**plan)
    config = DINO3DConfig(**(SMALL | {"dense": 0.5, "koleo": 0.1}))
    spec = DINO3D.views(config, networks.plan, networks.data)
    method = DINO3D(config, networks)
    losses = method(noise_batch(spec, networks), local_step())
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in method.student.parameters())
    commit_all(method, commit())
    theirs = build_network(networks.architecture, channels=networks.plan.channels, classes=3)
    theirs.get_submodule("encoder").load_state_dict(method.export_network().encoder.state_dict(), strict=True)


# -------------------------------------------------------------------------------------------------------- equations


def test_loss_equals_a_naive_loop_over_eighteen_pairs() -> None:
    method, batch = build(dtype=torch.float64, local_views=8, teacher_temperature=(0.04, 0.07), teacher_warmup_epochs=9)
    method.center.value.copy_(torch.linspace(-0.1, 0.1, 24))
    step = local_step(index=45, dtype=torch.float64)  # epoch 4 of 10
    target, _ = method.teacher(*flat(batch))
    vectors = [method.student.encode(*flat(batch, name))[0] for name in ("global", "local")]
    logits = method.student.head(torch.cat(vectors)).tolist()
    tau_t, total, pairs = 0.04 + 0.03 * 4 / 8, 0.0, 0
    for i, j in itertools.product(range(2), range(10)):
        if i == j:
            continue
        pairs += 1
        for sample in range(4):
            centred = zip(target[4 * i + sample].tolist(), method.center.value.tolist(), strict=True)
            p = naive_softmax([(t - c) / tau_t for t, c in centred])
            q = naive_softmax([s / 0.1 for s in logits[4 * j + sample]])
            total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True)) / 4
    assert pairs == 18
    assert method(batch, step).total.item() == pytest.approx(total / 18, rel=1e-10)


def test_order_of_local_views_does_not_matter() -> None:
    method, batch = build(local_views=3)
    before = method(batch, local_step()).total
    local = batch.views["local"]
    turned = replace(batch, views={**batch.views, "local": replace(local, image=local.image.flip(1))})
    torch.testing.assert_close(method(turned, local_step()).total, before)


@pytest.mark.parametrize("cosine", [0.0, 1.0])
def test_a_random_head_has_the_entropies_of_the_closed_form(cosine: float) -> None:
    # CE0 = ln K + 1/(2 b tau_s^2) - rho/(b tau_s tau_t), H0 = ln K - 1/(2 b tau_t^2): dino3d.md 3.2
    torch.manual_seed(0)
    b, K = 256, 65_536
    prototypes = Prototypes(b, K)
    with torch.no_grad():
        x, other = torch.nn.functional.normalize(torch.randn(2, 8, b), dim=-1)
        p = teacher_probabilities(prototypes(x), torch.zeros(K), temperature=0.04)
        log_q = student_log_probabilities(prototypes(x if cosine else other), temperature=0.1)
    expected = math.log(K) + 1 / (2 * b * 0.01) - cosine / (b * 0.1 * 0.04)
    assert -(p * log_q).sum(-1).mean().item() == pytest.approx(expected, abs=0.05)
    assert entropy(p).item() == pytest.approx(math.log(K) - 1 / (2 * b * 0.04**2), abs=0.05)


def test_the_method_starts_where_the_closed_form_says() -> None:
    # published head: all views look alike to an untrained instance-norm encoder, so rho is measured, and is near 1
    b, K = 256, 65_536
    method, batch = build(prototypes=K, bottleneck=b, hidden=64, head_norm="none", pooling="mean", local_views=0)
    losses = method(batch, local_step())
    head = method.student.head
    units = torch.nn.functional.normalize(head.mlp(method.student.encode(*flat(batch))[0]), dim=-1)
    rho = (units[:4] * units[4:]).sum(-1).mean().item()
    assert rho > 0.95
    expected = math.log(K) + 1 / (2 * b * 0.01) - rho / (b * 0.1 * 0.04)
    assert losses.total.item() == pytest.approx(expected, abs=0.05)
    started = entropy(losses.watch["teacher_probs"]).item()
    assert started == pytest.approx(math.log(K) - 1 / (2 * b * 0.04**2), abs=0.05)


def test_sinkhorn_replaces_the_centre_and_none_leaves_it_alone() -> None:
    method, batch = build(targets="sinkhorn")
    p = method(batch, local_step()).watch["teacher_probs"]
    torch.testing.assert_close(p.sum(1), torch.ones(8))
    assert p.mean(0).max() < 2 / 24  # a prototype cannot take all
    commit_all(method, commit())
    assert not method.center.value.any()
    method, batch = build(targets="none")
    method(batch, local_step())
    commit_all(method, commit())
    assert not method.center.value.any()


def test_sinkhorn_takes_as_many_rounds_as_it_is_told() -> None:
    method, batch = build(targets="sinkhorn", sinkhorn_iterations=7, dtype=torch.float64)
    target, _ = method.teacher(*flat(batch))
    p = method(batch, local_step(dtype=torch.float64)).watch["teacher_probs"]
    torch.testing.assert_close(p, sinkhorn(target, temperature=0.04, iterations=7))
    assert not torch.allclose(p, sinkhorn(target, temperature=0.04, iterations=3))


def test_centre_moves_after_the_loss_by_a_tenth_of_the_mean_logits() -> None:
    method, batch = build()
    target, _ = method.teacher(*flat(batch))
    method(batch, local_step())
    assert not method.center.value.any()
    commit_all(method, commit())
    torch.testing.assert_close(method.center.value, 0.1 * target.mean(0))


def test_koleo_is_the_sum_over_both_sets_of_global_views() -> None:
    method, batch = build(koleo=0.25, dtype=torch.float64)
    losses = method(batch, local_step(dtype=torch.float64))
    vectors, _ = method.student.encode(*flat(batch))
    spread = 0.0
    for part in torch.nn.functional.normalize(vectors, dim=1).chunk(2):
        rows = part.tolist()
        spread -= sum(math.log(min(math.dist(a, b) for b in rows if b is not a)) for a in rows) / 4
    assert losses.parts["koleo"].item() == pytest.approx(spread, rel=1e-4)
    assert losses.total.item() == pytest.approx(losses.parts["dino"].item() + 0.25 * spread, rel=1e-4)


# -------------------------------------------------------------------------------------------------------- teacher


def test_teacher_gets_no_gradient_and_sees_the_global_views_alone() -> None:
    method, batch = build(dense=1.0)
    seen: list[Tensor] = []
    method.teacher.network.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    method(batch, local_step()).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert len(seen) == 1
    assert torch.equal(seen[0], flat(batch)[0])  # and nothing is hidden from it


def test_one_pass_of_the_encoder_for_each_size_and_one_of_the_head() -> None:
    method, batch = build(local_views=4)
    calls: list[str] = []
    for name, module in (("encoder", method.student.encoder), ("head", method.student.head)):
        module.register_forward_hook(lambda m, i, o, name=name: calls.append(name))
    method(batch, local_step())
    assert calls == ["encoder", "encoder", "head"]


def test_the_students_answer_is_watched_with_the_other_views_target() -> None:
    method, batch = build(head_norm="none", local_views=0)
    watch = method(batch, local_step()).watch
    logits, _ = method.student(*flat(batch))
    log_q = torch.log_softmax(logits / 0.1, -1)
    torch.testing.assert_close(watch["student_log_probs"], torch.cat((log_q[4:], log_q[:4])))


def test_outside_the_case_counts_in_no_view() -> None:
    method, _ = build(head_norm="none")
    networks = small_networks()
    spec = DINO3D.views(method.config, networks.plan, networks.data)
    batch, part = noise_batch(spec, networks), noise_batch(spec, networks, invalid_slices=8)
    for name in ("global", "local"):
        views = {**batch.views, name: replace(batch.views[name], valid=part.views[name].valid)}
        changed = method(replace(batch, views=views), local_step()).total
        assert not torch.isclose(changed, method(batch, local_step()).total, rtol=1e-6)


def test_export_is_the_teachers_encoder_and_the_students_a_choice() -> None:
    method, _ = build()
    exported = method.export_network()
    assert exported.encoder is method.teacher.network.encoder
    assert exported.variants["student"][0] is method.student.encoder
    assert exported.variants["teacher"][0] is method.teacher.network.encoder


def test_teacher_follows_on_the_published_cosine() -> None:
    method, _ = build(teacher_memory=0.0)
    momentum = method.teacher.momentum
    assert momentum(0, 100) == pytest.approx(0.996)
    # k/n: 1 - m of the last step is (1 - m_0) pi^2 / 4T^2
    assert 1 - momentum(999, 1000) == pytest.approx(0.004 * math.pi**2 / 4e6, rel=1e-4)
    assert build(teacher_memory=0.1)[0].teacher.momentum(0, 100) == pytest.approx(0.9)


@pytest.mark.parametrize("dense", [0.0, 1.0])
def test_prototypes_stay_for_an_epoch(dense: float) -> None:
    method, batch = build(dense=dense)
    heads = [head for head in (method.student.head, method.student.dense_head) if isinstance(head, DINOHead)]
    assert len(heads) == 1 + bool(dense)
    for index, frozen in ((9, True), (10, False)):  # 10 steps an epoch
        method.zero_grad()
        method(batch, local_step(index=index)).total.backward()
        method.edit_gradients(local_step(index=index))
        assert [head.last_layer.weight.grad is None for head in heads] == [frozen] * len(heads)


def test_copy_of_the_method_is_independent() -> None:
    method, batch = build(dense=1.0)
    method(batch, local_step()).total.backward()
    twin = copy.deepcopy(method)
    commit_all(twin, commit())
    assert not method.center.value.any()
    assert twin.center.value.any()


# -------------------------------------------------------------------------------------------------------- dense term


def changed(batch: Batch, where: Tensor) -> Batch:
    view = batch.views["global"]
    image = torch.where(where, view.image + 3.0, view.image)
    return replace(batch, views={**batch.views, "global": replace(view, image=image)})


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_hidden_voxels_never_reach_the_student(fill: str) -> None:
    method, batch = build(dense=1.0, dense_views=1.0, dense_fill=fill)
    mask = batch.views["global"].mask
    assert mask is not None
    seen: list[Tensor] = []
    method.student.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    method(batch, local_step())
    method(changed(batch, mask), local_step())
    torch.testing.assert_close(seen[0], seen[2])  # global, local, global, local
    assert not torch.equal(seen[0], flat(batch)[0])


def test_hidden_blocks_hold_the_mean_of_what_is_seen_or_noise_of_its_spread() -> None:
    for fill in ("mean", "noise"):
        method, batch = build(dense=1.0, dense_views=1.0, dense_fill=fill, dtype=torch.float64)
        view = batch.views["global"]
        assert view.mask is not None
        image = view.image * 3 + 5
        filled = method._without(image, view.mask, batch.keys, local_step(dtype=torch.float64))
        for sample, number in itertools.product(range(4), range(2)):
            hidden = view.mask[sample, number]
            seen, made = image[sample, number][~hidden], filled[sample, number][hidden]
            assert torch.equal(filled[sample, number][~hidden], seen)
            wanted = seen.std(correction=0).item() if fill == "noise" else 0.0
            assert made.std().item() == pytest.approx(wanted, rel=0.1)
            assert made.mean().item() == pytest.approx(seen.mean().item(), abs=0.1 * wanted + 1e-9)


def test_the_dense_term_has_its_weight() -> None:
    method, batch = build(dense=0.5, dtype=torch.float64)
    losses = method(batch, local_step(dtype=torch.float64))
    wanted = losses.parts["dino"] + 0.5 * losses.parts["dense"]
    torch.testing.assert_close(losses.total.detach(), wanted)


@pytest.mark.parametrize("targets", ["center", "sinkhorn"])
def test_only_hidden_cells_of_the_chosen_views_count(targets: str) -> None:
    method, batch = build(dense=1.0, dense_views=0.5, targets=targets)
    hidden = method._hidden(batch, local_step())
    assert hidden is not None
    view = batch.views["global"]
    assert view.mask is not None
    masked = hidden.flatten(2).any(2)
    assert 0 < masked.sum() < masked.numel()
    assert torch.equal(hidden[masked], view.mask[masked])
    assert torch.equal(masked, local_step().uniform("masked", batch.keys, (2,)) < 0.5)
    counted = method._counted(hidden, view)
    cells = counted.shape[1]
    low, high = (round(ratio * cells) for ratio in method.config.dense_ratio)
    assert set(counted.sum(1).tolist()) <= {0, *range(low, high + 1)}
    # with another target in a cell that nobody hides, the loss is the same; in a hidden one it is not
    target, logits = torch.randn(8, cells, 24), torch.randn(8, cells, 24)
    before = method._dense(target, logits, counted, local_step())
    other = torch.where(counted[..., None], target, torch.randn_like(target))
    torch.testing.assert_close(method._dense(other, logits, counted, local_step()), before)
    other = torch.where(counted[..., None], torch.randn_like(target), target)
    assert not torch.isclose(method._dense(other, logits, counted, local_step()), before)


def test_dense_loss_equals_a_naive_loop_and_gives_every_hidden_view_one_vote() -> None:
    method, batch = build(dense=1.0, dtype=torch.float64, head_norm="none", invalid_slices=8)
    view = batch.views["global"]
    step = local_step(dtype=torch.float64)
    hidden = method._hidden(batch, step)
    assert hidden is not None
    _, target = method.teacher(*flat(batch))
    image = flat_views(method._without(view.image, hidden, batch.keys, step))
    logits = method.student.cells(method.student.encoder(image)[-1])
    stride = method.stride
    total = 0.0
    for n, (mask, valid) in enumerate(zip(flat_views(hidden), flat_views(view.valid), strict=True)):
        block = (slice(0, None, stride[0]), slice(0, None, stride[1]), slice(0, None, stride[2]))
        # the first 8 slices lie outside: exactly one cell of 8
        inside = [i for i, (m, v) in enumerate(zip(mask[0][block].flatten(), valid[0][block].flatten(), strict=True))
                  if m and v]  # fmt: skip
        for i in inside:
            p = naive_softmax([t / 0.04 for t in target[n, i].tolist()])
            q = naive_softmax([s / 0.1 for s in logits[n, i].tolist()])
            total -= sum(a * math.log(c) for a, c in zip(p, q, strict=True)) / len(inside) / 8
    assert total > 0
    assert method(batch, step).parts["dense"].item() == pytest.approx(total, rel=1e-9)


def test_dense_loss_moves_a_centre_of_its_own_by_the_hidden_cells_alone() -> None:
    method, batch = build(dense=1.0)
    view = batch.views["global"]
    hidden = method._hidden(batch, local_step())
    assert hidden is not None
    _, cells = method.teacher(*flat(batch))
    method(batch, local_step())
    commit_all(method, commit())
    torch.testing.assert_close(method.dense_center.value, 0.1 * cells[method._counted(hidden, view)].mean(0))
    assert not torch.equal(method.dense_center.value, method.center.value)
    assert "dense_center.value" in method.state_dict()
    assert not any(name.startswith(("dense_center", "student.dense_head")) for name in build()[0].state_dict())


# -------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(("norm", "count"), [("none", 0), ("hidden", 2), ("ends", 2), ("everywhere", 4)])
def test_batch_norm_is_in_the_head_as_configured(norm: Any, count: int) -> None:
    method, _ = build(head_norm=norm)
    assert sum(isinstance(module, BatchNorm) for module in method.student.modules()) == count


def test_what_mixes_samples_asks_for_some_of_them() -> None:
    def needs(**config: Any) -> tuple[int, bool]:
        found = DINO3D.needs(DINO3DConfig(**config))
        return found.min_cases, found.batch_coupled

    assert needs(head_norm="none") == (1, False)
    assert needs(head_norm="none", dense=1.0) == (1, False)
    assert needs() == (4, True)
    assert needs(head_norm="none", koleo=0.1) == (8, True)
    assert needs(targets="sinkhorn", koleo=0.1) == (64, True)


def test_paper_recipe_has_the_published_numbers() -> None:
    recipe = DINO3DTrainer.presets["paper"]
    assert recipe.optimizer.peak_lr(256) == pytest.approx(5e-4)
    schedule = Schedule(recipe)
    assert schedule.learning_rate(10 * recipe.steps_per_epoch) == pytest.approx(5e-4)
    assert schedule.learning_rate(recipe.total_steps) == pytest.approx(1e-6)
    assert schedule.weight_decay(0) == pytest.approx(0.04)
    assert schedule.weight_decay(recipe.total_steps) == pytest.approx(0.4)
    assert recipe.optimizer.clip == PerTensor(3.0)
    config = recipe.method
    assert (config.local_views, config.prototypes, config.hidden, config.bottleneck) == (8, 65_536, 2048, 256)
    assert (config.pooling, config.head_norm, config.targets) == ("mean", "none", "center")
    assert (config.koleo, config.dense, config.frozen_epochs) == (0.0, 0.0, 1)
    assert (config.student_temperature, config.teacher_temperature) == (0.1, (0.04, 0.04))
    assert (config.teacher_momentum, config.teacher_memory, config.center_momentum) == (0.996, 0.0, 0.9)


def test_features_are_the_teachers_and_of_windowed_values_where_views_are() -> None:
    method, _ = build()
    image = torch.randn(2, 1, 16, 16, 32)
    features = method.features(image)
    torch.testing.assert_close(features.vector, pool(method.teacher.network.encoder(image)[-1], "mean_std"))
    networks = small_networks(anisotropic=True, patch_size=(48, 96, 96), case_shape=(90, 200, 200))
    paper = DINO3D(DINO3DConfig(**(SMALL | {"published_views": True})), networks)
    raw = torch.randn(1, 1, 12, 24, 24) * 2000
    inside = raw.clamp(-1000, 1000)
    torch.testing.assert_close(paper.features(raw).vector, paper.features(inside).vector)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"student_temperature": 0.0}, "above 0"),
        ({"rotation_deg": 400.0}, "in degrees"),
        ({"dense_ratio": (0.8, 0.2)}, "low <= high"),
        ({"prototypes": 1}, "at least 2"),
        ({"dense_views": 50.0}, "chances"),
        ({"augmentation_probability": -0.5}, "chances"),
        ({"flip": (50.0, 0.0, 0.0)}, "chances"),
    ],
)
def test_wrong_numbers_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        DINO3DConfig(**config)
