"""Alice: the published losses, attention that cannot leak what is hidden, networks that reach nnU-Net, refusals."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnssl_alice.casa import Aligned, FeatureHeads, LogitAttention, Tokens
from nnssl_alice.config import AliceConfig
from nnssl_alice.method import Alice
from nnssl_alice.tokens import merged, query_stage, tokens
from nnssl_alice.trainer import AliceTrainer
from nnssl_alice.views import KEY, OWN, PARTNER, QUERY
from torch import Tensor, nn

from nnssl.blocks.deferred import commit_all
from nnssl.blocks.heads import DINOHead
from nnssl.blocks.pooling import pool
from nnssl.data.sampler import draw_sample
from nnssl.encoders.pyramid import PlanUNet
from nnssl.engine.optim import Schedule
from nnssl.engine.recipe import resolve
from nnssl.errors import PlanError, RecipeError
from nnssl.method import Batch, Losses
from nnssl.needs import BodyMask, Match, MatchedPoints
from nnssl.nnunet import build_network
from nnssl.testing import check_method
from nnssl.testing_world import commit, local_step, noise_batch, small_networks
from nnssl.views.intensity import Window
from nnssl.views.spec import Intensity
from tests.volumes import collect, ramp, write_case

SMALL = AliceConfig(prototypes=16, hidden=12, bottleneck=8, casa_width=8, most_queries=16, most_memory=32)
PLAIN = replace(SMALL, head_norm="none", body_only=False)
CODE = replace(PLAIN, casa="code", casa_target="decoder", casa_ema=False, pooling="mean")
FORMS = {"paper": PLAIN, "code": CODE, "sparse": replace(PLAIN, sparse=True, mask="blocks")}
PLANS = [
    {"residual": residual, "anisotropic": flat, "channels": channels, "modality": modality}
    for residual, flat, channels, modality in itertools.product((False, True), (False, True), (1, 2), ("ct", "t1"))
]


def world(**plan: Any) -> Any:
    return small_networks(**{"features": (4, 6, 8), "patch_size": (8, 16, 16), **plan})


def build(config: AliceConfig = PLAIN, *, networks: Any = None, **batch: Any) -> tuple[Alice, Batch]:
    networks = networks or world()
    spec = Alice.views(config, networks.plan, networks.data)
    return Alice(config, networks).train(), noise_batch(spec, networks, needs=Alice.needs(config), **batch)


def exact(config: AliceConfig = PLAIN, **kwargs: Any) -> tuple[Alice, Batch]:
    method, batch = build(config, dtype=torch.float64, **kwargs)
    return method.double(), batch


def loss_of(method: Alice, batch: Batch, dtype: torch.dtype = torch.float64, index: int = 0) -> Losses:
    return method(batch, local_step(index=index, dtype=dtype))


def aligned(method: Alice, batch: Batch) -> tuple[Aligned, Aligned]:
    crops = method._crops(batch)
    maps, decoded = method._seen(crops)
    target = method._target(crops.image)
    known = target[0] if method.config.casa_target == "encoder" else target[1]
    return method._aligned(crops, (maps, decoded, known), batch.keys, local_step(dtype=crops.image.dtype))


def with_image(batch: Batch, name: str, image: Tensor) -> Batch:
    return replace(batch, views={**batch.views, name: replace(batch.views[name], image=image)})


def stir(method: nn.Module) -> None:
    """Make teacher and student, and both centres, differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.05 * noise.to(parameter.dtype))
        for name, buffer in method.named_buffers():
            if name.endswith("center.value"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=torch.float64) * 0.02)


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize(
    ("config", "plan"),
    [(SMALL, PLANS[0]), (replace(CODE, casa_dropout=0.1), PLANS[7]), (FORMS["sparse"], PLANS[13])],
    ids=["default", "code", "sparse"],
)
def test_alice_keeps_the_contract(config: AliceConfig, plan: dict[str, Any]) -> None:
    check_method(Alice, config, networks=lambda: world(**plan))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "-".join(str(value) for value in plan.values()))
def test_it_runs_on_every_plan_and_both_halves_reach_nnunet(plan: dict[str, Any]) -> None:
    networks = world(**plan)
    method, batch = build(SMALL, networks=networks)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    before = {name: value.clone() for name, value in method.student.unet.state_dict().items()}
    for _ in range(2):  # residual blocks begin with a gain of 0; decay would move weights without a gradient
        optimizer.zero_grad()
        loss_of(method, batch, torch.float32).total.backward()
        optimizer.step()
    after = method.student.unet.state_dict()
    weights = [name for name in before if name.endswith("weight")]
    assert weights and [name for name in weights if torch.equal(before[name], after[name])] == []

    exported, image = method.export_network(), batch.views[QUERY].image[:, 0]
    for unet in (exported.decoder, exported.variants["teacher"][1]):
        assert unet is not None and not any("seg_layers" in name for name in unet.state_dict())
        theirs = build_network(networks.architecture, channels=networks.plan.channels, classes=3)
        assert not theirs.load_state_dict(unet.state_dict(), strict=False).unexpected_keys
        with torch.no_grad():
            for ours, found in zip(unet(image), PlanUNet(theirs)(image), strict=True):
                assert torch.equal(ours, found)
    assert exported.encoder is method.student.unet.encoder
    assert exported.variants["teacher"][0] is method.teacher.network.unet.encoder


