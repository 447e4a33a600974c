"""What a probe reads: classes and regions, anchored patches, what is known and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nnssl.errors import DataError
from nnssl.evaluate.probe.cases import Label, Labels, draw_patches, read_case, read_labels
from tests.evaluate.labelled import blocks, write_case

TWO = Labels(classes=(Label("a", (1,)), Label("b", (2,))), ignore=None)


def test_labels_regions_and_the_ignored_number_are_read() -> None:
    about = {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}}
    labels = read_labels(about, Path("dataset.json"))
    assert labels.classes == (Label("whole", (1, 2)), Label("core", (2,)))
    targets, known = labels.targets(np.array([[[-1, 0, 1, 2, 3]]]))
    assert targets[:, 0, 0].tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 0]]
    assert known[0, 0, 0].tolist() == [0, 1, 1, 1, 0]
    with pytest.raises(DataError, match=r"dataset\.json names no class besides the background"):
        read_labels({"labels": {"background": 0}}, Path("dataset.json"))


def test_patches_are_cut_as_they_lie_and_the_outside_is_unknown(tmp_path: Path) -> None:
    image, numbers = blocks(0, (12, 16, 10))
    numbers[0] = -1
    write_case(tmp_path, "a", image, numbers)
    case = read_case(tmp_path, "a", TWO, seed=0)
    drawn = draw_patches(case, TWO, size=(8, 8, 16), count=6, rng=np.random.default_rng(0))
    assert drawn.images.shape[1:] == (1, 8, 8, 16)
    assert drawn.targets.shape == (len(drawn.images), 2, 8, 8, 16)
    assert 4 <= len(drawn.images) <= 6
    assert drawn.known[..., 10:].sum() == 0, "the case is 10 voxels wide"
    assert torch.equal(drawn.images[..., 10:], drawn.images[..., 9:10].expand(-1, -1, -1, -1, 6))
    window = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 10))
    for patch, targets, known in zip(drawn.images, drawn.targets, drawn.known, strict=True):
        equal = np.argwhere((window == patch[0, ..., :10].numpy()).all(axis=(3, 4, 5)))
        assert len(equal) == 1
        d, h, _ = equal[0]
        cut = numbers[d : d + 8, h : h + 8]
        assert np.array_equal(targets[1, ..., :10].numpy(), cut == 2)
        assert np.array_equal(known[0, ..., :10].numpy(), cut >= 0)


def test_half_of_the_patches_hold_a_rare_class(tmp_path: Path) -> None:
    image, numbers = blocks(0, (40, 40, 40))
    numbers[:] = 0
    numbers[5, 6, 7] = 1
    write_case(tmp_path, "a", image, numbers)
    case = read_case(tmp_path, "a", TWO, seed=0)
    assert [len(found) for found in case.anchors] == [1, 0]
    draws = [draw_patches(case, TWO, size=(4, 4, 4), count=1, rng=np.random.default_rng(seed)) for seed in range(200)]
    holds = torch.cat([drawn.targets[:, 0] for drawn in draws])
    share = float((holds.sum(dim=(1, 2, 3)) > 0).float().mean())
    assert share == pytest.approx(0.5, abs=0.1)
    places = {tuple(torch.nonzero(one)[0].tolist()) for one in holds if one.any()}
    assert len(places) > 30, "the voxel lies anywhere in the patch"


def test_a_case_no_larger_than_a_patch_is_one_patch(tmp_path: Path) -> None:
    write_case(tmp_path, "a", *blocks(0, (12, 16, 10)))
    case = read_case(tmp_path, "a", TWO, seed=0)
    assert len(draw_patches(case, TWO, size=(16, 16, 16), count=7, rng=np.random.default_rng(0)).images) == 1


def test_the_same_generator_draws_the_same_patches(tmp_path: Path) -> None:
    write_case(tmp_path, "a", *blocks(1))
    case = read_case(tmp_path, "a", TWO, seed=0)
    first, again, other = (
        draw_patches(case, TWO, size=(4, 4, 4), count=3, rng=np.random.default_rng(seed)).images for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_files_that_are_missing_or_do_not_fit_are_named(tmp_path: Path) -> None:
    image, numbers = blocks(0)
    write_case(tmp_path, "a", image, numbers[:, :, :8])
    with pytest.raises(DataError, match=r"\[12, 16, 10\] voxels and .*a_seg\.b2nd has \[12, 16, 8\]"):
        read_case(tmp_path, "a", TWO, seed=0)
    with pytest.raises(DataError, match=r"b\.b2nd is missing\. Preprocess"):
        read_case(tmp_path, "b", TWO, seed=0)


def test_labels_are_plain_numbers_in_json() -> None:
    labels = read_labels(json.loads('{"labels": {"background": 0, "organ": 1}}'), Path("x"))
    assert labels.classes == (Label("organ", (1,)),)
