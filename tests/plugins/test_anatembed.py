"""AnatEmbed: which cells are positives and negatives, the loss against a naive loop, what gets a gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from nnssl_anatembed.cells import cells_of, nearest_cells
from nnssl_anatembed.contrast import hard_and_diverse, info_nce, upsampled
from nnssl_anatembed.heads import choose_stages
from nnssl_anatembed.method import AnatEmbed, AnatEmbedConfig
from nnssl_anatembed.trainer import AnatEmbedTrainer

from nnssl.errors import PlanError, RecipeError
from nnssl.method import Batch
from nnssl.testing import check_method
from nnssl.testing_world import local_step, noise_batch, small_networks
from nnssl.views.affine import view_to_case
from nnssl.views.spec import Geometry

SMALL = AnatEmbedConfig(width=8, positives=20, hard=200, diverse=50, coarse_hard=12, coarse_diverse=8, strangers=20)
ALL = replace(
    SMALL, positives=10_000, hard=10_000, diverse=10_000, coarse_hard=1000, coarse_diverse=1000, strangers=1000
)
DOUBLE = torch.float64


def turned(batch: Batch, seed: int = 0) -> Batch:
    """The batch with views that are zoomed and rotated, of cases that lie at an angle."""
    rng = np.random.default_rng(seed)
    view = batch.views["pair"]
    matrices = [
        view_to_case(
            origin=rng.uniform(0, 4, 3),
            scale=np.full(3, rng.uniform(0.8, 1.2)),
            rotation_deg=rng.uniform(-10, 10, 3),
            spacing_mm=np.array([2.0, 1.0, 1.0]),
            flip=(False, False, False),
            rot90=0,
            size=view.image.shape[3:],
        )
        for _ in range(2 * len(view.image))
    ]
    to_source = torch.from_numpy(np.stack(matrices)).unflatten(0, (-1, 2))
    source = batch.sources["case"]
    frame = torch.linalg.qr(torch.from_numpy(rng.normal(size=(3, 3)))).Q @ torch.diag(
        torch.tensor([2.0, 1.0, 1.0], dtype=DOUBLE)
    )
    to_world = source.to_world.clone()
    to_world[:, :3, :3], to_world[:, :3, 3] = frame, 300.0
    return replace(
        batch,
        views={"pair": replace(view, to_source=to_source)},
        sources={"case": replace(source, to_world=to_world)},
    )


def build(
    config: AnatEmbedConfig = SMALL,
    *,
    dtype: torch.dtype = torch.float32,
    keys: tuple[int, ...] = (0, 1, 2),
    **plan: Any,
) -> tuple[AnatEmbed, Batch]:
    networks = small_networks(**plan)
    method = AnatEmbed(config, networks).to(dtype)
    spec = AnatEmbed.views(config, networks.plan, networks.data)
    batch = noise_batch(spec, networks, needs=AnatEmbed.needs(config), keys=keys, dtype=dtype, invalid_slices=2)
    return method, turned(batch)


@pytest.mark.parametrize("plan", [{}, {"residual": True, "anisotropic": True, "channels": 2, "modality": "t1"}])
def test_anatembed_keeps_the_contract(plan: dict[str, Any]) -> None:
    check_method(AnatEmbed, SMALL, networks=lambda: small_networks(**plan))


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["ct", "t1"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_anatembed_runs_on_every_kind_of_plan(residual: bool, anisotropic: bool, channels: int, modality: str) -> None:
    plan: dict[str, Any] = {
        "residual": residual,
        "anisotropic": anisotropic,
        "channels": channels,
        "modality": modality,
    }
    check_method(AnatEmbed, SMALL, networks=lambda: small_networks(**plan))


# ---------------------------------------------------------------------------------------------------- the equations


def centres(matrix: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> list[list[float]]:
    found = []
    for cell in np.ndindex(*size):
        voxel = [k * s + (s - 1) / 2 for k, s in zip(cell, stride, strict=True)]
        found.append((matrix @ torch.tensor([*voxel, 1.0], dtype=DOUBLE))[:3].tolist())
    return found


def naive_level(method: AnatEmbed, batch: Batch, k: int, maps: torch.Tensor) -> float:
    """The loss of one level, all positives and all negatives, cell by cell."""
    view, source, config = batch.views["pair"], batch.sources["case"], method.config
    stride, unit, size = method.strides[k], method.unit[k], tuple(maps.shape[3:])
    d_pos = (config.positive_mm, config.coarse_positive_mm)[k] * unit
    d_ign = (config.ignore_mm, config.coarse_ignore_mm)[k] * unit
    samples, count = len(view.image), math.prod(size)
    whole = 1 - torch.nn.functional.max_pool3d((~view.valid[:, :, 0]).double(), stride)
    usable = whole.flatten(1).tolist()  # both views of a sample, one after the other
    vectors = maps.flatten(3).transpose(2, 3).flatten(0, 2)
    growth = ((vectors @ vectors.T) / config.temperature).exp().tolist()  # e^(s / tau) of any two cells of the batch
    total = 0.0
    for i in range(samples):
        place = [x for v in range(2) for x in centres(source.to_world[i] @ view.to_source[i, v], size, stride)]
        voxel = [x for v in range(2) for x in centres(view.to_source[i, v], size, stride)]
        across = (source.to_world[i, :3, 0] / source.to_world[i, :3, 0].norm()).tolist()
        losses = []
        for n, x in enumerate(place):
            others = range(count, 2 * count) if n < count else range(count)
            key = min(others, key=lambda m, x=x: math.dist(x, place[m]))
            height = abs(sum((a - b) * c for a, b, c in zip(x, place[key], across, strict=True)))
            if math.dist(x, place[key]) >= d_pos or not usable[i][n] or not usable[i][key]:
                continue
            if k == 1 and height >= config.coarse_height_mm * method.height_unit:
                continue
            if not is_body(source.sidecars["body"][i], voxel[n]) or not within(batch, i, n, size, stride):
                continue
            row, start = growth[i * 2 * count + n], i * 2 * count
            above = sum(row[start + m] for m, y in enumerate(place) if usable[i][m] and math.dist(x, y) > d_ign)
            if k == 1:
                for j in (j for j in range(samples) if j != i):
                    above += sum(row[j * 2 * count + m] for m in range(2 * count) if usable[j][m])
            losses.append(-math.log(row[start + key] / (row[start + key] + above)))
        total += sum(losses) / max(1, len(losses)) / samples
    return total


def is_body(lattice: Any, voxel: list[float]) -> bool:
    point = [
        round((x - f) / s) for x, f, s in zip(voxel, lattice["first"].tolist(), lattice["stride"].tolist(), strict=True)
    ]
    return bool(
        lattice["mask"][tuple(min(max(p, 0), n - 1) for p, n in zip(point, lattice["mask"].shape, strict=True))]
    )


def within(batch: Batch, sample: int, cell: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the centre of a sample's cell lies in the other view's lattice of cells."""
    view, count = batch.views["pair"], math.prod(size)
    own, place = divmod(cell, count)
    voxel = [c * s + (s - 1) / 2 for c, s in zip(np.unravel_index(place, size), stride, strict=True)]
    to_other = torch.linalg.inv(view.to_source[sample, 1 - own]) @ view.to_source[sample, own]
    there = (to_other @ torch.tensor([*voxel, 1.0], dtype=DOUBLE)).tolist()[:3]
    return all(-0.5 <= (x - (s - 1) / 2) / s <= n - 0.5 for x, s, n in zip(there, stride, size, strict=True))


