"""CT-like anatomical phantoms: deformed nested organs with texture, noise and a table, labels known. numpy and scipy.

A phantom is a torso from the hips (slice 0) to the chest: fat, muscle, ribs, a spine of vertebrae and discs, lungs,
heart, liver, spleen, a pair of kidneys, stomach and bowel with gas. Every subject has its own sizes, places, smooth
deformation, contrast phase, noise and table, all drawn from one seed, so that the same seed gives the same bytes.
Bowel and stomach share the organs' brightness: a threshold does not solve the task, and the two kidneys differ by
side alone. Coordinates are mm in LPS: x to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

LABELS = {"background": 0, "liver": 1, "right_kidney": 2, "left_kidney": 3, "spine": 4}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One subject. Both arrays are (D, H, W) = (z, y, x).

    Attributes:
        image: int16, HU.
        labels: uint8, values of `LABELS`.
        spacing_mm: voxel size D H W.
    """

    image: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Organ:
    """An ellipsoid of tissue; later organs lie over earlier ones.

    Attributes:
        centre_mm: z, y, x from the centre of the torso.
        radii_mm: z, y, x.
        hu: brightness.
        label: value in the label image, 0 for none.
        texture_hu: standard deviation of the smooth texture inside.
    """

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    hu: float
    label: int = 0
    texture_hu: float = 6.0


def make_phantom(seed: int, *, spacing_mm: float = 4.0) -> Phantom:
    """The subject of a seed, about 48 x 64 x 64 voxels at 4 mm.

    Args:
        seed: names the subject; seeds of a cohort must differ.
        spacing_mm: isotropic voxel size.
    """
    rng = np.random.default_rng([745, seed])
    extent_mm = np.array([rng.uniform(168, 208), 256.0, 256.0])
    shape = tuple(int(n) for n in np.round(extent_mm / spacing_mm))
    centre = _grid_mm(shape, spacing_mm)
    deformed = centre + _deformation_mm(rng, shape, spacing_mm, amplitude_mm=rng.uniform(4, 9))
    size = rng.uniform(0.9, 1.1, 3)  # short and tall, slim and stout
    point = (deformed / size[:, None, None, None]).astype(np.float32)

    image, labels = np.full(shape, -1000.0, np.float32), np.zeros(shape, np.uint8)
    texture = _smooth_noise(rng, shape, sigma_voxels=2.0)
    contrast_hu = rng.uniform(0, 90)  # from a native scan to a late arterial phase
    body = _trunk(image, point, rng, texture)
    for organ in _organs(rng, contrast_hu):
        inside = _inside(point, organ) & body
        image[inside] = organ.hu + organ.texture_hu * texture[inside]
        labels[inside] = organ.label
    _add_table(image, centre, body, rng)
    return Phantom(image=_scan(image, rng), labels=labels, spacing_mm=(spacing_mm,) * 3)


