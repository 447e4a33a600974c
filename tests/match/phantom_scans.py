"""Raw data sets of phantoms for tests of matching: one subject stored in several ways, others beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from nnssl.demo.phantoms import make_phantom

ORIGIN_MM = (-120.0, 35.0, 410.0)


def phantom(seed: int, *, spacing_mm: float = 6.0) -> Any:
    """A SimpleITK image along the axes of LPS, not at the origin."""
    made = make_phantom(seed, spacing_mm=spacing_mm)
    image = SimpleITK.GetImageFromArray(made.image)
    image.SetSpacing([spacing_mm] * 3)
    image.SetOrigin(ORIGIN_MM)
    return image


def flipped(image: Any) -> Any:
    """Stored from left to right and from back to front: direction (-1, -1, 1)."""
    return SimpleITK.Flip(image, [True, True, False])


def permuted(image: Any) -> Any:
    """Stored as coronal slices from head to feet."""
    return SimpleITK.Flip(SimpleITK.PermuteAxes(image, [0, 2, 1]), [False, True, False])


def resampled(image: Any) -> Any:
    """Slices of another thickness, voxels elsewhere."""
    spacing = [5.0, 5.5, 7.0]
    size = [int(n * s / t) + 2 for n, s, t in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
    origin = [x - 2.3 for x in image.GetOrigin()]
    identity = SimpleITK.Transform(3, SimpleITK.sitkIdentity)
    direction = image.GetDirection()
    return SimpleITK.Resample(image, size, identity, SimpleITK.sitkLinear, origin, spacing, direction, -1000)


def transformed(image: Any, linear: Any, shift_mm: Any) -> Any:
    """The anatomy moved by p -> centre + linear (p - centre) + shift: what was at p lies there."""
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    inverse = SimpleITK.AffineTransform(3)
    inverse.SetCenter(centre)
    inverse.SetMatrix(np.linalg.inv(linear).ravel().tolist())
    inverse.SetTranslation((-np.linalg.inv(linear) @ np.asarray(shift_mm)).tolist())
    return SimpleITK.Resample(image, image, inverse, SimpleITK.sitkLinear, -1000)


def write_dataset(raw: Path, images: Mapping[str, Any], name: str = "Dataset745_Phantoms") -> str:
    """Write a raw data set; its name."""
    folder = raw / name / "imagesTr"
    folder.mkdir(parents=True, exist_ok=True)
    for case, image in images.items():
        SimpleITK.WriteImage(image, str(folder / f"{case}_0000.nii.gz"))
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 1}
    (folder.parent / "dataset.json").write_text(json.dumps(about))
    return name
