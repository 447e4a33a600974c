"""Affine registration of one scan to another at 4 mm, with starts at several heights. SimpleITK, one thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnssl.match.cases import STEP_MM, Points, Scout

BINS = 32
SAMPLED = 0.2  # of the voxels, at equal distances
SEED = 1
START_EVERY_MM = 60.0
LEAST_SHARED = 0.5  # of the lower body's height, that a start must bring together
HU = (-500.0, 500.0)  # CT beyond it says nothing of the place
DETERMINANT, DICE = (0.4, 2.5), 0.6  # what is outside is no registration
_MARGIN = 2  # voxels of air around the body that count too


@dataclass(frozen=True, eq=False)
class Registration:
    """How one scan lies in another.

    Attributes:
        matrix: (4, 4) from mm of the fixed scan to mm of the moving one.
        dice: overlap of the bodies where both scans reach.
        accepted: the volume change and the overlap are those of a body.
    """

    matrix: npt.NDArray[np.float64]
    dice: float
    accepted: bool


def register(fixed: Scout, moving: Scout, *, ct: bool) -> Registration:
    """Align bodies: rigidly from several heights, the best of them affinely (Mattes mutual information).

    Args:
        fixed: the scan whose points are mapped.
        moving: the scan they are mapped to.
        ct: whether values are HU.
    """
    images = [_image(scout, ct) for scout in (fixed, moving)]
    mask = _mask(fixed)
    starts = [_optimised(images, mask, _rigid(fixed, moving, offset), shrink=2) for offset in _offsets(fixed, moving)]
    best, _ = min(starts, key=lambda found: found[1])
    affine, _ = _optimised(images, mask, _as_affine(best), shrink=1)
    matrix = _matrix(affine)
    dice = _dice(fixed, moving, matrix)
    volume = float(np.linalg.det(matrix[:3, :3]))
    return Registration(matrix, dice, DETERMINANT[0] <= volume <= DETERMINANT[1] and dice >= DICE)


def moved(matrix: npt.NDArray[np.float64], points_mm: Points) -> Points:
    """(P, 3) through a (4, 4) matrix."""
    return points_mm @ matrix[:3, :3].T + matrix[:3, 3]


def _image(scout: Scout, ct: bool) -> Any:
    import SimpleITK

    low, high = HU if ct else (float(value) for value in np.percentile(scout.image, (0.5, 99.5)))
    image = SimpleITK.GetImageFromArray(np.clip(scout.image, low, max(high, low + 1e-3)).astype(np.float32))
    return _placed(image, scout)


def _mask(scout: Scout) -> Any:
    import SimpleITK

    mask = _placed(SimpleITK.GetImageFromArray(scout.body.astype(np.uint8)), scout)
    return SimpleITK.BinaryDilate(mask, [_MARGIN] * 3)


def _placed(image: Any, scout: Scout) -> Any:
    image.SetOrigin(scout.origin_mm.tolist())
    image.SetSpacing([STEP_MM] * 3)
    return image


def _offsets(fixed: Scout, moving: Scout) -> list[float]:
    """How much higher than centre on centre a start puts the moving scan, mm: 0, and more where the heights differ."""
    heights = [STEP_MM * np.count_nonzero(scout.body.any(axis=(1, 2))) for scout in (fixed, moving)]
    reach = abs(heights[0] - heights[1]) / 2 + (1 - LEAST_SHARED) * min(heights)
    steps = int(reach // START_EVERY_MM)
    return [START_EVERY_MM * step for step in range(-steps, steps + 1)]


def _rigid(fixed: Scout, moving: Scout, offset_mm: float) -> Any:
    """Centre of the body on centre of the body, as many slices of both as they share at that offset."""
    import SimpleITK

    ranges = [_heights(scout) for scout in (fixed, moving)]
    middle = [(low + high) / 2 for low, high in ranges]
    rise = middle[1] - middle[0] + offset_mm
    low = max(ranges[0][0], ranges[1][0] - rise)
    high = min(ranges[0][1], ranges[1][1] - rise)
    centres = [_centre(fixed, low, high), _centre(moving, low + rise, high + rise)]
    start = SimpleITK.Euler3DTransform()
    start.SetCenter(centres[0].tolist())
    start.SetTranslation([*(centres[1] - centres[0])[:2].tolist(), rise])
    return start


def _heights(scout: Scout) -> tuple[float, float]:
    filled = scout.origin_mm[2] + STEP_MM * np.flatnonzero(scout.body.any(axis=(1, 2)))
    return float(filled[0]), float(filled[-1])


def _centre(scout: Scout, low_mm: float, high_mm: float) -> Points:
    """Centre of the body between two heights."""
    z, y, x = np.nonzero(scout.body)
    mm = scout.origin_mm + STEP_MM * np.column_stack([x, y, z])
    inside = (mm[:, 2] >= low_mm - STEP_MM) & (mm[:, 2] <= high_mm + STEP_MM)
    centre: Points = mm[inside].mean(axis=0) if inside.any() else mm.mean(axis=0)
    return centre


def _optimised(images: list[Any], mask: Any, start: Any, *, shrink: int) -> tuple[Any, float]:
    """The transform that a gradient descent reaches, and its metric (lower is better)."""
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums over threads would differ in their last bits from run to run
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SAMPLED * shrink, SEED)  # even regular samples are jittered
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.02, numberOfIterations=100, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    levels = (4, 2) if shrink > 1 else (2, 1)
    method.SetShrinkFactorsPerLevel(list(levels))
    method.SetSmoothingSigmasPerLevel([level / 2 if level > 1 else 0.0 for level in levels])
    method.SetInitialTransform(start, inPlace=True)
    try:
        method.Execute(*images)
    except RuntimeError:  # so little in common that not one sample is left: ITK's way to say "no match"
        return start, float("inf")
    return start, float(method.GetMetricValue())


def _as_affine(rigid: Any) -> Any:
    import SimpleITK

    affine = SimpleITK.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return affine


def _matrix(affine: Any) -> npt.NDArray[np.float64]:
    linear = np.array(affine.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(affine.GetCenter()), np.array(affine.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, centre + shift - linear @ centre
    return matrix


def _dice(fixed: Scout, moving: Scout, matrix: npt.NDArray[np.float64]) -> float:
    """Dice of the bodies over the fixed grid, where the moving scan reaches."""
    z, y, x = (axis.ravel() for axis in np.indices(fixed.body.shape))
    there = moved(matrix, fixed.origin_mm + STEP_MM * np.column_stack([x, y, z]))
    seen = moving.inside(there)
    a, b = fixed.body.ravel()[seen], moving.in_body(there[seen])
    both = np.count_nonzero(a) + np.count_nonzero(b)
    return 2.0 * np.count_nonzero(a & b) / both if both else 0.0