def test_one_command_makes_body_masks_and_the_table() -> None:
    needs = Alice.needs(AliceConfig())
    assert needs.sidecars == (BodyMask,) and needs.tables == (MatchedPoints,) and needs.values == "plan"
    for preset in ("paper", "code"):
        published = Alice.needs(AliceTrainer.presets[preset].method)
        assert published.values == "raw" and published.tables == (MatchedPoints,) and not published.batch_coupled


# ------------------------------------------------------------------------------------------------ the losses


def naive_head(head: Any, x: Tensor, last: Tensor | None = None) -> Tensor:
    """Logits of one vector."""
    for layer in head.mlp:
        if isinstance(layer, nn.Linear):
            x = torch.stack([(row * x).sum() for row in layer.weight]) + layer.bias
        else:
            x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    x = x / (x**2).sum().sqrt()
    rows = head.last_layer.weight if last is None else last
    return torch.stack([(row / (row**2).sum().sqrt() * x).sum() for row in rows])


def naive_tokens(feature_map: Tensor, factor: tuple[int, int, int]) -> list[Tensor]:
    d, h, w = (side // step for side, step in zip(feature_map.shape[1:], factor, strict=True))
    out = []
    for i, j, k in itertools.product(range(d), range(h), range(w)):
        a, b, c = factor
        block = feature_map[:, i * a : (i + 1) * a, j * b : (j + 1) * b, k * c : (k + 1) * c]
        out.append(block.flatten(1).mean(1))
    return out


def naive_ce(p_logits: Tensor, center: Tensor, tau_t: float, q_logits: Tensor, tau_s: float) -> float:
    p = [math.exp((float(t) - float(c)) / tau_t) for t, c in zip(p_logits, center, strict=True)]
    q = [float(s) / tau_s for s in q_logits]
    normaliser = math.log(sum(math.exp(value) for value in q))
    return -sum(weight / sum(p) * (value - normaliser) for weight, value in zip(p, q, strict=True))


def naive_attention(heads: Any, projections: Any, queries: list[Tensor], known: list[Tensor]) -> list[Tensor]:
    """zeta(softmax((W_q V)(W_k Y)^T / sqrt d) W_v Y), query by query; `heads` holds W_q."""
    first, _, second = projections.projector
    memory = []
    for token in known:
        hidden = first.weight @ token + first.bias
        memory.append(second.weight @ (0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))) + second.bias)
    out = []
    for token in queries:
        asked = heads.query.weight @ token
        scores = [float(asked @ (projections.key.weight @ m)) / math.sqrt(len(asked)) for m in memory]
        total = sum(math.exp(score) for score in scores)
        told = sum(math.exp(s) / total * (projections.value.weight @ m) for s, m in zip(scores, memory, strict=True))
        assert isinstance(told, Tensor)
        out.append(naive_head(projections.aligned_head, told))
    return out


def test_the_losses_are_those_of_naive_loops() -> None:
    method, batch = exact(keys=(0, 1), networks=world(anisotropic=True, channels=2))
    stir(method)
    found = loss_of(method, batch, index=20)
    tau_t = method.teacher_temperature(2)
    stage, student, teacher = method.query_stage, method.student, method.teacher.network
    whole, patch, rebuilt = [], [], []
    with torch.no_grad():
        logits: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name in (QUERY, KEY):
            view = batch.views[name]
            assert view.mask is not None
            for sample in range(2):
                image = view.image[sample]
                maps = student.unet.encoder(image * ~view.mask[sample])
                decoded = student.unet.decoder(maps)
                target = teacher.unet.encoder(image)
                deepest = [m[-1][0].flatten(1) for m in (maps, target)]
                vectors = [torch.cat([x.mean(1), (x.var(1, correction=0) + 1e-6).sqrt()]) for x in deepest]
                heads = (student.heads.pooled_head, teacher.heads.pooled_head)
                s, t = (naive_head(head, x) for head, x in zip(heads, vectors, strict=True))
                logits.setdefault(name, []).append((s, t))
                queries = naive_tokens(maps[stage][0], method.query_merge)
                own = naive_tokens(decoded[stage - 1][0], method.memory_merge)
                theirs = naive_tokens(target[stage - 1][0], method.memory_merge)
                said = naive_attention(student.heads, student.heads, queries, own)
                told = naive_attention(student.heads, teacher.heads, queries, theirs)
                center = method.token_center.value
                each = [naive_ce(t, center, tau_t, s, 0.1) for s, t in zip(said, told, strict=True)]
                patch.append(sum(each) / len(each))
                rebuilt.append(float(((method.to_voxels(decoded[0])[0] - image[0]) ** 2).mean()))
        for sample in range(2):
            for one, other in ((QUERY, KEY), (KEY, QUERY)):
                t, s = logits[one][sample][1], logits[other][sample][0]
                whole.append(naive_ce(t, method.center.value, tau_t, s, 0.1))
    expected = [sum(values) / 4 for values in (whole, patch, rebuilt)]
    assert found.parts["cls"].item() == pytest.approx(expected[0], rel=1e-9)
    assert found.parts["patch"].item() == pytest.approx(expected[1], rel=1e-9)
    assert found.parts["reconstruction"].item() == pytest.approx(expected[2] / 2, rel=1e-9)
    assert found.total.item() == pytest.approx(expected[0] + expected[1] + 5 * expected[2], rel=1e-9)


