"""vox2vec: positives are the same voxels, the loss is the published one, both halves of the network are trained."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnssl_vox2vec.method import Vox2Vec, Vox2VecConfig, _retrieval
from nnssl_vox2vec.trainer import Vox2VecTrainer
from nnssl_vox2vec.views import GROUP
from torch import Tensor

from nnssl.blocks.losses import wide
from nnssl.blocks.voxels import crop_starts
from nnssl.data.loader import make_batch
from nnssl.data.sidecar import BodyMask, write_sidecar
from nnssl.encoders.pyramid import PlanUNet
from nnssl.engine.optim import Schedule
from nnssl.engine.recipe import Global, resolve
from nnssl.errors import PlanError, RecipeError
from nnssl.method import Batch, Losses
from nnssl.nnunet import build_network
from nnssl.testing import check_method
from nnssl.testing_world import local_step, noise_batch, small_networks
from nnssl.views.draws import intensity_of
from nnssl.views.intensity.apply import apply_chain, draw_chain
from tests.volumes import collect, ramp, write_case

SMALL = Vox2VecConfig(voxels=24, hidden=16, projection=12)
PLANS = [
    {"residual": residual, "anisotropic": flat, "channels": channels, "modality": modality}
    for residual, flat, channels, modality in itertools.product((False, True), (False, True), (1, 2), ("ct", "t1"))
]


def world(**plan: Any) -> Any:
    return small_networks(**{"features": (4, 6, 8), **plan})


def build(config: Vox2VecConfig = SMALL, *, networks: Any = None, **batch: Any) -> tuple[Vox2Vec, Batch]:
    networks = networks or world()
    spec = Vox2Vec.views(config, networks.plan, networks.data)
    return Vox2Vec(config, networks).train(), noise_batch(spec, networks, needs=Vox2Vec.needs(config), **batch)


def loss_of(method: Vox2Vec, batch: Batch, dtype: torch.dtype = torch.float32) -> Losses:
    return method(batch, local_step(dtype=dtype))


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[7], PLANS[13]])
def test_vox2vec_keeps_the_contract(plan: dict[str, Any]) -> None:
    check_method(Vox2Vec, SMALL, networks=lambda: world(**plan))


def test_the_vicreg_variant_keeps_the_contract() -> None:
    check_method(Vox2Vec, replace(SMALL, loss="vicreg"), networks=lambda: world(anisotropic=True, channels=2))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "-".join(str(value) for value in plan.values()))
def test_it_runs_on_every_plan_and_both_halves_reach_nnunet(plan: dict[str, Any]) -> None:
    networks = world(**plan)
    method, batch = build(networks=networks)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=0.0)
    before = {name: value.clone() for name, value in method.network.state_dict().items()}
    for _ in range(2):  # residual blocks begin with a gain of 0; decay would move weights without a gradient
        optimizer.zero_grad()
        loss_of(method, batch).total.backward()
        optimizer.step()
    after = method.network.state_dict()
    # a bias in front of a norm changes nothing and has no gradient to speak of
    weights = [name for name in before if name.endswith("weight")]
    assert weights and [name for name in weights if torch.equal(before[name], after[name])] == []

    theirs = build_network(networks.architecture, channels=networks.plan.channels, classes=3)
    exported = method.export_network()
    assert exported.decoder is not None
    assert not any("seg_layers" in name for name in exported.decoder.state_dict())
    missing = theirs.load_state_dict(exported.decoder.state_dict(), strict=False)
    assert not missing.unexpected_keys
    image = batch.views[GROUP].image[:, 0]
    with torch.no_grad():
        for ours, found in zip(method.network(image), PlanUNet(theirs)(image), strict=True):
            assert torch.equal(ours, found)


# ------------------------------------------------------------------------------------------------ positives


@pytest.mark.parametrize(("spacing_mm", "flat"), [((1.0, 1.0, 1.0), False), ((4.0, 0.9, 0.7), True)])
def test_positives_are_the_same_body_voxels_of_the_case(
    tmp_path: Path, spacing_mm: tuple[float, float, float], flat: bool
) -> None:
    """Views of a ramp show every voxel's own index: what they hold at a pair must be equal, and in the body."""
    shape = (30, 40, 52)
    grid = ramp(shape)
    body = ((grid - np.array([14, 22, 30])[:, None, None, None]) ** 2).sum(0) < 15**2
    array = np.concatenate([grid, np.where(body, 0, -1000)[None].astype(np.float32)])
    entry = write_case(
        tmp_path, "a", array, spacing_mm=spacing_mm, modality=("ct",) * 4, raw_file="a.b2nd",
        sidecars={"body": "a.body.npz"},
    )  # fmt: skip
    first, stride = np.array([0, 1, 1]), np.array([1, 3, 3])
    lattice = {"mask": body[:, 1::3, 1::3], "first": first, "stride": stride}
    write_sidecar(tmp_path / "a.body.npz", BodyMask, lattice)
    networks = world(anisotropic=flat, channels=4, case_shape=shape)
    config = replace(SMALL, voxels=200)
    spec = Vox2Vec.views(config, networks.plan, networks.data)
    plain = replace(spec, groups=tuple(replace(group, intensity=None) for group in spec.groups))
    batch = make_batch(collect(entry), plain, Vox2Vec.needs(config), range(12), seed=1)
    shared = Vox2Vec(config, networks)._positives(batch, local_step())
    view = batch.views[GROUP]
    starts = crop_starts(view.to_source)
    fewer = 0
    for row in range(12):
        counted = shared.counted[row]
        points = [one[row][counted] for one in (shared.first, shared.second)]
        seen = [view.image[row, v][:3, *points[v].T].long() for v in range(2)]
        assert torch.equal(seen[0], seen[1])
        assert torch.equal(seen[0].T, points[0] + starts[row, 0])
        cell = np.minimum(seen[0].T.numpy() // stride, np.array(lattice["mask"].shape) - 1)
        assert lattice["mask"][tuple(cell.T)].all()
        assert len(set(map(tuple, points[0].tolist()))) == int(counted.sum()) > 0
        fewer += int(counted.sum()) < 200
    again = Vox2Vec(config, networks)._positives(batch, local_step(index=5))
    assert torch.equal(shared.first, again.first)  # a function of the sample's key, not of the step
    assert fewer < 12


def test_invalid_voxels_are_no_positives() -> None:
    method, batch = build(invalid_slices=5)
    shared = method._positives(batch, local_step())
    assert shared.counted.any()
    for points in (shared.first, shared.second):
        assert (points[..., 0][shared.counted] >= 5).all()


# ------------------------------------------------------------------------------------------------ the loss


def naive_voxel_vectors(method: Vox2Vec, maps: list[Tensor], points: Tensor) -> list[list[float]]:
    rows = []
    for point in points.tolist():
        row: list[float] = []
        for level, stride in zip(maps, method.network.strides, strict=True):
            d, h, w = (p // s for p, s in zip(point, stride, strict=True))
            row += level[:, d, h, w].tolist()
        rows.append(row)
    return rows


def naive_projection(method: Vox2Vec, rows: list[list[float]]) -> Tensor:
    x = torch.tensor(rows, dtype=torch.float64)
    for number in range(3):
        layer = method.projector.layers[number]
        x = torch.stack([torch.stack([(w * row).sum() for w in layer.weight]) for row in x]) + layer.bias
        if number < 2:
            norm = method.projector.norms[number]
            deviation = x - x.sum(0) / len(x)
            x = deviation / ((deviation**2).sum(0) / len(x) + 1e-5).sqrt() * norm.weight + norm.bias
            x = torch.where(x > 0, x, 0.0)
    return x / (x**2).sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("plan", [{}, {"residual": True, "anisotropic": True, "channels": 2}])
def test_the_loss_is_that_of_a_naive_loop(plan: dict[str, Any]) -> None:
    method, batch = build(replace(SMALL, voxels=5), networks=world(**plan), keys=(0, 1, 2), dtype=torch.float64)
    method.double()
    shared = method._positives(batch, local_step(dtype=torch.float64))
    z = []
    with torch.no_grad():
        for view, points in enumerate((shared.first, shared.second)):
            rows: list[list[float]] = []
            for sample in range(3):
                maps = [one[0] for one in method.network(batch.views[GROUP].image[sample, view][None])]
                rows += naive_voxel_vectors(method, maps, points[sample][shared.counted[sample]])
            z.append(naive_projection(method, rows))
        total = 0.0
        count = len(z[0])
        for own, other in ((0, 1), (1, 0)):
            for i in range(count):
                terms = [float(z[own][i] @ z[own][j]) / 0.1 for j in range(count) if j != i]
                terms += [float(z[own][i] @ z[other][j]) / 0.1 for j in range(count)]
                total += math.log(sum(math.exp(t) for t in terms)) - float(z[own][i] @ z[other][i]) / 0.1
    found = loss_of(method, batch, torch.float64).total.item()
    assert found == pytest.approx(total / (2 * count), rel=1e-9)


def test_the_vicreg_loss_is_that_of_a_naive_loop_over_answers_that_are_not_normalised() -> None:
    config = replace(SMALL, voxels=5, loss="vicreg", weights=(2.0, 3.0, 5.0))
    method, batch = build(config, keys=(0, 1), dtype=torch.float64)
    answers: list[Tensor] = []
    method.double().projector.register_forward_hook(lambda module, inputs, output: answers.append(output.detach()))
    counted = method._positives(batch, local_step(dtype=torch.float64)).counted.flatten()
    found = loss_of(method, batch, torch.float64)
    first, second = (answer[counted].tolist() for answer in answers)
    count, width = len(first), len(first[0])
    invariance = sum((a - b) ** 2 for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
    variance = covariance = 0.0
    for view in (first, second):
        mean = [sum(row[k] for row in view) / count for k in range(width)]
        for k, m in itertools.product(range(width), repeat=2):
            product = sum((row[k] - mean[k]) * (row[m] - mean[m]) for row in view) / (count - 1)
            if k == m:
                variance += max(0.0, 1 - math.sqrt(product + 1e-4)) / width / 2
            else:
                covariance += product**2 / width
    total = 2 * invariance / (count * width) + 3 * variance + 5 * covariance
    assert found.total.item() == pytest.approx(total, rel=1e-9)
    assert found.parts["covariance"].item() == pytest.approx(covariance, rel=1e-9)


def test_retrieval_counts_voxels_whose_nearest_of_the_same_pair_is_themselves() -> None:
    torch.manual_seed(0)
    first, noise = torch.randn(2, 12, 3)
    first, second = (torch.nn.functional.normalize(one, dim=1) for one in (first, first + 0.4 * noise))
    counted = torch.ones(2, 6, dtype=torch.bool)
    counted[0, 4:] = False
    right = 0
    for sample, count in ((0, 4), (1, 6)):
        own = slice(6 * sample, 6 * sample + count)
        for i, row in enumerate(first[own].tolist()):
            scores = [sum(a * b for a, b in zip(row, other, strict=True)) for other in second[own].tolist()]
            right += scores.index(max(scores)) == i
    assert 5 <= right < 10
    assert _retrieval([first, second], counted).item() == pytest.approx(right / 10)


def test_the_projector_has_the_published_widths() -> None:
    for loss, out in (("ntxent", 128), ("vicreg", 8192)):
        method = Vox2Vec(replace(SMALL, hidden=0, projection=0, loss=loss), world())  # type: ignore[arg-type]
        width = sum(method.network.channels)
        assert [(layer.in_features, layer.out_features) for layer in method.projector.layers] == [
            (width, width),
            (width, width),
            (width, out),
        ]


def test_it_starts_at_chance_where_the_views_have_nothing_in_common() -> None:
    """ln(2N - 1) + 1 / (2 d tau^2) for independent vectors in d dimensions: the second term is what tau = 1 removes."""
    config = replace(SMALL, voxels=64, hidden=0, projection=128)
    excess = {}
    for temperature in (1.0, 0.1):
        method, batch = build(replace(config, temperature=temperature))
        losses = loss_of(method, batch)
        voxels = int(losses.parts["voxels"].item()) * 4
        excess[temperature] = losses.total.item() - math.log(2 * voxels - 1)
    assert excess[1.0] == pytest.approx(0.0, abs=0.05)
    assert excess[0.1] > 0.2  # d is the number of dimensions that a small network's answers really fill
    assert losses.parts["retrieval"].item() < 0.2


def test_other_volumes_are_negatives_and_duplicates_of_one_are_not_the_same() -> None:
    method, batch = build()
    view = batch.views[GROUP]
    image = view.image.clone()
    image[1] = image[0]
    duplicated = replace(batch, views={GROUP: replace(view, image=image)})
    a, b = loss_of(method, batch), loss_of(method, duplicated)
    assert a.total.item() != pytest.approx(b.total.item(), rel=1e-3)
    halves = [build(keys=keys)[1] for keys in ((0, 1), (2, 3))]
    assert sum(loss_of(method, half).total.item() for half in halves) / 2 < a.total.item()


@pytest.mark.parametrize("loss", ["ntxent", "vicreg"])
def test_rows_at_a_time_change_nothing(loss: Any) -> None:
    found = []
    for rows in (7, 10_000):
        method, batch = build(replace(SMALL, loss=loss, loss_rows=rows), dtype=torch.float64)
        total = loss_of(method.double(), batch, torch.float64).total
        total.backward()
        gradient = next(method.network.parameters()).grad
        assert gradient is not None
        found.append((total.item(), gradient))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)


def test_answers_under_autocast_are_compared_in_single_precision() -> None:
    method, batch = build()
    seen: list[torch.dtype] = []
    method.projector.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss_of(method, batch)
    assert seen == [torch.bfloat16] * 2
    assert losses.total.dtype == losses.watch["vectors"].dtype == torch.float32
    assert wide(losses.watch["vectors"]).norm(dim=1).sub(1).abs().max() < 1e-5


# ------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("modality", ["ct", "t1"])
def test_intensities_are_as_published(modality: str) -> None:
    networks = world(modality=modality)
    (group,) = Vox2Vec.views(Vox2VecConfig(), networks.plan, networks.data).groups
    intensity = intensity_of(group, 0)
    assert intensity is not None
    chains = [draw_chain(intensity, 1, 16, 0, key, "crops", 0) for key in range(1500)]
    shape = [chain[0].params for chain in chains if chain[0] is not None]
    order = {"ct": (1, 2), "t1": (2, 1)}[modality]
    noise = [chain[order[0]].params["std"][0] for chain in chains if chain[order[0]] is not None]  # type: ignore[union-attr]
    window = [chain[order[1]].params for chain in chains]  # type: ignore[union-attr]
    blurred = [params for params in shape if params["choice"][0] == 0]
    sharpened = [params for params in shape if params["choice"][0] == 1]
    for part, share in ((blurred, 0.25), (sharpened, 0.25), (noise, 0.5)):
        assert len(part) / 1500 == pytest.approx(share, abs=0.04)
    sigmas = np.array([params["0.sigma"][0, 0] for params in blurred])
    wide_sigmas = np.array([params["1.sigma"][0] for params in sharpened])
    alphas = np.array([params["1.alpha"][0] for params in sharpened])
    assert 0.25 <= sigmas.min() < 0.3 and 1.45 < sigmas.max() <= 1.5
    assert 0.5 <= wide_sigmas.min() < 0.52 and 0.98 < wide_sigmas.max() <= 1
    assert 10 <= alphas.min() < 10.5 and 29.5 < alphas.max() <= 30
    unit = {"ct": 2350.0, "t1": 1.0}[modality]
    assert 29 < np.max(noise) / unit * 2350 <= 30
    lows, highs = (np.array([params[end][0] for params in window]) for end in ("low", "high"))
    if modality == "ct":
        usual = (lows == -1350) & (highs == 1000)
        assert lows.min() >= -1350 and lows.max() <= -1000 and highs.min() >= 300 and highs.max() <= 1000
    else:
        usual = (lows == 0) & (highs == 0)
        assert max(np.abs(lows).max(), np.abs(highs).max()) <= 0.15
    assert usual.mean() == pytest.approx(0.2, abs=0.04)
    other = [draw_chain(intensity, 1, 16, 0, key, "crops", 1) for key in range(100)]
    assert sum(a[0] is None for a in other) != 0
    assert [a[0] is None for a in other] != [chain[0] is None for chain in chains[:100]]


def test_slices_are_never_blurred_into_each_other_and_views_end_in_zero_to_one() -> None:
    networks = world()
    (group,) = Vox2Vec.views(replace(SMALL, noise_probability=0.0), networks.plan, networks.data).groups
    intensity = intensity_of(group, 0)
    assert intensity is not None
    image = torch.full((20, 1, 6, 12, 12), -1350.0)
    image[:, :, 3, 5, 5] = 900.0
    names = [(key, "crops", 0) for key in range(20)]
    apply_chain(image, intensity, [draw_chain(intensity, 1, 6, 0, key, "crops", 0) for key in range(20)], 0, names)
    assert (image[:, :, [0, 1, 2, 4, 5]] == 0).all()
    assert image.min() >= 0 and image.max() <= 1 and image[:, :, 3].amax() > 0.3


def test_features_see_the_usual_window_whatever_the_training_drew() -> None:
    method, _ = build()
    image = torch.randn(2, 1, 16, 16, 32) * 300
    bright = torch.where(image > 300, 5000.0, image)
    clipped = torch.where(image > 300, 1000.0, image)
    kept = image.clone()
    with torch.no_grad():
        a, b = (method.features(x) for x in (bright, clipped))
    assert torch.equal(a.vector, b.vector)
    assert a.vector.shape == (2, sum(method.network.channels))
    assert torch.equal(image, kept)
    mr, _ = build(networks=world(modality="t1"))
    with torch.no_grad():  # an MR scanner's unit means nothing
        torch.testing.assert_close(mr.features(image).vector, mr.features(image * 70 + 900).vector, rtol=0, atol=1e-3)


def test_normalised_values_are_windowed_like_anything_without_a_unit() -> None:
    config = replace(SMALL, values="plan")
    networks = world()
    assert Vox2Vec.needs(config).values == "plan"
    ct, mr = (Vox2Vec.views(config, networks.plan, each.data) for each in (networks, world(modality="t1")))
    assert ct == mr
    method = Vox2Vec(config, networks).eval()
    assert method.export_network().raw_window is None
    image = torch.randn(2, 1, 16, 16, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            method.features(image).vector, method.features(image * 7 + 9).vector, rtol=0, atol=1e-3
        )
    with pytest.raises(PlanError, match=r"method\.values is plan"):
        Vox2Vec.views(replace(config, network="fpn3d"), networks.plan, networks.data)


def test_views_hold_at_most_as_many_voxels_as_published_and_fit_the_strides() -> None:
    deep = {"features": (4,) * 6, "patch_size": (128, 128, 128), "case_shape": (200, 200, 200)}
    networks = world(**deep)
    (group,) = Vox2Vec.views(Vox2VecConfig(), networks.plan, networks.data).groups
    # 4 x 4 x 4 cells of 32 voxels lose one at a time, on the longest axis, until 2^19 voxels hold them
    assert sorted(group.size) == [64, 64, 96]
    small = world(patch_size=(40, 56, 40), case_shape=(31, 45, 31))
    (group,) = Vox2Vec.views(Vox2VecConfig(), small.plan, small.data).groups
    assert group.size == (28, 44, 28)


# ------------------------------------------------------------------------------------------------ refusals, recipes


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        Vox2VecConfig(voxels=0)
    with pytest.raises(RecipeError, match="above 0"):
        Vox2VecConfig(temperature=0.0)
    with pytest.raises(PlanError, match="at least 8 cells"):
        tiny = world(case_shape=(4, 4, 4))
        Vox2Vec.views(SMALL, tiny.plan, tiny.data)


def test_pairs_per_volume_is_told_to_the_order_of_cases() -> None:
    assert Vox2Vec.needs(replace(SMALL, pairs_per_volume=5)).samples_per_case == 5
    assert Vox2Vec.needs(SMALL).samples_per_case == 1
    recipe = resolve(Vox2VecTrainer, overrides={"method.pairs_per_volume": "2"})
    assert recipe.method.pairs_per_volume == 2
    assert Schedule(recipe).learning_rate(0) < Schedule(recipe).learning_rate(recipe.total_steps // 8)


def published_world(**changes: Any) -> Any:
    networks = world(features=(4,) * 6, case_shape=(60, 200, 200), **changes)
    object.__setattr__(networks.plan, "spacing_mm", (2.0, 1.0, 1.0))
    return networks


@pytest.mark.parametrize("preset", ["paper", "paper_unet"])
def test_the_paper_preset_is_the_published_run(preset: str) -> None:
    recipe = Vox2VecTrainer.presets[preset]
    rates = [Schedule(recipe).learning_rate(step) for step in (0, 1, 50_000, recipe.total_steps - 1)]
    assert rates == pytest.approx([3e-4] * 4)
    assert (recipe.total_steps, recipe.batch_size, recipe.optimizer.weight_decay) == (100_000, 10, 0)
    assert (recipe.precision, recipe.optimizer.clip) == ("fp32", Global(1.0))
    assert recipe.plan is not None
    assert (recipe.plan.spacing, recipe.plan.patch_size) == ((2, 1, 1), (32, 128, 128))
    config = recipe.method
    assert (config.voxels, config.temperature, config.network) == (1024, 0.1, {"paper": "fpn3d"}.get(preset, "plan"))
    networks = published_world()
    (group,) = Vox2Vec.views(config, networks.plan, networks.data).groups
    assert (group.size, group.count) == ((32, 128, 128), 2)


def test_published_views_are_refused_with_the_reason() -> None:
    config = Vox2VecTrainer.presets["paper_unet"].method
    for networks, sentence in (
        (published_world(modality="t1"), "CT in Hounsfield units; the channels are"),
        (world(features=(4,) * 6, case_shape=(60, 200, 200)), r"voxels of \(2.0, 1.0, 1.0\) mm \(D H W\); the plan's"),
    ):
        with pytest.raises(PlanError, match=sentence):
            Vox2Vec.views(config, networks.plan, networks.data)
    object.__setattr__(networks.plan, "spacing_mm", (2.0, 1.0, 1.0))
    object.__setattr__(networks.plan, "strides", ((1, 1, 1), (64, 64, 64)))
    with pytest.raises(PlanError, match=r"divisible by the encoder's total stride, which is \(64, 64, 64\)"):
        Vox2Vec.views(config, networks.plan, networks.data)


FPN = replace(SMALL, network="fpn3d", fpn_width=3, fpn_levels=3)


def test_the_published_network_keeps_the_contract_and_leaves_as_a_whole() -> None:
    check_method(Vox2Vec, FPN, networks=world)
    method, _ = build(FPN)
    exported = method.export_network()
    assert exported.encoder is method.network
    assert exported.decoder is None
    assert exported.raw_window == (-1350.0, 1000.0)


def test_the_published_network_is_refused_where_values_have_no_unit() -> None:
    networks = world(modality="t1")
    with pytest.raises(PlanError, match=r"fpn3d is for CT in Hounsfield units.*--set method.network=plan"):
        Vox2Vec.views(FPN, networks.plan, networks.data)
    assert Vox2Vec(SMALL, networks).export_network().raw_window is None