@pytest.mark.parametrize("plan", [{}, {"anisotropic": True}])
def test_loss_equals_a_naive_loop_over_all_cells_in_float64(plan: dict[str, Any]) -> None:
    method, batch = build(
        replace(ALL, ignore_mm=8.0), dtype=DOUBLE, keys=(0, 1), patch_size=(8, 16, 16), features=(4, 8, 8), **plan
    )
    losses = method(batch, local_step(dtype=DOUBLE))
    view = batch.views["pair"]
    with torch.no_grad():
        maps = [one.unflatten(0, view.image.shape[:2]) for one in method.embed(view.image.flatten(0, 1))]
        for k, name in enumerate(("fine", "coarse")):
            assert losses.parts[f"{name}_positives"] > 4
            assert losses.parts[name].item() == pytest.approx(naive_level(method, batch, k, maps[k]), rel=1e-9)
    torch.testing.assert_close(losses.total.detach(), losses.parts["fine"] + losses.parts["coarse"])


def test_negatives_are_the_most_similar_cells_by_both_maps_for_fine_queries_and_by_one_for_coarse() -> None:
    """With as many taken as looked at there is no lot: the loss is that of the naive ranking."""
    config = replace(SMALL, positives=6, ignore_mm=8.0, hard=7, diverse=7, coarse_hard=3, coarse_diverse=3, strangers=4)
    method, batch = build(config, dtype=DOUBLE, patch_size=(16, 16, 16), features=(4, 8, 8))
    view, to_world = batch.views["pair"], batch.sources["case"].to_world[:, None] @ batch.views["pair"].to_source
    step = local_step(dtype=DOUBLE)
    with torch.no_grad():
        maps = [one.unflatten(0, view.image.shape[:2]) for one in method.embed(view.image.flatten(0, 1))]
        levels = [method._level(k, maps[k], batch, step, to_world) for k in range(2)]
        strangers = method._strangers(levels[1], batch, step)[0]
        found = (
            method._fine(levels[0], maps[1][0], step, batch, 0),
            method._coarse(levels[1], strangers, step, batch, 0),
        )
        coarse = upsampled(maps[1][0], levels[0].cells.size).flatten(2).transpose(1, 2).flatten(0, 1)
        for k, (level, count) in enumerate(zip(levels, (7, 3), strict=True)):
            vectors, mm, losses = level.vectors[0], level.cells.mm[0].flatten(0, 1), []
            usable, limit = level.cells.usable[0].flatten(), (8.0, config.coarse_ignore_mm)[k] * method.unit[k]
            for query, key, real in zip(level.queries[0], level.keys[0], level.counted[0], strict=True):
                if not real:
                    continue
                far = [n for n in range(len(mm)) if usable[n] and math.dist(mm[n], mm[query]) > limit]
                rank = {n: float(vectors[query] @ vectors[n]) for n in far}
                if k == 0:
                    rank = {n: score + float(coarse[query] @ coarse[n]) for n, score in rank.items()}
                others = [float(vectors[query] @ vectors[n]) for n in sorted(far, key=lambda n: -rank[n])[:count]]
                if k == 1:
                    others += (strangers[0][strangers[1]] @ vectors[query]).tolist()
                positive = math.exp(float(vectors[query] @ vectors[key]) / 0.5)
                losses.append(-math.log(positive / (positive + sum(math.exp(s / 0.5) for s in others))))
            assert len(losses) > 2
            assert found[k][0].item() == pytest.approx(sum(losses) / len(losses), rel=1e-9)