def _grid_mm(shape: tuple[int, ...], spacing_mm: float) -> Floats:
    """(3, D, H, W) position of every voxel from the centre of the volume, in mm."""
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * spacing_mm for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], *, sigma_voxels: float) -> Floats:
    """Gaussian noise of unit variance, correlated over `sigma_voxels`."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma_voxels, mode="wrap")
    return np.asarray(noise / noise.std(), np.float32)


def _deformation_mm(
    rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: float, *, amplitude_mm: float
) -> Floats:
    """(3, D, H, W) smooth displacement; correlated over 32 mm, so that neighbouring organs move together."""
    fields = [_smooth_noise(rng, shape, sigma_voxels=32.0 / spacing_mm) for _ in range(3)]
    return np.asarray(amplitude_mm * np.stack(fields), np.float32)


def _inside(point: Floats, organ: Organ) -> npt.NDArray[np.bool_]:
    """Where the ellipsoid is: the sum over axes of ((p - c) / r)^2 is at most 1."""
    distance = np.zeros(point.shape[1:], np.float32)
    for axis in range(3):
        distance += ((point[axis] - organ.centre_mm[axis]) / organ.radii_mm[axis]) ** 2
    return np.asarray(distance <= 1.0)


def _trunk(image: Floats, point: Floats, rng: np.random.Generator, texture: Floats) -> npt.NDArray[np.bool_]:
    """Paint fat, the muscle wall, the abdominal cavity and ribs; return the body mask."""
    fat_mm = rng.uniform(6, 18)
    radii = np.hypot(point[1] / 78.0, point[2] / 108.0)  # 1 on the skin of the muscle wall
    body = radii <= 1.0 + fat_mm / 90.0
    image[body] = -100.0 + 8.0 * texture[body]
    muscle = radii <= 1.0
    image[muscle] = 55.0 + 8.0 * texture[muscle]
    cavity = radii <= 0.86
    image[cavity] = -85.0 + 20.0 * texture[cavity]  # mesenteric fat between the organs
    rib = (radii > 0.88) & (radii < 0.97) & (np.sin(point[0] * 2 * np.pi / 26.0 + 0.02 * point[1]) > 0.55)
    image[rib & (point[0] > -20)] = 420.0
    return np.asarray(body)


def _organs(rng: np.random.Generator, contrast_hu: float) -> list[Organ]:
    """The organs of one subject in painting order: bowel first, spine last."""

    def place(z: float, y: float, x: float) -> tuple[float, float, float]:
        """A centre in mm, off by some 5 mm an axis."""
        dz, dy, dx = rng.normal(0, 5, 3)
        return (z + dz, y + dy, x + dx)

    def grow(z: float, y: float, x: float) -> tuple[float, float, float]:
        """Radii in mm, larger or smaller by some 8 % an axis and at most a quarter."""
        gz, gy, gx = rng.normal(1, 0.08, 3).clip(0.8, 1.25)
        return (z * gz, y * gy, x * gx)

    def hu(value: float, share: float) -> float:
        """Mean HU of an organ that takes up `share` of the contrast agent; subjects differ by some 8 HU."""
        return float(value + share * contrast_hu + rng.normal(0, 8))

    organs = [
        Organ(centre_mm=place(78, 0, -48), radii_mm=grow(62, 52, 36), hu=-820, texture_hu=35),
        Organ(centre_mm=place(78, 0, 48), radii_mm=grow(62, 52, 34), hu=-820, texture_hu=35),
        Organ(centre_mm=place(68, -22, 12), radii_mm=grow(34, 32, 34), hu=hu(45, 0.9)),
    ]
    for _ in range(int(rng.integers(8, 15))):
        z, y, x = rng.uniform(-85, 0), rng.uniform(-52, 12), rng.uniform(-72, 72)
        organs.append(Organ(centre_mm=(z, y, x), radii_mm=grow(11, 12, 15), hu=hu(40, rng.uniform(0, 1.4))))
        if rng.uniform() < 0.3:
            organs.append(Organ(centre_mm=(z, y - 5, x), radii_mm=(6, 5, 8), hu=-900, texture_hu=20))
    kidney = hu(35, 1.5)
    organs += [
        Organ(centre_mm=place(22, -24, 42), radii_mm=grow(22, 26, 28), hu=hu(35, 0.3)),  # stomach
        Organ(centre_mm=place(30, 26, 66), radii_mm=grow(28, 22, 18), hu=hu(50, 0.7)),  # spleen
        Organ(centre_mm=place(26, -6, -46), radii_mm=grow(42, 52, 46), hu=hu(58, 0.6), label=LABELS["liver"]),
        Organ(centre_mm=place(10, -10, -2), radii_mm=grow(24, 28, 30), hu=hu(56, 0.6), label=LABELS["liver"]),
        Organ(centre_mm=place(-28, 30, -44), radii_mm=grow(34, 17, 18), hu=kidney, label=LABELS["right_kidney"]),
        Organ(centre_mm=place(-20, 32, 44), radii_mm=grow(34, 17, 18), hu=kidney, label=LABELS["left_kidney"]),
        Organ(centre_mm=(0, 28 + rng.normal(0, 3), 8), radii_mm=(400, 9, 9), hu=hu(42, 1.6)),  # aorta
    ]
    return organs + _spine(rng)


def _spine(rng: np.random.Generator) -> list[Organ]:
    """Vertebral bodies over a column of disc and arch; one label, two brightnesses."""
    y, x, pitch = 46 + rng.normal(0, 3), rng.normal(0, 4), rng.uniform(26, 34)
    column = Organ(centre_mm=(0, y, x), radii_mm=(900, 15, 17), hu=80, label=LABELS["spine"], texture_hu=10)
    arch = Organ(centre_mm=(0, y + 20, x), radii_mm=(900, 9, 11), hu=250, label=LABELS["spine"], texture_hu=60)
    canal = Organ(centre_mm=(0, y + 14, x), radii_mm=(900, 6, 7), hu=25)
    levels = np.arange(-130, 130, pitch) + rng.uniform(0, pitch)
    bodies = [
        Organ(centre_mm=(z, y, x), radii_mm=(pitch * 0.45, 15, 17), hu=260, label=LABELS["spine"], texture_hu=40)
        for z in levels
    ]
    return [column, arch, *bodies, canal]


def _add_table(image: Floats, centre: Floats, body: npt.NDArray[np.bool_], rng: np.random.Generator) -> None:
    """A thin curved plate just behind the back."""
    back_mm = centre[1][body].max() + rng.uniform(2, 8)
    sag = (centre[2] / 300.0) ** 2 * 60.0
    plate = (centre[1] + sag > back_mm) & (centre[1] + sag < back_mm + 7.0) & ~body
    image[plate] = rng.uniform(-100, 150)


def _scan(image: Floats, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """What a scanner would give: partial volume, slightly correlated noise, whole HU."""
    blurred = ndimage.gaussian_filter(image, 0.55)
    noise_hu = rng.uniform(10, 30) * _smooth_noise(rng, image.shape, sigma_voxels=0.5)
    return np.asarray(np.clip(np.round(blurred + noise_hu), -1024, 3071), np.int16)