def test_the_codes_attention_is_that_of_naive_loops() -> None:
    torch.manual_seed(0)
    layer = LogitAttention(6).double()
    queries, memory = torch.randn(1, 3, 6, dtype=torch.float64), torch.randn(1, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        found = layer(queries, memory, torch.ones(1, 5, dtype=torch.bool), lambda name, x: x)
        for position in range(3):
            q, told = layer.query.weight @ queries[0, position], []
            for head in range(8):
                part = slice(head * 64, head * 64 + 64)
                keys = [(layer.key.weight @ m)[part] for m in memory[0]]
                weights = [math.exp(float(q[part] @ k) / 8) for k in keys]
                values = [(layer.value.weight @ m)[part] for m in memory[0]]
                told.append(sum(w / sum(weights) * v for w, v in zip(weights, values, strict=True)))
            x = layer.out.weight @ torch.cat(told) + queries[0, position]  # type: ignore[arg-type]
            x = (x - x.mean()) / (x.var(correction=0) + 1e-6).sqrt()
            y = x + layer.feed[2].weight @ (layer.feed[0].weight @ x + layer.feed[0].bias).clamp(min=0)
            y = y + layer.feed[2].bias
            y = (y - y.mean()) / (y.var(correction=0) + 1e-6).sqrt()
            torch.testing.assert_close(found.logits[0, position], y, rtol=1e-9, atol=1e-9)


def test_a_constant_prediction_has_the_known_loss() -> None:
    for reconstruction in ("all", "hidden"):
        method, batch = exact(replace(PLAIN, reconstruction=reconstruction), invalid_slices=2)
        with torch.no_grad():
            method.to_voxels.weight.zero_()
            method.to_voxels.bias.fill_(0.25)
        expected = 0.0
        for name, sample in itertools.product((QUERY, KEY), range(4)):
            view = batch.views[name]
            assert view.mask is not None
            counted = view.valid[sample, 0]
            if reconstruction == "hidden":
                counted = counted & view.mask[sample, 0]
            expected += ((view.image[sample, 0][counted] - 0.25) ** 2).mean().item() / 8
        losses = loss_of(method, batch)
        assert losses.parts["reconstruction"].item() == pytest.approx(0.5 * expected, rel=1e-9)
        rest = losses.parts["cls"] + losses.parts["patch"]
        assert losses.total.item() == pytest.approx(float(rest) + 5 * expected, rel=1e-9)


def test_the_loss_across_volumes_is_symmetric_and_the_one_within_is_of_one_volume() -> None:
    method, batch = exact()
    stir(method)
    views, sources = batch.views, batch.sources
    swapped = replace(
        batch,
        views={QUERY: views[KEY], KEY: views[QUERY]},
        sources={"case": sources["partner"], "partner": sources["case"]},
    )
    a, b = (loss_of(method, one).parts for one in (batch, swapped))
    for name in ("cls", "patch", "reconstruction"):
        assert a[name].item() == pytest.approx(b[name].item(), rel=1e-12)
    other = with_image(batch, KEY, views[KEY].image.flip(0))
    for one, two in zip(aligned(method, batch), aligned(method, other), strict=True):
        assert torch.equal(one.logits[:4], two.logits[:4])
        assert not torch.equal(one.logits[4:], two.logits[4:])
    same = with_image(batch, KEY, views[QUERY].image)
    assert loss_of(method, same).parts["cls"].item() != pytest.approx(a["cls"].item(), rel=1e-6)


def test_unrelated_crops_start_where_the_closed_form_says() -> None:
    """ln K + (variance of a logit) / (2 tau_s^2) for answers that have nothing to do with the target."""
    torch.manual_seed(0)
    method, _ = build(replace(PLAIN, prototypes=512, bottleneck=256, hidden=64))
    vectors = torch.randn(400, 16)
    head = method.student.heads.pooled_head
    with torch.no_grad():
        q = method._answers(head(vectors))
        p = method._probabilities(head(torch.randn(400, 16)).flip(0), method.center, local_step())
        loss = -(p * q).sum(-1).mean().item()
        spread = head(vectors).var(1).mean().item()
    assert loss == pytest.approx(math.log(512) + spread / (2 * 0.1**2), abs=0.25)


# ------------------------------------------------------------------------------------------------ CASA


@pytest.mark.parametrize("form", ["paper", "code"])
def test_attention_does_not_care_for_the_order_of_memory_and_keeps_that_of_queries(form: str) -> None:
    method, batch = exact(FORMS[form], keys=(0, 1))
    heads = method.student.heads
    torch.manual_seed(0)
    width = {"paper": 8, "code": 16}[form]
    queries, memory = (torch.randn(2, n, width, dtype=torch.float64) for n in (5, 9))
    counted, all_ask = torch.rand(2, 9) < 0.7, torch.ones(2, 5, dtype=torch.bool)
    drop = method._drop("student", batch.keys, local_step())
    order, turned = torch.randperm(9), torch.randperm(5)
    plain = heads.attend(Tokens(queries, all_ask), Tokens(memory, counted), drop)
    turned_memory = Tokens(memory[:, order], counted[:, order])
    shuffled = heads.attend(Tokens(queries[:, turned], all_ask), turned_memory, drop)
    torch.testing.assert_close(plain.logits[:, turned], shuffled.logits, rtol=1e-9, atol=1e-12)
    assert not plain.weights.transpose(1, 3)[~counted].any()  # what does not count is not looked at
    torch.testing.assert_close(plain.weights.sum(-1), torch.ones_like(plain.weights[..., 0]))
    assert plain.logits.shape == (2, 5, 16)


def normed_heads(*, normed: bool = True) -> FeatureHeads:
    """Heads of tokens of 4 and 6 channels; other than at the start, gains and shifts included."""
    torch.manual_seed(0)
    pooled = DINOHead(8, 5, hidden=7, bottleneck=3)
    aligned_head = DINOHead(8, 5, hidden=7, bottleneck=3, norm="everywhere" if normed else "none")
    heads = FeatureHeads(
        pooled=pooled, aligned=aligned_head, query_width=4, memory_width=6, width=8, heads=1, normed=normed
    ).double()
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    return heads


def said(heads: FeatureHeads, asking: Tokens, known: Tokens) -> Aligned:
    return heads.attend(heads.queries(asking), heads.memory(known), lambda name, x: x)


def naive_standard(rows: list[Tensor], counted: list[bool]) -> list[Tensor]:
    """Every channel minus its mean over the counted rows, over their deviation."""
    taken = [row for row, counts in zip(rows, counted, strict=True) if counts]
    mean = [sum(float(row[c]) for row in taken) / len(taken) for c in range(len(rows[0]))]
    var = [sum((float(row[c]) - mean[c]) ** 2 for row in taken) / len(taken) for c in range(len(rows[0]))]
    values = [[(float(row[c]) - mean[c]) / math.sqrt(var[c] + 1e-5) for c in range(len(row))] for row in rows]
    return [torch.tensor(row, dtype=torch.float64) for row in values]


def naive_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def test_standardised_tokens_are_compared_as_naive_loops_say() -> None:
    heads = normed_heads()
    asking = Tokens(torch.randn(2, 3, 4, dtype=torch.float64), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool())
    known = Tokens(torch.randn(2, 5, 6, dtype=torch.float64), torch.tensor([[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]]).bool())
    found = said(heads, asking, known)
    ask, there = asking.counted.flatten().tolist(), known.counted.flatten().tolist()
    with torch.no_grad():
        first, _, second = heads.projector
        queries = naive_standard([heads.query.weight @ v for v in asking.vectors.flatten(0, 1)], ask)
        standard = naive_standard(list(known.vectors.flatten(0, 1)), there)
        memory = [second.weight @ naive_gelu(first.weight @ v + first.bias) + second.bias for v in standard]
        keys = naive_standard([heads.key.weight @ m for m in memory], there)
        rows = []
        for query in range(6):
            crop = range(5 * (query // 3), 5 * (query // 3) + 5)
            looked = {m: math.exp(float(queries[query] @ keys[m]) / math.sqrt(8)) for m in crop if there[m]}
            told = [weight / sum(looked.values()) * (heads.value.weight @ memory[m]) for m, weight in looked.items()]
            rows.append(torch.stack(told).sum(0))
        for layer in heads.aligned_head.mlp:
            if isinstance(layer, nn.Linear):
                rows = [layer.weight @ row + layer.bias for row in rows]
            elif isinstance(layer, nn.GELU):
                rows = [naive_gelu(row) for row in rows]
            else:
                rows = naive_standard(rows, ask)
                if layer.weight is not None:
                    rows = [row * layer.weight + layer.bias for row in rows]
        directions = [row / row.norm() for row in heads.aligned_head.last_layer.weight]
        expected = torch.stack([torch.stack([d @ (row / row.norm()) for d in directions]) for row in rows])
    torch.testing.assert_close(found.logits.flatten(0, 1), expected, rtol=1e-9, atol=1e-12)


def test_cells_that_are_nearly_alike_look_at_different_places_only_where_tokens_are_standardised() -> None:
    asking = Tokens(1 + 0.01 * torch.randn(2, 8, 4, dtype=torch.float64), torch.ones(2, 8, dtype=torch.bool))
    known = Tokens(1 + 0.01 * torch.randn(2, 64, 6, dtype=torch.float64), torch.ones(2, 64, dtype=torch.bool))
    entropies = [
        float(said(normed_heads(normed=normed), asking, known).attention_entropy()) for normed in (True, False)
    ]
    assert entropies[0] < 0.95 and entropies[1] > 0.999


@pytest.mark.parametrize("form", list(FORMS))
def test_only_the_students_side_has_a_gradient(form: str) -> None:
    method, batch = exact(FORMS[form])
    own, target = aligned(method, batch)
    assert own.logits.shape == target.logits.shape == (8, *own.logits.shape[1:])
    assert own.logits.requires_grad and not target.logits.requires_grad
    own.logits.sum().backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    heads: Any = method.student.heads
    layer = heads.layer if form == "code" else heads
    assert layer.query.weight.grad is not None and layer.query.weight.grad.any()


def test_with_equal_memory_and_weights_both_sides_say_the_same() -> None:
    method, batch = exact()
    crops = method._crops(batch)
    maps, decoded = method._seen(crops)
    own, target = method._aligned(crops, (maps, decoded, decoded), batch.keys, local_step(dtype=torch.float64))
    torch.testing.assert_close(
        own.logits, target.logits, rtol=1e-12, atol=1e-12
    )  # teacher and student are equal before the first step


def test_the_targets_layers_are_averages_in_the_paper_and_the_students_own_in_the_code() -> None:
    for config in (PLAIN, CODE):
        for ema in (True, False):
            method, batch = exact(replace(config, casa_ema=ema))
            before = aligned(method, batch)[1].logits
            heads: Any = method.student.heads
            with torch.no_grad():
                (heads.layer.out if config.casa == "code" else heads.value).weight.mul_(-1)
            assert torch.equal(before, aligned(method, batch)[1].logits) == ema


def test_dropout_is_keyed_by_the_sample() -> None:
    method, batch = exact(replace(CODE, casa_dropout=0.3))
    torch.manual_seed(1)
    one = aligned(method, batch)[0].logits
    torch.manual_seed(2)
    assert torch.equal(one, aligned(method, batch)[0].logits)
    assert not torch.equal(one, aligned(method.eval(), batch)[0].logits)
    drop = method.train()._drop("student", batch.keys, local_step(dtype=torch.float64))
    kept = drop("x", torch.ones(8, 4000, dtype=torch.float64))
    assert (kept == 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert kept.mean().item() == pytest.approx(1.0, abs=0.03)


# ------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("form", list(FORMS))
def test_what_is_hidden_never_reaches_the_student_and_always_the_teacher(form: str) -> None:
    method, batch = exact(FORMS[form])
    mask = batch.views[QUERY].mask
    assert mask is not None
    image = batch.views[QUERY].image
    changed = with_image(batch, QUERY, torch.where(mask, image + torch.randn_like(image), image))
    seen = [method._seen(method._crops(one)) for one in (batch, changed)]
    for a, b in zip(itertools.chain(*seen[0]), itertools.chain(*seen[1]), strict=True):
        assert torch.equal(a, b)
    (own, target), (own_again, target_again) = (aligned(method, one) for one in (batch, changed))
    assert torch.equal(own.logits, own_again.logits)
    assert not torch.equal(target.logits[:4], target_again.logits[:4])


def test_twelve_of_sixteen_tubes_through_the_whole_depth_are_hidden() -> None:
    networks = world(features=(4,) * 5, patch_size=(64, 64, 64), case_shape=(80, 80, 80))
    config = AliceTrainer.presets["code"].method
    spec = Alice.views(config, networks.plan, networks.data)
    assert [(group.size, group.mask.block) for group in spec.groups if group.mask] == [((64,) * 3, (64, 16, 16))] * 2
    batch = noise_batch(spec, networks, keys=(0, 1, 2))
    masks = []
    for name in (QUERY, KEY):
        mask = batch.views[name].mask
        assert mask is not None
        assert torch.equal(mask, mask[..., :1, :, :].expand_as(mask))
        columns = mask[:, 0, 0, 0, ::16, ::16]
        assert torch.equal(columns.repeat_interleave(16, 1).repeat_interleave(16, 2), mask[:, 0, 0, 0])
        assert columns.flatten(1).sum(1).tolist() == [12, 12, 12]
        masks.append(columns)
    assert not torch.equal(masks[0], masks[1])


def test_the_hidden_share_is_rounded_up_and_sparse_blocks_cover_whole_cells() -> None:
    networks = world(patch_size=(8, 24, 24), case_shape=(9, 30, 30))
    group = Alice.views(replace(PLAIN, ratio=0.7), networks.plan, networks.data).groups[0]
    assert group.mask is not None and group.mask.block == (8, 4, 4)
    assert group.mask.ratio == (26 / 36,) * 2  # ceil(0.7 * 36)
    sparse = Alice.views(FORMS["sparse"], networks.plan, networks.data).groups[0]
    assert sparse.mask is not None and sparse.mask.block == networks.plan.total_stride


def test_padding_counts_nowhere() -> None:
    method, batch = exact(invalid_slices=4)
    crops = method._crops(batch)
    asking, known = method._asking(crops), method._inside(crops.valid, method.query_stage - 1, method.memory_merge)
    assert asking.any() and not asking.all() and known.any() and not known.all()
    own, target = aligned(method, batch)
    for one in (own, target):
        assert not one.weights.transpose(1, 3)[~known].any()
    method, batch = exact(replace(PLAIN, body_only=True))
    lattice = {"mask": torch.zeros(2, 2, 2, dtype=torch.bool), "stride": torch.full((3,), 100)}
    air = {name: replace(s, sidecars={"body": [lattice] * 4}) for name, s in batch.sources.items()}
    nothing = loss_of(method, replace(batch, sources=air))
    assert nothing.parts["patch"] == 0 and nothing.total.isfinite()


# ------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("jitter_mm", [0.0, 8.0])
def test_crops_lie_on_the_matched_points_of_two_cases_and_move_by_one_vector(tmp_path: Path, jitter_mm: float) -> None:
    cases = [write_case(tmp_path, name, ramp((20, 20, 20)), spacing_mm=(2.0, 1.0, 1.0)) for name in ("a", "b")]
    places = np.array([[30.0, 21.0, 40.0], [40.0, 38.0, 33.0]])  # mm; near the borders of cases of 40 x 20 x 20 mm
    a, b = ((x, y, z) for x, y, z in places.tolist())
    row = Match(case_a="a", point_a_mm=a, case_b="b", point_b_mm=b, score=1.0)
    data = replace(collect(*cases), matches={("Dataset001_Test", "a"): (row,)})
    spec = Alice.views(replace(PLAIN, jitter_mm=jitter_mm), (networks := world()).plan, networks.data)
    shifts = []
    for key in range(12):
        drawn = draw_sample(data, spec, cases[0], key, 0)
        assert [drawn.sources[name].entry.case_id for name in (OWN, PARTNER)] == ["a", "b"]
        moved = np.stack([drawn.sources[name].anchor_mm for name in (OWN, PARTNER)]) - places
        np.testing.assert_allclose(moved[0], moved[1], atol=1e-9)
        shifts.append(moved[0])
        for group, source in zip(spec.groups, (OWN, PARTNER), strict=True):
            middle = (np.array(group.size) - 1) / 2
            centre = (drawn.views[group.name][0].to_case @ [*middle, 1.0])[:3] * [2, 1, 1] + [10, 20, 30]
            assert (np.abs(centre - drawn.sources[source].anchor_mm) <= np.array([1.0, 0.5, 0.5]) + 1e-9).all()
    assert np.abs(shifts).max() <= jitter_mm and (np.ptp(shifts, axis=0) > jitter_mm).all() == (jitter_mm > 0)


def test_published_values_are_windowed_by_the_views_and_outside_of_training_by_the_method() -> None:
    networks = world(patch_size=(64, 64, 64), case_shape=(80, 80, 80))
    config = replace(PLAIN, published_views=True)
    for group in Alice.views(config, networks.plan, networks.data).groups:
        assert group.intensity == Intensity(ops=(Window.fixed((-125.0, 225.0)),))
    assert [group.intensity for group in Alice.views(PLAIN, networks.plan, networks.data).groups] == [None, None]
    method = Alice(config, networks).eval()
    image = torch.randn(1, 1, 16, 16, 16) * 400
    with torch.no_grad():
        seen = method.features(image).vector
        expected = pool(method.student.unet((image.clamp(-125, 225) + 125) / 350)[-1], config.pooling)
    torch.testing.assert_close(seen, expected)
    assert method.export_network().raw_window == (-125.0, 225.0)


def test_tokens_of_gaps_are_what_a_sparse_decoder_sees_of_hidden_places_and_have_no_decay() -> None:
    method, batch = exact(FORMS["sparse"])
    groups = method.parameter_groups()
    for group, there in zip(groups, (False, True), strict=True):
        assert all(any(p is gap for p in group["params"]) == there for gap in method.gaps)  # type: ignore[attr-defined]
    assert groups[1]["weight_decay_factor"] == 0.0
    crops = method._crops(batch)
    maps, decoded = method._seen(crops)
    with torch.no_grad():
        for gap in method.gaps:
            gap.add_(1.0)
    again, changed = method._seen(crops)
    assert all(torch.equal(x, y) for x, y in zip(maps, again, strict=True))
    assert not torch.equal(decoded[0], changed[0])


def test_what_is_logged_of_the_attention_is_its_entropy_and_its_share() -> None:
    for weights, entropy in ((torch.full((1, 2, 3, 5), 0.2), 1.0), (torch.eye(5)[None, None, :3], 0.0)):
        assert Aligned(torch.zeros(1, 3, 4), weights, None).attention_entropy().item() == pytest.approx(entropy)
    layer, x = LogitAttention(6), torch.randn(1, 3, 6)
    told = []
    for factor in (1.0, 2.0):
        layer.out.weight.data *= factor
        told.append(layer(x, x, torch.ones(1, 3, dtype=torch.bool), lambda name, values: values).share)
    assert told[1].item() == pytest.approx(2 * told[0].item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------ stages and tokens


def test_stages_are_chosen_by_stride_and_size() -> None:
    deep = [(2**k,) * 3 for k in range(6)]
    assert query_stage(deep, (64, 64, 64)) == 4  # 4 x 4 x 4; the bottleneck has 8 cells
    assert query_stage(deep, (160, 160, 160)) == 4
    assert query_stage(deep, (32, 32, 32)) == 3
    flat = [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16), (4, 32, 32)]
    assert query_stage(flat, (16, 256, 256)) == 5
    assert query_stage(flat, (16, 96, 96)) == 4
    assert query_stage(deep[:2], (4, 4, 4)) == 1
    with pytest.raises(PlanError, match="at least two stages"):
        query_stage(deep[:1], (64, 64, 64))


def test_too_many_cells_are_merged_and_none_is_lost() -> None:
    assert merged((4, 4, 4), 64) == (1, 1, 1)
    assert merged((12, 12, 12), 512) == (2, 2, 1)
    assert merged((7, 3, 1), 1) == (7, 3, 1)
    x = torch.randn(2, 3, 4, 6, 2)
    assert tokens(x, (1, 1, 1)).equal(x.flatten(2).transpose(1, 2))
    found = tokens(x, (2, 3, 1))
    torch.testing.assert_close(found[1, 3], x[1, :, 0:2, 3:6, 1].flatten(1).mean(1))
    torch.testing.assert_close(found.mean(1), x.mean((2, 3, 4)))


# ------------------------------------------------------------------------------------------------ teacher, schedules


def test_the_teacher_follows_everything_of_the_student_and_no_optimizer_touches_it() -> None:
    method, _ = exact(replace(PLAIN, teacher_memory=0.0))
    names = dict(method.teacher.network.named_parameters())
    for part in ("unet.encoder", "heads.key", "heads.value", "heads.projector", "heads.aligned_head", "heads.pooled"):
        assert any(name.startswith(part) for name in names)
    assert isinstance(method.teacher.network.heads, FeatureHeads)
    trained = {id(p) for group in method.parameter_groups() for p in group["params"]}  # type: ignore[attr-defined]
    assert not trained & {id(p) for p in names.values()}
    student = dict(method.student.named_parameters())
    expected = {name: p.clone() for name, p in names.items()}
    for index in range(3):
        stir(method)
        m = 1 - (1 - 0.996) * 0.5 * (1 + math.cos(math.pi * index / 3))
        expected = {name: m * p + (1 - m) * student[name] for name, p in expected.items()}
        commit_all(method, commit(index=index, total=3))
    for name, p in names.items():
        torch.testing.assert_close(p, expected[name], rtol=1e-12, atol=1e-14)


def test_both_centres_follow_the_teachers_raw_logits_and_those_of_tokens_only_where_they_count() -> None:
    method, batch = exact(replace(PLAIN, center_momentum=0.75), invalid_slices=4)
    stir(method)
    heads: Any = method.teacher.network.heads
    crops = method._crops(batch)
    with torch.no_grad():
        vectors = pool(method._target(crops.image)[0][-1], "mean_std", valid=crops.valid)
        whole, told = heads.classify(vectors), aligned(method, batch)[1].logits
    asking = method._asking(crops)
    assert asking.any() and not asking.all()
    expected = {}
    for center, logits in ((method.center, whole), (method.token_center, told[asking])):
        mean = [sum(row[k] for row in logits.tolist()) / len(logits) for k in range(16)]
        expected[center] = [0.75 * c + 0.25 * m for c, m in zip(center.value.tolist(), mean, strict=True)]
    loss_of(method, batch)
    commit_all(method, commit(index=0, total=3))
    for center, values in expected.items():
        assert center.value.tolist() == pytest.approx(values, rel=1e-9, abs=1e-12)


def test_the_teacher_of_a_short_run_remembers_a_sixth_of_it() -> None:
    for memory, m in ((1 / 6, 1 - 6 / 60), (0.0, 0.996)):
        method, _ = build(replace(PLAIN, teacher_memory=memory))
        assert method.teacher.momentum(0, 60) == pytest.approx(m)


def test_prototypes_stay_in_the_first_epoch() -> None:
    for config in (PLAIN, CODE):
        for index, frozen in ((5, True), (10, False)):
            method, batch = exact(config)
            loss_of(method, batch, index=index).total.backward()
            method.edit_gradients(local_step(index=index))
            assert [layer.weight.grad is None for layer in method.student.heads.prototypes()] == [frozen] * 2


@pytest.mark.parametrize("preset", ["default", "paper", "code"])
def test_schedules_are_as_published_and_no_decay_rises(preset: str) -> None:
    recipe = resolve(AliceTrainer, preset)
    method = Alice.__new__(Alice)
    object.__setattr__(method, "config", recipe.method)
    temperatures = [0.05] * 5 if preset == "default" else [0.008, 0.008 + 0.002 * 10 / 29, 0.01, 0.01, 0.01]
    assert [method.teacher_temperature(e) for e in (0, 10, 29, 30, 999)] == pytest.approx(temperatures)
    for batch_size in (recipe.batch_size, 4):
        small = replace(recipe, batch_size=batch_size)
        schedule, total = Schedule(small), small.total_steps
        peak = small.optimizer.peak_lr(batch_size)
        warm = round(small.optimizer.warmup_epochs * small.steps_per_epoch)
        rates = [schedule.learning_rate(step) for step in range(warm, total, 97)]
        assert rates == sorted(rates, reverse=True) and rates[0] == pytest.approx(peak)
        decays = [schedule.weight_decay(step) for step in (0, total // 2, total)]
        assert decays == pytest.approx([0.04, 0.22, 0.4])
    assert recipe.optimizer.min_lr <= recipe.optimizer.peak_lr(recipe.batch_size)
    config = recipe.method
    assert (config.prototypes, config.hidden, config.bottleneck) == (512, 2048, 256)
    assert (config.teacher_momentum, config.center_momentum, config.ratio) == (0.996, 0.9, 0.75)
    published = {"default": ("paper", "encoder", True), "paper": ("paper", "encoder", True)}
    assert (config.casa, config.casa_target, config.casa_ema) == published.get(preset, ("code", "decoder", False))
    assert recipe.to_json()["method"]["casa"] == config.casa  # what a run's recipe.json records


# ------------------------------------------------------------------------------------------------ refusals


def test_wrong_numbers_are_refused() -> None:
    for wrong, sentence in (
        ({"prototypes": 1}, "at least 2"),
        ({"casa_heads": 3, "casa_width": 8}, "multiple of casa_heads"),
        ({"ratio": 1.0}, r"method.ratio must lie in \(0, 1\)"),
        ({"teacher_temperature": (0.0, 0.1)}, "above 0"),
        ({"jitter_mm": -1.0}, "must not be negative"),
        ({"casa": "code"}, "method.head_norm=none"),
        ({"casa_dropout": 0.1}, "belongs to method.casa=code"),
    ):
        with pytest.raises(RecipeError, match=sentence):
            AliceConfig(**wrong)


def test_published_views_are_refused_with_the_reason() -> None:
    config = AliceTrainer.presets["paper"].method
    for plan, sentence in (
        ({"modality": "t1"}, "CT in Hounsfield units; the channels are"),
        (
            {"features": (4,) * 8, "patch_size": (128,) * 3, "case_shape": (200,) * 3},
            "divisible by the encoder's total",
        ),
    ):
        networks = world(**plan)
        with pytest.raises(PlanError, match=sentence):
            Alice.views(config, networks.plan, networks.data)
    single = world(patch_size=(32, 8, 8), case_shape=(32, 8, 8))
    object.__setattr__(single.plan, "strides", ((1, 1, 1), (2, 8, 8), (4, 8, 8)))
    with pytest.raises(PlanError, match="1 block of"):
        Alice.views(PLAIN, single.plan, single.data)