def test_embeddings_that_are_all_alike_have_the_known_loss() -> None:
    method, batch = build(dtype=DOUBLE, patch_size=(32, 32, 32), features=(4, 8, 8))
    for head in method.heads.values():
        torch.nn.init.zeros_(head.smooth.weight)
    losses = method(batch, local_step(dtype=DOUBLE))
    assert losses.parts["fine"].item() == pytest.approx(math.log(1 + 50))
    assert losses.parts["coarse"].item() == pytest.approx(math.log(1 + 8 + 20))


# ---------------------------------------------------------------------------------------------------- which cells


def test_positives_are_near_and_nearest_and_negatives_beyond_the_ignored_ones() -> None:
    method, batch = build(replace(SMALL, ignore_mm=8.0), dtype=DOUBLE)
    view, to_world = batch.views["pair"], batch.sources["case"].to_world[:, None] @ batch.views["pair"].to_source
    cells = cells_of(view.valid, to_world, method.strides[0], DOUBLE)
    for side in range(2):
        near = nearest_cells(cells, to_world, side)
        apart = torch.cdist(cells.mm[:, side], cells.mm[:, 1 - side])
        inside = near.inside
        assert inside.any()
        torch.testing.assert_close(near.apart_mm.norm(dim=-1)[inside], apart.amin(-1)[inside])
    assert not cells.usable.reshape(*cells.usable.shape[:2], *cells.size)[:, :, 0].any()  # two slices outside the case
    maps = [one.unflatten(0, view.image.shape[:2]) for one in method.embed(view.image.flatten(0, 1))]
    level = method._level(0, maps[0], batch, local_step(dtype=DOUBLE), to_world)
    mm = level.cells.mm.flatten(1, 2)
    for sample in range(3):
        real = level.counted[sample]
        moved = mm[sample][level.keys[sample][real]] - mm[sample][level.queries[sample][real]]
        assert (moved.norm(dim=1) < method.config.positive_mm * method.unit[0]).all()
        rank = method._without_ignored(torch.zeros(len(real), mm.shape[1]), level, sample, 4.0)
        apart = torch.cdist(mm[sample][level.queries[sample]], mm[sample])
        assert torch.equal(rank > -math.inf, (apart > 4.0) & level.cells.usable[sample].flatten())


