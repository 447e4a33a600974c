"""The fixed probe set: boxes of held-out cases, two views of each, and voxels that both views see.

Everything about it is a function of the seed and the data, so it is not saved with a run but made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnssl.blocks.sampling import transform_points
from nnssl.data.collection import Collection
from nnssl.data.loader import case_order, make_batch
from nnssl.engine.randomness import permutation
from nnssl.errors import DataError
from nnssl.method import Batch, DataInfo, PlanInfo
from nnssl.needs import Needs
from nnssl.views.intensity import Gamma
from nnssl.views.spec import Geometry, Intensity, Size, Source, ViewGroup, ViewSpec

GROUP = "probe"
BOXES = 32
LARGEST_VIEW = 64  # voxels a side: a view must stay cheap also where the plan's patch is large
ZOOM = (0.8, 1.25)
ROTATION_DEG = 15.0
GAMMA = (0.7, 1.5)  # nnU-Net's own range
ROOM = 1.5  # side of the source box over that of a view: the two views differ in place too
MIN_OVERLAP = 0.3  # of a view's volume
MIN_FOREGROUND = 0.2  # share of a view's voxels that are not air
CANDIDATES = 4  # boxes looked at for each one wanted, at most
POINTS = 512  # voxels a box whose match is sought
HIT_VOXELS = 3.0  # a match within so many voxels is a hit
AIR_SHARE = 0.1  # of all voxels: only so common a value is taken for air
AIR_WIDTH = 0.05  # of the range of values: what is that close to the value of air is air too
AIR_BINS = 256

MakeBatch = Callable[[Tensor], Batch]
CaseOf = Callable[[int], tuple[str, Size]]


@dataclass(frozen=True, kw_only=True)
class Box:
    """One box of the probe set; all tensors on the CPU.

    Attributes:
        key: the sample key it was drawn with.
        case_id: its case, with its data set, because names repeat across data sets.
        images: (2, C, D, H, W) two views.
        points: (2, P, 3) voxel indices of the same P places in both views; whole numbers in the first.
        points_mm: (P, 3) those places in mm.
        to_world: (2, 4, 4) float64 from voxel index of each view to mm.
        position_mm: (3,) centre of the box in mm from the centre of its case, along the axes of the patient.
    """

    key: int
    case_id: str
    images: Tensor
    points: Tensor
    points_mm: Tensor
    to_world: Tensor
    position_mm: Tensor


@dataclass(frozen=True)
class ProbeSet:
    """The boxes, and what they share.

    Attributes:
        boxes: in the order of their keys.
        radius_mm: a match closer than this is a hit: `HIT_VOXELS` by the geometric mean of the spacing.
        skipped: boxes passed over because they were mostly air.
    """

    boxes: tuple[Box, ...]
    radius_mm: float
    skipped: int


def probe_views(plan: PlanInfo, data: DataInfo) -> ViewSpec:
    """Two views of one place: rotated by up to 15 degrees, zoomed by 0.8 to 1.25, each with a gamma of its own.

    Raises:
        PlanError: the cases are too small for a view.
    """
    largest = tuple(max(LARGEST_VIEW, 2 * stride) for stride in plan.total_stride)
    wanted = tuple(min(patch, side) for patch, side in zip(plan.patch_size, largest, strict=True))
    size = plan.fit_view(limit=tuple(side / ZOOM[1] for side in data.shape_quantiles[10]), wanted=wanted)
    room = tuple((round(ROOM * side), round(ROOM * side)) for side in size)
    source = Source(size=(room[0], room[1], room[2]))
    group = ViewGroup(
        name=GROUP,
        count=2,
        size=size,
        geometry=Geometry(scale=ZOOM, rotation_deg=ROTATION_DEG),
        intensity=Intensity(ops=(Gamma(GAMMA),)),
        keep_clean=True,
        min_overlap=MIN_OVERLAP,
    )
    return ViewSpec(sources=(source,), groups=(group,))


def held_out_probe(collection: Collection, plan: PlanInfo, needs: Needs, *, seed: int, boxes: int = BOXES) -> ProbeSet:
    """The probe set of a run: boxes of its held-out cases.

    Args:
        collection: the run's.
        plan: the run's.
        needs: the method's; decides whether it is shown normalised or raw values.
        seed: the run's.
        boxes: how many.

    Raises:
        PlanError: the cases are too small for a view.
        DataError: a case cannot be read, or fewer than two boxes are asked for.
    """
    held_out = collection.probe()
    spec = probe_views(plan, held_out.data_info(batch_size=1, steps_per_epoch=1))
    shown = Needs(values=needs.values)
    order = case_order(held_out, shown, batch_size=1, seed=seed)

    def case_of(key: int) -> tuple[str, Size]:
        """Name and shape of the case that a key means."""
        entry = order.entry(key)
        return f"{entry.dataset}/{entry.case_id}", entry.shape

    def make(keys: Tensor) -> Batch:
        """The probe's views of some keys."""
        return make_batch(held_out, spec, shown, keys, seed=seed)

    return draw_probe_set(make, case_of=case_of, boxes=boxes, seed=seed)


