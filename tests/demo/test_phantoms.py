"""Phantoms: the same seed is the same subject, seeds differ, and the anatomy is where a torso has it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from nnssl.demo.phantoms import LABELS, Phantom, make_phantom


def centre(phantom: Phantom, organ: str) -> npt.NDArray[np.float64]:
    """z, y, x of an organ's centre in voxels."""
    return np.asarray(np.argwhere(phantom.labels == LABELS[organ]).mean(axis=0), np.float64)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(seed, spacing_mm=6.0) for seed in range(6)]


def test_the_same_seed_gives_the_same_bytes(phantoms: list[Phantom]) -> None:
    again = make_phantom(3, spacing_mm=6.0)
    assert again.image.tobytes() == phantoms[3].image.tobytes()
    assert again.labels.tobytes() == phantoms[3].labels.tobytes()


def test_subjects_differ_in_shape_of_organs_and_in_contrast(phantoms: list[Phantom]) -> None:
    volumes = [int((phantom.labels == LABELS["liver"]).sum()) for phantom in phantoms]
    kidneys = [float(phantom.image[phantom.labels == LABELS["left_kidney"]].mean()) for phantom in phantoms]
    assert len(set(volumes)) == len(phantoms)
    assert max(kidneys) - min(kidneys) > 40  # HU: from a native to an arterial scan


def test_every_subject_has_every_organ_in_plausible_size(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        for organ, label in LABELS.items():
            assert int((phantom.labels == label).sum()) > 80, organ
        assert (phantom.labels > 0).mean() < 0.25


def test_left_and_right_are_those_of_the_patient(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        middle = centre(phantom, "spine")[2]
        assert centre(phantom, "right_kidney")[2] < middle < centre(phantom, "left_kidney")[2]  # x grows to the left
        assert centre(phantom, "liver")[2] < middle
        assert centre(phantom, "spine")[1] > centre(phantom, "liver")[1]  # y grows to the back


def test_values_are_hu_with_air_fat_muscle_and_bone(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        assert phantom.image.dtype == np.int16
        assert phantom.image.min() >= -1024
        assert np.median(phantom.image[0, 0]) == pytest.approx(-1000, abs=40)
        share_bone = float((phantom.image > 200).mean())
        assert 0.002 < share_bone < 0.1


def test_the_kidneys_differ_by_side_alone(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        # both are drawn at one HU; texture of a few large voxels and the fat around leave some difference
        right, left = (
            np.median(phantom.image[phantom.labels == LABELS[f"{side}_kidney"]]) for side in ("right", "left")
        )
        assert right == pytest.approx(left, abs=30)


def test_the_spacing_changes_the_grid_and_not_the_extent() -> None:
    fine, coarse = make_phantom(1, spacing_mm=4.0), make_phantom(1, spacing_mm=8.0)
    first, second = (np.array(p.image.shape) * p.spacing_mm[0] for p in (fine, coarse))
    assert np.allclose(first, second, atol=8.0)