def test_no_ignored_cell_is_a_negative_even_where_all_similarities_are_negative() -> None:
    torch.manual_seed(0)
    rank = -1 - torch.rand(7, 300)
    ignored = torch.rand(7, 300) < 0.95
    index, taken = hard_and_diverse(rank.masked_fill(ignored, -math.inf), torch.rand(7, 300), hard=300, diverse=100)
    assert not (ignored.gather(1, index) & taken).any()
    assert torch.equal(taken.sum(1), (~ignored).sum(1).clamp(max=100))
    negatives = torch.where(taken, rank.gather(1, index), 100.0)  # what is not taken changes nothing
    everyone = info_nce(torch.zeros(7), negatives, taken, temperature=0.5)
    expected = torch.log1p(torch.where(ignored, 0.0, (rank / 0.5).exp()).sum(1))
    torch.testing.assert_close(everyone, expected)


def test_hard_and_diverse_equals_a_naive_selection() -> None:
    torch.manual_seed(1)
    rank, draw = torch.rand(5, 60), torch.rand(5, 60)
    rank[:, ::7] = -math.inf
    index, taken = hard_and_diverse(rank, draw, hard=20, diverse=8)
    assert taken.all()
    for row in range(5):
        hardest = sorted(range(60), key=lambda n: -rank[row, n].item())[:20]
        lots = sorted(range(20), key=lambda place: -draw[row, place].item())[:8]
        assert sorted(index[row].tolist()) == sorted(hardest[place] for place in lots)


def test_strangers_come_from_other_volumes_only() -> None:
    method, batch = build(dtype=DOUBLE)
    view, to_world = batch.views["pair"], batch.sources["case"].to_world[:, None] @ batch.views["pair"].to_source
    maps = method.embed(view.image.flatten(0, 1))[1].unflatten(0, view.image.shape[:2])
    owner = torch.arange(3.0, dtype=DOUBLE).reshape(3, 1, 1, 1, 1, 1).expand_as(maps)
    level = method._level(1, owner, batch, local_step(dtype=DOUBLE), to_world)
    for sample, (vectors, taken) in enumerate(method._strangers(level, batch, local_step(dtype=DOUBLE))):
        assert taken.any()
        assert not (vectors[taken] == sample).any()


def test_two_ranks_have_the_loss_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers come from all ranks, and never are one's own sample on another rank."""
    networks = small_networks()
    method = AnatEmbed(SMALL, networks).double()
    spec, needs = AnatEmbed.views(SMALL, networks.plan, networks.data), AnatEmbed.needs(SMALL)
    whole, *halves = (
        noise_batch(spec, networks, needs=needs, keys=keys, dtype=DOUBLE) for keys in ((0, 1, 2, 3), (0, 1), (2, 3))
    )
    sent: list[list[torch.Tensor]] = [[], []]

    def losses_of(rank: int, *, exchange: bool) -> float:
        monkeypatch.setattr("nnssl_anatembed.method.collectives.rank", lambda: rank)
        calls = iter(range(10))

        def gather(x: torch.Tensor) -> torch.Tensor:
            if not exchange:
                sent[rank].append(x)
                return x
            number = next(calls)
            return torch.cat([sent[0][number], sent[1][number]])

        step = local_step(dtype=DOUBLE)
        monkeypatch.setattr(type(step), "gather", lambda self, x: gather(x))
        return method(halves[rank], step).total.item()

    expected = method(whole, local_step(dtype=DOUBLE)).total.item()
    alone = [losses_of(rank, exchange=False) for rank in range(2)]
    together = [losses_of(rank, exchange=True) for rank in range(2)]
    assert sum(together) / 2 == pytest.approx(expected, rel=1e-12)
    assert sum(alone) / 2 != pytest.approx(expected, rel=1e-6)


def test_one_volume_has_no_strangers_and_still_a_loss() -> None:
    networks = small_networks()
    method = AnatEmbed(SMALL, networks)
    spec = AnatEmbed.views(SMALL, networks.plan, networks.data)
    batch = noise_batch(spec, networks, needs=AnatEmbed.needs(SMALL), keys=(3,))
    assert torch.isfinite(method(batch, local_step()).total)