def draw_probe_set(make: MakeBatch, *, case_of: CaseOf, boxes: int, seed: int) -> ProbeSet:
    """Draw boxes, pass over those that are mostly air, and choose the voxels whose matches will be sought.

    Args:
        make: batch of the views of `probe_views` for given sample keys, from held-out cases.
        case_of: name and shape, D H W voxels, of the stored case that a key means.
        boxes: how many, at least 2. Where too few candidates hold enough body, the fullest of the others fill up.
        seed: of the choice of voxels.

    Raises:
        DataError: fewer than two boxes are asked for.
    """
    if boxes < 2:
        raise DataError(f"The health probe compares boxes with each other and needs at least 2; found {boxes}.")
    full: list[tuple[Box, float]] = []
    airy: list[tuple[Box, float]] = []
    spacing = 1.0
    for start in range(0, CANDIDATES * boxes, boxes):
        batch = make(torch.arange(start, start + boxes))
        spacing = float(batch.sources[batch.views[GROUP].source].spacing_mm.double().log().mean().exp())
        for box, share in _boxes(batch, case_of, seed):
            (full if share >= MIN_FOREGROUND else airy).append((box, share))
        if len(full) >= boxes:
            break
    airy.sort(key=lambda item: (-item[1], item[0].key))
    chosen = sorted((full + airy)[:boxes], key=lambda item: item[0].key)
    return ProbeSet(tuple(box for box, _ in chosen), HIT_VOXELS * spacing, len(airy))


def air(images: Tensor, valid: Tensor) -> Tensor:
    """Which voxels are air: (N, C, D, H, W) images to (N, 1, D, H, W) bool.

    Air is whatever value is very common: the clipped minimum of CT, the 0 outside the head of masked MR. A voxel is air
    where every channel that has such a value is close to it; without such a value nothing is air.

    Args:
        images: N images, compared with each other.
        valid: (N, 1, D, H, W) bool; what is not valid is not counted.
    """
    channels = []
    for channel in range(images.shape[1]):
        values = images[:, channel : channel + 1]
        counted = values[valid]
        if counted.numel() == 0:
            continue
        low, high = counted.min(), counted.max()
        if not high > low:  # nothing but one value: nothing to see
            channels.append(torch.ones_like(valid))
            continue
        histogram = torch.histc(counted.float(), bins=AIR_BINS, min=float(low), max=float(high))
        if histogram.max() < AIR_SHARE * counted.numel():
            continue
        value = low + (histogram.argmax() + 0.5) * (high - low) / AIR_BINS
        channels.append((values - value).abs() <= AIR_WIDTH * (high - low))
    return torch.stack(channels).all(dim=0) if channels else torch.zeros_like(valid)


def _boxes(batch: Batch, case_of: CaseOf, seed: int) -> list[tuple[Box, float]]:
    """Every box of a batch, with the share of its voxels that are not air."""
    view = batch.views[GROUP]
    source = batch.sources[view.source]
    clean = view.image if view.clean is None else view.clean
    empty = air(clean.cpu().flatten(0, 1), view.valid.cpu().flatten(0, 1)).reshape(view.valid.shape)
    usable = view.valid.cpu() & ~empty
    boxes = []
    for index, key in enumerate(batch.keys.tolist()):
        to_source = view.to_source[index].cpu().double()
        to_world = source.to_world[index].cpu().double()
        points = _shared_points(usable[index, :, 0], to_source, seed=seed, key=key)
        size = torch.tensor(view.image.shape[3:], dtype=torch.float64)
        centre = transform_points(to_source[0], (size[None] - 1) / 2)[0]
        name, shape = case_of(key)
        middle = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
        box = Box(
            key=key,
            case_id=name,
            images=view.image[index].float().cpu(),
            points=points,
            points_mm=transform_points(to_world @ to_source[0], points[0]),
            to_world=to_world @ to_source,
            position_mm=to_world[:3, :3] @ (centre - middle),
        )
        boxes.append((box, float(usable[index].float().mean())))
    return boxes


def _shared_points(usable: Tensor, to_source: Tensor, *, seed: int, key: int) -> Tensor:
    """(2, P, 3) up to `POINTS` whole voxels of the first view that the second sees too, and where it sees them.

    Args:
        usable: (2, D, H, W) bool, voxels that count.
        to_source: (2, 4, 4) from view voxels to voxels of the case.
    """
    first = usable[0].nonzero().double()
    second = transform_points(torch.linalg.inv(to_source[1]) @ to_source[0], first)
    nearest = second.round().long()
    size = torch.tensor(usable.shape[1:])
    inside = ((second >= 0) & (second <= size - 1)).all(dim=1)
    nearest = nearest.clamp(min=torch.zeros_like(size), max=size - 1)
    seen = (inside & usable[1][nearest.unbind(1)]).nonzero()[:, 0]
    order = permutation(seed, torch.tensor([key]), "health points", len(seen))[0]
    chosen = seen[order[:POINTS]].sort().values
    return torch.stack((first[chosen], second[chosen]))
