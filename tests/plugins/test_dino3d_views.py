"""DINO3D's views: legal sizes on every plan, one switch an augmentation, degrees that are degrees, elastic moves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnssl_dino3d.config import DINO3DConfig
from nnssl_dino3d.elastic import ElasticDeformation
from nnssl_dino3d.trainer import DINO3DTrainer
from nnssl_dino3d.views import BOX_RATIO, local_size, view_spec

from nnssl.engine.plan import check_views, plan_info
from nnssl.errors import PlanError
from nnssl.method import Needs, View
from nnssl.nnunet import build_network
from nnssl.planning.wish import wished
from nnssl.testing_world import small_networks
from nnssl.views.intensity import GaussianBlur, HistogramShift, Window
from nnssl.views.intensity.apply import apply_chain, apply_fixed, draw_chain
from nnssl.views.spec import BlockMask, Geometry, Intensity, Size
from tests.tiny import tiny_plans
from tests.volumes import collect, noise_cases, ramp, write_case

OFF = {"rotation": "off", "scale": False, "flip": (0.0, 0.0, 0.0), "smoothing": False, "histogram": False}


def spec(networks: Any = None, **config: Any) -> Any:
    world = networks or small_networks()
    return view_spec(DINO3DConfig(**config), world.plan, world.data)


# -------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("patch", "features", "anisotropic", "sizes"),
    [
        ((128, 128, 128), 6, False, ((128, 128, 128), (64, 64, 64))),
        ((160, 160, 160), 6, False, ((128, 128, 128), (64, 64, 64))),
        ((96, 96, 96), 5, False, ((96, 96, 96), (48, 48, 48))),
        ((20, 256, 224), 3, True, ((20, 128, 128), (10, 64, 64))),
        ((32, 256, 224), 6, True, ((32, 128, 128), (32, 64, 64))),  # 2 x 4 x 4 cells, 2 x 2 x 2 for local views
        ((64, 64, 64), 6, False, ((64, 64, 64), (64, 64, 64))),  # 2 x 2 x 2 cells cannot be halved
        ((40, 56, 40), 4, False, ((40, 56, 40), (16, 32, 16))),
    ],
)
def test_sizes_are_legal_for_every_plan(
    patch: Size, features: int, anisotropic: bool, sizes: tuple[Size, Size]
) -> None:
    world = small_networks(patch_size=patch, features=(4,) * features, anisotropic=anisotropic,
                           case_shape=(300, 400, 400))  # fmt: skip
    found = spec(world)
    check_views(found, world.plan, Needs())
    assert tuple(group.size for group in found.groups) == sizes
    assert [group.count for group in found.groups] == [2, 6]
    assert found.sources[0].size == tuple((round(BOX_RATIO * side),) * 2 for side in sizes[0])


def test_views_shrink_with_the_cases_until_there_is_nothing_to_halve() -> None:
    small = small_networks(patch_size=(40, 56, 40), case_shape=(31, 45, 31))
    assert [group.size for group in spec(small).groups] == [(24, 32, 24), (16, 16, 16)]
    with pytest.raises(PlanError, match="at least 8 cells"):
        spec(small_networks(case_shape=(12, 12, 12)))


def test_global_views_alone_have_blocks_of_one_cell_to_hide() -> None:
    large, local = spec(dense=1.0, dense_ratio=(0.3, 0.4)).groups
    assert large.mask == BlockMask(block=small_networks().plan.total_stride, ratio=(0.3, 0.4))
    assert local.mask is None
    assert spec().groups[0].mask is None


def test_boxes_hold_body_if_asked_to() -> None:
    assert spec().sources[0].anchor == "uniform"
    assert spec(body=True).sources[0].anchor == "body"


def test_no_local_view_is_a_single_cell() -> None:
    plan = small_networks().plan  # total stride 8
    for cells in itertools.product((2, 3, 5), (2, 4, 7), (2, 6)):
        size = (8 * cells[0], 8 * cells[1], 8 * cells[2])
        local = local_size(size, plan)
        assert all(16 <= small <= large and small % 8 == 0 for small, large in zip(local, size, strict=True))


def test_two_global_views_share_two_fifths_of_their_volume() -> None:
    side = np.array([round(BOX_RATIO * s) for s in (48, 96, 96)])
    assert side.tolist() == [61, 121, 121]
    shift = side - np.array([48, 96, 96])
    assert np.prod(1 - shift / np.array([48, 96, 96])) == pytest.approx(0.4, abs=0.002)


def test_paper_views_are_the_published_ones() -> None:
    world = small_networks(anisotropic=True, case_shape=(90, 200, 200))
    config = DINO3DTrainer.presets["paper"].method
    found = view_spec(config, world.plan, world.data)
    assert [(group.size, group.count) for group in found.groups] == [((48, 96, 96), 2), ((12, 24, 24), 8)]
    assert found.sources[0].size == ((61, 61), (121, 121), (121, 121))
    ops = found.groups[0].intensity.ops
    assert [type(op) for op in ops] == [Window, ElasticDeformation, GaussianBlur, HistogramShift]
    assert ops[1:] == (
        ElasticDeformation(sigma=(0.0, 7.0), magnitude=(0.0, 150.0), probability=0.5),
        GaussianBlur((0.0, 2.0), per_axis=True, probability=0.5),
        HistogramShift(10, probability=0.5),
    )
    image = torch.tensor([-3000.0, -1000.0, 0.0, 500.0, 4000.0]).view(1, 1, 1, 1, 5)
    assert apply_fixed(ops[0], image).flatten().tolist() == [0.0, 0.0, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "resenc"])
def test_the_plan_that_the_paper_preset_brings_holds_its_views(residual: bool) -> None:
    recipe = DINO3DTrainer.presets["paper"]
    assert recipe.plan is not None
    plans = wished(tiny_plans("Dataset745_Tiny", residual=residual), recipe.plan)
    configuration = plans["configurations"]["3d_fullres"]
    plan = plan_info(configuration, channels=1)
    assert (plan.patch_size, plan.total_stride) == ((48, 96, 96), (4, 8, 8))
    check_views(view_spec(recipe.method, plan, small_networks().data), plan, Needs())
    build_network(configuration["architecture"], channels=1, classes=2)


@pytest.mark.parametrize(
    ("world", "words"),
    [
        ({"modality": "t1"}, "Hounsfield units"),
        ({"features": (4,) * 6, "case_shape": (90, 200, 200)}, r"total stride, which is \(32, 32, 32\)"),
    ],
)
def test_paper_views_are_refused_with_the_way_out(world: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        spec(small_networks(**world), published_views=True)


# -------------------------------------------------------------------------------------------------------- switches


def test_all_switches_off_leave_plain_crops() -> None:
    for group in spec(**OFF).groups:
        assert group.geometry == Geometry(per_axis=True, scale_probability=0.0, rotation_probability=0.0)
        assert group.intensity == Intensity()


@pytest.mark.parametrize(
    ("switch", "kind"),
    [("elastic", ElasticDeformation), ("smoothing", GaussianBlur), ("histogram", HistogramShift)],
)
def test_every_intensity_has_its_own_switch(switch: str, kind: type) -> None:
    (op,) = spec(**OFF | {switch: True}).groups[1].intensity.ops
    assert isinstance(op, kind)
    assert op.probability == 0.5


def test_every_intensity_takes_its_numbers() -> None:
    numbers = {
        "elastic": True, "elastic_sigma": (2.0, 5.0), "elastic_magnitude": (1.0, 80.0), "smoothing_sigma": (0.5, 1.5),
        "histogram_points": 6, "augmentation_probability": 0.3,
    }  # fmt: skip
    for group in spec(**numbers).groups:
        assert group.intensity.ops == (
            ElasticDeformation(sigma=(2.0, 5.0), magnitude=(1.0, 80.0), probability=0.3),
            GaussianBlur((0.5, 1.5), per_axis=True, probability=0.3),
            HistogramShift(6, probability=0.3),
        )


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"scale": True}, "scale", (0.75, 1.25)),
        ({"rotation": "limited", "rotation_deg": 20.0}, "rotation_deg", 20.0),
        ({"rotation": "full"}, "through_plane_rotation_deg", 180.0),
        ({"flip": (0.0, 0.5, 0.0)}, "flip", (0.0, 0.5, 0.0)),
    ],
)
def test_every_geometry_has_its_own_switch(changes: dict[str, Any], field: str, value: Any) -> None:
    plain, found = (spec(**OFF | c).groups[0].geometry for c in ({}, changes))
    assert getattr(found, field) == value
    different = {name for name in vars(plain) if getattr(plain, name) != getattr(found, name)}
    assert different <= {field, "rotation_deg", "rotation_probability", "scale_probability"}


def drawn(tmp_path: Path, **config: Any) -> View:
    """64 local views in boxes a quarter larger than they are; all switches off but those given."""
    from nnssl.data.loader import make_batch

    tmp_path.mkdir()
    views = spec(**OFF | {"local_views": 8} | config)
    views = replace(views, sources=(replace(views.sources[0], size=((20, 20), (20, 20), (40, 40))),))
    collection = noise_cases(tmp_path, 8, shape=(28, 28, 48))
    return make_batch(collection, views, Needs(), list(range(8)), seed=1, batch_size=8).views["local"]


def angles(tmp_path: Path, **config: Any) -> torch.Tensor:
    return drawn(tmp_path, **config).draws["rotation_deg"].flatten(0, 1)


def test_thirty_means_degrees_and_full_means_any_angle(tmp_path: Path) -> None:
    limited = angles(tmp_path / "limited", rotation="limited")
    assert all(20 < most <= 30 for most in limited.abs().amax(0))  # about every axis
    full = angles(tmp_path / "full", rotation="full")
    assert all(most > 150 for most in full.abs().amax(0))
    still = (limited == 0).all(1).float().mean().item()
    assert 0.3 < still < 0.7  # half of the views are not turned
    assert not angles(tmp_path / "off").any()


def test_every_axis_is_scaled_on_its_own_in_half_of_the_views(tmp_path: Path) -> None:
    scale = drawn(tmp_path / "on", scale=True, scale_range=0.25).draws["scale"].flatten(0, 1)
    scaled = scale[(scale != 1).any(1)]
    assert 0.3 < len(scaled) / len(scale) < 0.7
    assert 0.75 <= scaled.min() < 0.8
    assert 1.2 < scaled.max() <= 1.25
    assert all((scaled[:, a] != scaled[:, b]).all() for a, b in ((0, 1), (0, 2), (1, 2)))
    assert (drawn(tmp_path / "off").draws["scale"] == 1).all()


def test_left_stays_left_unless_views_are_mirrored(tmp_path: Path) -> None:
    kept = drawn(tmp_path / "kept", rotation="full", scale=True)
    assert (torch.linalg.det(kept.to_source[..., :3, :3]) > 0).all()
    mirrored = drawn(tmp_path / "mirrored", flip=(0.0, 0.0, 0.5))
    flipped = torch.linalg.det(mirrored.to_source[..., :3, :3]) < 0
    assert 0.3 < flipped.float().mean() < 0.7
    assert not mirrored.draws["flip"][..., :2].any()


def test_voxels_come_from_where_the_matrix_says(tmp_path: Path) -> None:
    from nnssl.data.loader import make_batch

    entry = write_case(tmp_path, "ramp", ramp((60, 60, 80)), spacing_mm=(2.0, 1.0, 1.0))
    views = spec(small_networks(channels=3), **OFF | {"rotation": "limited", "scale": True})
    batch = make_batch(collect(entry), views, Needs(), [0, 1], seed=3, batch_size=1)
    for name in ("global", "local"):
        view = batch.views[name]
        size = view.image.shape[3:]
        index = torch.stack(torch.meshgrid(*[torch.arange(s) for s in size], indexing="ij")).flatten(1).double()
        index = torch.cat([index, torch.ones_like(index[:1])])
        for sample, number in itertools.product(range(2), range(view.image.shape[1])):
            place = (view.to_source[sample, number] @ index)[:3]
            valid = view.valid[sample, number].flatten()
            found = view.image[sample, number].flatten(1).double()
            last = torch.tensor([59.0, 59.0, 79.0])[:, None]
            wanted = torch.minimum(place.clamp(min=0), last)  # the outer half voxel is clamped
            assert (found - wanted)[:, valid].abs().max() < 0.05


# -------------------------------------------------------------------------------------------------------- elastic


def deform(op: ElasticDeformation, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    intensity = Intensity(ops=(op,))
    chains = [draw_chain(intensity, images.shape[1], images.shape[2], seed, key, "g", 0) for key in range(len(images))]
    out = images.clone()
    apply_chain(out, intensity, chains, seed, [(key, "g", 0) for key in range(len(images))])
    return out


def test_without_magnitude_nothing_moves_and_draws_are_keyed() -> None:
    images = torch.randn(2, 1, 12, 14, 16, generator=torch.Generator().manual_seed(0))
    still = ElasticDeformation(magnitude=(0.0, 0.0))
    torch.testing.assert_close(deform(still, images), images, rtol=1e-4, atol=1e-4)
    op = ElasticDeformation(magnitude=(60.0, 60.0))
    assert torch.equal(deform(op, images), deform(op, images))
    assert not torch.equal(deform(op, images), deform(op, images, seed=1))
    same = deform(op, images[:1].expand(2, -1, -1, -1, -1).contiguous())
    assert not torch.equal(same[0], same[1])


def test_channels_move_together_by_the_stated_displacement() -> None:
    size, sigma, magnitude = (40, 40, 40), 3.0, 60.0
    images = torch.from_numpy(ramp(size))[None].repeat(2, 2, 1, 1, 1)  # 6 channels: every place twice
    out = deform(ElasticDeformation(sigma=(sigma, sigma), magnitude=(magnitude, magnitude)), images)
    torch.testing.assert_close(out[:, :3], out[:, 3:])
    inner = (out - images)[:, :3, 10:30, 10:30, 10:30]
    expected = 3**-0.5 * magnitude * (2 * np.pi**0.5 * sigma) ** -1.5
    assert inner.std().item() == pytest.approx(expected, rel=0.25)


def test_a_batch_equals_its_elements() -> None:
    images = torch.randn(3, 2, 10, 12, 14, generator=torch.Generator().manual_seed(0))
    op = ElasticDeformation(probability=0.7)
    intensity = Intensity(ops=(op,))
    chains = [draw_chain(intensity, 2, 10, 5, key, "g", 0) for key in range(3)]
    names = [(key, "g", 0) for key in range(3)]
    whole = images.clone()
    apply_chain(whole, intensity, chains, 5, names)
    rows = images.flatten(0, 1)
    params = {
        "sigma": torch.full((6,), 4.0),
        "magnitude": torch.full((6,), 50.0),
        "channel": torch.tensor([0.0, 1] * 3),
    }
    fields = torch.randn(6, 3, 10, 12, 14, generator=torch.Generator().manual_seed(1))
    together = op.apply(rows.clone(), params, lambda like: fields)
    for view in range(3):
        part = slice(2 * view, 2 * view + 2)
        one = op.apply(rows[part].clone(), {k: v[part] for k, v in params.items()}, lambda like, p=part: fields[p])
        torch.testing.assert_close(together[part], one)