# ---------------------------------------------------------------------------------------------------- networks


def test_each_loss_reaches_its_own_head_and_the_fine_one_no_deeper_stage() -> None:
    method, batch = build(features=(4, 8, 12, 16, 16, 16), patch_size=(64, 64, 64), case_shape=(80, 80, 80))
    assert method.stages == ((1, 2, 3), (4, 5))
    view, to_world = batch.views["pair"], batch.sources["case"].to_world[:, None] @ batch.views["pair"].to_source
    maps = [one.unflatten(0, view.image.shape[:2]) for one in method.embed(view.image.flatten(0, 1))]
    fine = method._level(0, maps[0], batch, local_step(), to_world)
    torch.autograd.backward(method._fine(fine, maps[1][0].detach(), local_step(), batch, 0)[0], retain_graph=True)
    got = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("heads.fine") for name in got)
    assert not any(name.startswith(("heads.coarse", "encoder.stages.4", "encoder.stages.5")) for name in got)
    method.zero_grad()
    coarse = method._level(1, maps[1], batch, local_step(), to_world)
    strangers = method._strangers(coarse, batch, local_step())
    torch.autograd.backward(method._coarse(coarse, strangers[0], local_step(), batch, 0)[0])
    got = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("heads.coarse") for name in got)
    assert any(name.startswith("encoder.stages.5") for name in got)
    assert not any(name.startswith("heads.fine") for name in got)


def test_stages_are_chosen_by_stride() -> None:
    flat = [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16), (4, 32, 32)]
    assert choose_stages(flat) == ((1, 2, 3), (4, 5))
    assert choose_stages([(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)]) == ((1, 2), (3,))
    with pytest.raises(PlanError, match="stride 2 to 8 and a deeper one"):
        choose_stages([(1, 1, 1), (2, 2, 2)])


