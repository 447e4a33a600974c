"""The fixed probe set: what both views see, places in mm, air passed over, same boxes every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nnssl.blocks.sampling import sample_map, transform_points
from nnssl.data.collection import Collection
from nnssl.engine.probe_set import POINTS, air, draw_probe_set, held_out_probe, probe_views
from nnssl.errors import DataError, PlanError
from nnssl.method import Batch, DataInfo, PlanInfo
from nnssl.needs import Needs
from tests.engine.probes import SHAPE, SIZE, SPACING_MM, case_of, coordinate_batch
from tests.engine.workspace import DATASET, make_workspace


def with_air(keys: Tensor) -> Batch:
    return coordinate_batch(keys, air=True)


def test_the_points_of_both_views_are_the_same_places() -> None:
    probe = draw_probe_set(coordinate_batch, case_of=case_of, boxes=4, seed=0)
    batch = coordinate_batch(torch.arange(4))
    for box in probe.boxes:
        assert 100 < len(box.points_mm) <= POINTS
        to_world = batch.sources["case"].to_world[0]
        for view in range(2):
            matrix = to_world @ batch.views["probe"].to_source[box.key, view]
            torch.testing.assert_close(transform_points(matrix, box.points[view]), box.points_mm)


def test_points_lie_inside_the_second_view_where_it_is_valid() -> None:
    for box in draw_probe_set(coordinate_batch, case_of=case_of, boxes=4, seed=0).boxes:
        assert (box.points[0] == box.points[0].round()).all()
        assert (box.points[1] >= 0).all()
        assert (box.points[1] <= torch.tensor(SIZE) - 1).all()
        assert (box.points[1][:, 1].round() >= 5).all()  # the second view is not valid below


def test_the_position_is_taken_from_the_centre_of_the_case() -> None:
    box = draw_probe_set(coordinate_batch, case_of=case_of, boxes=2, seed=0).boxes[1]
    matrix = coordinate_batch(torch.tensor([box.key])).views["probe"].to_source[0, 0]
    centre = transform_points(matrix, (torch.tensor([SIZE]).double() - 1) / 2)[0]
    expected = (centre - (torch.tensor(SHAPE).double() - 1) / 2) * torch.tensor(SPACING_MM).double()
    torch.testing.assert_close(box.position_mm, expected)


def test_a_hit_is_three_voxels_of_the_mean_spacing() -> None:
    probe = draw_probe_set(coordinate_batch, case_of=case_of, boxes=2, seed=0)
    assert probe.radius_mm == pytest.approx(3 * (3.0 * 1.0 * 0.5) ** (1 / 3), rel=1e-6)


def test_boxes_of_air_are_passed_over() -> None:
    probe = draw_probe_set(with_air, case_of=case_of, boxes=4, seed=0)
    assert [box.key for box in probe.boxes] == [1, 3, 5, 7]
    assert probe.skipped == 4


def test_boxes_of_air_fill_up_where_there_is_nothing_else() -> None:
    def mostly_air(keys: Tensor) -> Batch:
        batch = coordinate_batch(keys)
        view = batch.views["probe"]
        image = torch.where((keys == 5)[:, None, None, None, None, None], view.image, torch.full_like(view.image, -7.0))
        return replace(batch, views={"probe": replace(view, image=image)})

    probe = draw_probe_set(mostly_air, case_of=case_of, boxes=3, seed=0)
    assert len(probe.boxes) == 3
    assert 5 in [box.key for box in probe.boxes]


def test_the_same_seed_draws_the_same_boxes_and_points_and_another_does_not() -> None:
    first, again = (draw_probe_set(coordinate_batch, case_of=case_of, boxes=3, seed=0) for _ in range(2))
    other = draw_probe_set(coordinate_batch, case_of=case_of, boxes=3, seed=1)
    for a, b, c in zip(first.boxes, again.boxes, other.boxes, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.points, b.points)
        assert not torch.equal(a.points, c.points)


def test_one_box_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2; found 1"):
        draw_probe_set(coordinate_batch, case_of=case_of, boxes=1, seed=0)


@pytest.mark.parametrize("air_value", [-1000.0, 0.0])
def test_air_is_the_value_that_is_very_common(air_value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 8, 8, 8, generator=generator) * 100
    images[:, :, :3] = air_value
    found = air(images, torch.ones_like(images, dtype=torch.bool))
    assert found[:, :, :3].all()
    assert found[:, :, 3:].float().mean() < 0.35


def test_nothing_is_air_where_no_value_is_common() -> None:
    images = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not air(images, torch.ones_like(images, dtype=torch.bool)).any()


def plan(strides: tuple[tuple[int, int, int], ...], patch: tuple[int, int, int]) -> PlanInfo:
    return PlanInfo(patch_size=patch, spacing_mm=(1, 1, 1), strides=strides, features=(8,) * len(strides), channels=1)


def data(smallest: tuple[int, int, int]) -> DataInfo:
    quantiles = dict.fromkeys((0, 10, 50, 90, 100), smallest)
    return DataInfo(modality=("ct",), cases=10, shape_quantiles=quantiles, batch_size=4, steps_per_epoch=10)


def test_the_views_fit_the_plan_and_stay_small() -> None:
    strides = ((1, 1, 1), (1, 2, 2), (2, 4, 4))
    (group,) = probe_views(plan(strides, (40, 192, 160)), data((60, 300, 50))).groups
    assert group.size == (40, 64, 40)
    assert group.count == 2


def test_cases_too_small_for_two_views_are_refused() -> None:
    with pytest.raises(PlanError, match="at least 8 cells"):
        probe_views(plan(((1, 1, 1), (32, 32, 32)), (64, 64, 64)), data((40, 40, 40)))


def test_a_real_probe_shows_held_out_cases_and_its_points_show_the_same_tissue(tmp_path: Path) -> None:
    store = make_workspace(tmp_path, cases=10) / "nnUNet_preprocessed" / DATASET / "nnsslPlans_3d_fullres"
    collection = Collection.from_datasets([store])
    strides = ((1, 1, 1), (2, 2, 2), (4, 4, 4))
    probe = held_out_probe(collection, plan(strides, (16, 16, 16)), Needs(), seed=0, boxes=4)
    training = {f"{DATASET}/{entry.case_id}" for entry in collection.training}
    assert len(probe.boxes) == 4
    assert not training & {box.case_id for box in probe.boxes}
    for box in probe.boxes:
        size = box.images.shape[2:]
        first, second = (sample_map(box.images[view], box.points[view].float(), size)[:, 0] for view in range(2))
        same = float(torch.corrcoef(torch.stack((first, second)))[0, 1])
        shuffled = float(torch.corrcoef(torch.stack((first, second.flip(0))))[0, 1])
        assert same > 0.75  # not 1: noise is smoothed by interpolation, and each view has a gamma of its own
        assert same > shuffled + 0.2