def test_coarse_cells_lie_at_the_same_place_after_upsampling() -> None:
    ramp = torch.arange(8.0)[None, None, :, None, None].expand(1, 1, 8, 4, 4)
    both = torch.cat((ramp, torch.full_like(ramp, 10.0)), dim=1)
    fine = upsampled(both, (16, 8, 8))
    slope = fine[0, 0] / fine[0, 1] * 10  # undoes the length of 1
    expected = (torch.arange(16.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(slope[1:-1, 0, 0], expected[1:-1])
    torch.testing.assert_close(fine.norm(dim=1), torch.ones(1, 16, 8, 8))


def test_the_heads_are_kept_beside_the_exported_encoder() -> None:
    method, _ = build()
    exported = method.export_network()
    assert exported.encoder is method.encoder
    assert exported.decoder is None
    assert exported.heads is method.heads


def test_validation_finds_the_place_when_embeddings_are_places() -> None:
    """Embeddings that are the place itself match to within a cell and come back; constant ones do not."""
    from nnssl_anatembed.validation import match_errors

    class Box:
        def __init__(self, name: str) -> None:
            self.case_id, self.position_mm = name, torch.zeros(3, dtype=DOUBLE)
            self.to_world = torch.eye(4, dtype=DOUBLE).repeat(2, 1, 1)
            self.to_world[1, :3, 3] = 1.0
            self.points = torch.stack([torch.randint(4, 28, (40, 3)).double()] * 2)
            self.points[1] -= 1.0
            self.points_mm = self.points[0]
            grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
            self.images = torch.stack([grid, grid + 1.0])

    def embed(image: torch.Tensor) -> list[torch.Tensor]:
        fine = torch.nn.functional.avg_pool3d(image, 2)
        coarse = torch.nn.functional.avg_pool3d(image, 8)
        wave = [torch.cat((torch.sin(x / 20), torch.cos(x / 20)), 1) for x in (fine, coarse)]
        return [torch.nn.functional.normalize(x.double(), dim=1) for x in wave]

    torch.manual_seed(0)
    boxes = [Box("a"), Box("b")]
    found = match_errors(embed, boxes, (2, 2, 2))
    assert found["match_within_cell"] > 0.9
    assert found["cycle_mm"] < 2.0
    # S needs both maps: a fine one that is the same everywhere leaves the place to the coarse one, and so the other way
    for constant in range(2):
        half = match_errors(
            lambda image, constant=constant: [  # type: ignore[misc]
                torch.full_like(x, 0.4) if k == constant else x for k, x in enumerate(embed(image))
            ],
            boxes,
            (2, 2, 2),
        )
        assert half["match_mm"] < 5.0
    flat = match_errors(lambda image: [torch.full_like(x, 0.4) for x in embed(image)], boxes, (2, 2, 2))
    assert flat["match_mm"] > 5.0
    assert flat["match_within_cell"] < 0.3
    assert "cycle_mm" not in match_errors(embed, [Box("a"), Box("a")], (2, 2, 2))  # another case's box is needed
    assert flat["cycle_mm"] > 5.0
    assert flat["cycle_chance_mm"] > 5.0


# ---------------------------------------------------------------------------------------------------- settings


def test_lengths_follow_the_cells_of_the_plan_unless_they_are_mm() -> None:
    networks = small_networks(features=(4, 8, 12, 16, 16), patch_size=(32, 32, 32))
    method = AnatEmbed(SMALL, networks)
    assert method.strides == [(2, 2, 2), (16, 16, 16)]
    assert method.unit[0] == pytest.approx(0.5)  # cells of 2 mm
    assert method.unit[1] == pytest.approx(16 / (8 * 32 * 32) ** (1 / 3))
    assert method.height_unit == pytest.approx(2.0)  # of 16 mm in place of 8
    method = AnatEmbed(replace(SMALL, scale_lengths=False), networks)
    assert (*method.unit, method.height_unit) == (1.0, 1.0, 1.0)


def test_raw_values_are_windowed_once_by_the_views_or_outside_of_training_by_the_method() -> None:
    method = AnatEmbed(replace(SMALL, values="raw"), small_networks()).eval()
    image = torch.randn(1, 1, 16, 32, 32) * 1500
    windowed = (image.clamp(-1024, 3071) + 1024) / 4095
    with torch.no_grad():
        raw = method.embed(image)
        torch.testing.assert_close(method.train().embed(windowed), raw)


def test_the_paper_preset_has_the_published_heads_and_refuses_other_plans() -> None:
    paper = AnatEmbedTrainer.presets["paper"]
    assert paper.plan is not None
    total, strides = np.ones(3, int), []
    for stride in paper.plan.strides:
        total = total * np.array(stride)
        strides.append(tuple(int(side) for side in total))
    assert [strides[stages[0]] for stages in choose_stages(strides)] == [(2, 2, 2), (4, 16, 16)]
    networks = small_networks()
    with pytest.raises(PlanError, match=r"voxels of \(2.0, 2.0, 2.0\) mm"):
        AnatEmbed.views(paper.method, networks.plan, networks.data)
    with pytest.raises(PlanError, match="Hounsfield"):
        AnatEmbed.views(paper.method, networks.plan, small_networks(modality="t1").data)
    with pytest.raises(RecipeError, match="no smaller than"):
        AnatEmbedConfig(hard=100)


def test_mr_is_changed_more_than_ct() -> None:
    networks = small_networks(patch_size=(64, 128, 128), case_shape=(90, 160, 160))
    (ct,) = AnatEmbed.views(SMALL, networks.plan, networks.data).groups
    mr_networks = small_networks(modality="t1")
    (mr,) = AnatEmbed.views(SMALL, mr_networks.plan, mr_networks.data).groups
    assert {type(op).__name__ for op in mr.intensity.ops} > {type(op).__name__ for op in ct.intensity.ops}
    assert math.prod(ct.size) <= SMALL.view_voxels


def test_views_zoom_turn_and_overlap_as_the_presets_say() -> None:
    networks = small_networks(patch_size=(32, 96, 96), case_shape=(60, 140, 140), features=(4,) * 4)
    object.__setattr__(networks.plan, "spacing_mm", (2.0, 2.0, 2.0))
    for config, turned_by, overlap in (
        (AnatEmbedConfig(), 10.0, 0.2),
        (AnatEmbedTrainer.presets["paper"].method, 0.0, 0.0),
    ):
        (group,) = AnatEmbed.views(config, networks.plan, networks.data).groups
        assert group.geometry == Geometry(scale=(0.8, 1.2), rotation_deg=turned_by)
        assert (group.count, group.place, group.min_overlap) == (2, "around_anchor", overlap)
