"""Views and loading against nnU-Net's loader with its full training augmentation, on one thread, in one run.

    python benchmarks/views.py [--samples 160] [--sizes 96 128]

Both read the same synthetic cases from blosc2 files that each side wrote itself, and deliver patches of the same size.
nnU-Net delivers an image and its segmentation a sample; ours delivers one or two views. Times are milliseconds per view
delivered, of processor time (all threads of the process; wall time beside it), the two sides taking turns. What a
sample of nnU-Net's costs depends on what it draws, so means need over a hundred samples. Prints a table and one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from nnssl.data import reading
from nnssl.data.case import CaseEntry
from nnssl.data.collection import Collection
from nnssl.data.loader import make_batch
from nnssl.data.store import read_box, smallest_dtype, write_array
from nnssl.needs import Needs
from nnssl.views import geometry
from nnssl.views.intensity import BrightnessAdd, BrightnessMultiply, Contrast, Gamma, GaussianBlur, GaussianNoise
from nnssl.views.spec import Geometry, IntegerCrop, Intensity, Source, ViewGroup, ViewSpec

SHAPE = (176, 256, 256)
CASES = 3
MARK_SPEED, MARK_WASTE = 5.0, 1.3
FLIP = (0.5, 0.5, 0.5)

# nnU-Net's own chances and ranges, without its simulation of low resolution, which has no counterpart here.
NNUNET_OPS = Intensity(
    ops=(
        GaussianNoise((0.0, 0.1), probability=0.1),
        GaussianBlur((0.5, 1.0), probability=0.2, channel_probability=0.5, per_axis=True),
        BrightnessMultiply((0.75, 1.25), probability=0.15),
        Contrast((0.75, 1.25), probability=0.15),
        Gamma((0.7, 1.5), probability=0.4),
    )
)
# DeSD's table: every operation nearly always on.
DESD_OPS = Intensity(
    ops=(
        GaussianNoise((0.0, 0.1)),
        GaussianBlur((0.1, 2.0), probability=0.8, channel_probability=0.8),
        BrightnessMultiply((0.75, 1.25), probability=0.8),
        BrightnessAdd(0.4, probability=0.8, channel_probability=0.8),
        Contrast((0.75, 1.25)),
        Gamma((0.7, 1.5), probability=0.8),
    )
)


def specs(side: int) -> dict[str, ViewSpec]:
    """The view specifications to time, for views of side^3."""
    size, whole = (side,) * 3, ((1000, 1000),) * 3
    parent = ((round(1.4 * side), round(1.8 * side)),) * 3
    like_nnunet = Geometry(
        scale=(0.7, 1.4), scale_probability=0.2, rotation_deg=30, rotation_probability=0.2, flip=FLIP
    )
    zoom = Geometry(scale=(0.8, 1.2), flip=FLIP)
    return {
        "one view, nnU-Net's chances": _spec(
            whole, ViewGroup(name="v", size=size, geometry=like_nnunet, intensity=NNUNET_OPS)
        ),
        "two views, as DeSD": _spec(parent, ViewGroup(name="v", size=size, count=2, geometry=zoom, intensity=DESD_OPS)),
        "one view, crop and flip": _spec(whole, ViewGroup(name="v", size=size, geometry=IntegerCrop(flip=FLIP))),
    }


def _spec(size: Any, group: ViewGroup) -> ViewSpec:
    return ViewSpec(sources=(Source(size=size),), groups=(group,))


def make_data(root: Path, side: int) -> Collection:
    """Cases of smooth texture in both formats: ours in root/ours, nnU-Net's in root/theirs."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    ours, theirs = root / "ours", root / "theirs"
    ours.mkdir()
    theirs.mkdir()
    patch, entries = (side,) * 3, []
    for number in range(CASES):
        rng = np.random.default_rng(number)
        image = ndimage.gaussian_filter(rng.standard_normal(SHAPE).astype(np.float32), 2) * 20
        image += rng.standard_normal(SHAPE).astype(np.float32) * 0.1
        organ = (ndimage.gaussian_filter(rng.standard_normal(SHAPE).astype(np.float32), 8) > 0.005).astype(np.int8)
        voxels = np.argwhere(organ)[:: max(int(organ.sum()) // 10000, 1)]
        located = np.concatenate([np.zeros((len(voxels), 1), int), voxels], 1)
        properties = {"class_locations": {1: located}}
        blocks, chunks = comp_blosc2_params((1, *SHAPE), patch, 4)
        segment_blocks, segment_chunks = comp_blosc2_params((1, *SHAPE), patch, 1)
        nnUNetDatasetBlosc2.save_case(
            image[None], organ[None], properties, str(theirs / f"c{number}"),
            chunks=chunks, blocks=blocks, chunks_seg=segment_chunks, blocks_seg=segment_blocks,
        )  # fmt: skip
        stored = smallest_dtype(image[None])
        write_array(ours / f"c{number}.b2nd", stored, patch)
        entries.append(
            CaseEntry(
                case_id=f"c{number}", dataset="Dataset001_Bench", folder=ours, file=f"c{number}.b2nd", shape=SHAPE,
                channels=1, dtype=str(stored.dtype), spacing_mm=(1.0, 1.0, 1.0),
                to_world=tuple(tuple(float(i == j) for j in range(4)) for i in range(4)),
                subject=f"c{number}", modality=("ct",),
            )
        )  # fmt: skip
    return Collection(training=tuple(entries), held_out=tuple(entries))


def nnunet_loader(folder: Path, side: int) -> Any:
    """nnU-Net's loader as its trainer builds it for a cubic patch."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    patch, angle = (side,) * 3, (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)
    transforms = nnUNetTrainer.get_training_transforms(
        patch, angle, [[1 / 2**level] * 3 for level in range(5)], (0, 1, 2), False, use_mask_for_norm=[False]
    )
    labels = LabelManager({"background": 0, "organ": 1}, None)
    initial = get_patch_size(patch, angle, angle, angle, (0.85, 1.25))
    data = nnUNetDatasetBlosc2(str(folder))
    return nnUNetDataLoader(data, 1, initial, patch, labels, oversample_foreground_percent=0.33, transforms=transforms)


def check_equal(data: Collection, root: Path, side: int) -> None:
    """Our crop equals the voxels that nnU-Net stored, and our resampling equals scipy's linear interpolation.

    Raises:
        SystemExit: they differ, so that timing them would mean nothing.
    """
    crop = make_batch(data, specs(side)["one view, crop and flip"], Needs(), [0], seed=0)
    zoom = make_batch(data, specs(side)["two views, as DeSD"], Needs(), [0], seed=0)
    turn = Geometry(scale=(1.3, 1.3), rotation_deg=20)
    plain = _spec(((1000, 1000),) * 3, ViewGroup(name="v", size=(side,) * 3, geometry=turn))
    turned = make_batch(data, plain, Needs(), [0], seed=0)
    for batch, tolerance in ((crop, 5e-3), (turned, 2e-2)):
        view, case = batch.views["v"], batch.sources["case"].case_ids[0]
        stored = read_box(root / "theirs" / f"{case}.b2nd", (0, 0, 0), SHAPE)[0]
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij")).reshape(3, -1)
        points = (view.to_source[0, 0].numpy() @ np.concatenate([grid, np.ones_like(grid[:1])]))[:3]
        want = ndimage.map_coordinates(stored, points, order=1, mode="nearest").reshape((side,) * 3)
        error = float(np.abs(view.image[0, 0, 0].numpy() - want)[view.valid[0, 0, 0].numpy()].max())
        if error > tolerance * float(stored.std()):
            raise SystemExit(f"views differ from the stored voxels by {error}")
    if not bool(torch.isfinite(zoom.views["v"].image).all()):
        raise SystemExit("views are not finite")


@contextmanager
def counting() -> Iterator[dict[str, float]]:
    """Counts voxels resampled (along one axis as a third, in a plane as two thirds, in space as one) and read."""
    counts = {"resampled": 0.0, "read": 0.0}
    real = (geometry._resample_axis, geometry._plane, geometry.trilinear, reading.read_box)

    def counted(function: Callable[..., Any], kind: str, weight: float) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            made = function(*args)
            counts[kind] += weight * (made.numel() if isinstance(made, torch.Tensor) else made.size)
            return made

        return call

    geometry._resample_axis, geometry._plane, geometry.trilinear = (
        counted(real[0], "resampled", 1 / 3), counted(real[1], "resampled", 2 / 3), counted(real[2], "resampled", 1.0)
    )  # fmt: skip
    reading.read_box = counted(real[3], "read", 1.0)
    try:
        yield counts
    finally:
        geometry._resample_axis, geometry._plane, geometry.trilinear, reading.read_box = real


def timed(function: Callable[[], Any]) -> npt.NDArray[np.float64]:
    """Milliseconds of one call: processor time and wall time."""
    started = time.process_time(), time.perf_counter()
    function()
    return np.subtract((time.process_time(), time.perf_counter()), started) * 1e3


def measure(side: int, samples: int) -> list[dict[str, Any]]:
    """Time all rows for one patch size."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), side)
        check_equal(data, Path(folder), side)
        loader = nnunet_loader(Path(folder) / "theirs", side)
        todo = specs(side)
        times: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in (*todo, "nnU-Net, full augmentation")}
        for warm in todo.values():
            make_batch(data, warm, Needs(), [0], seed=0)
        next(loader)
        np.random.seed(0)
        torch.manual_seed(0)
        for key in range(samples):
            times["nnU-Net, full augmentation"].append(timed(lambda: next(loader)))
            for name, spec in todo.items():
                views = spec.groups[0].count
                call = lambda spec=spec, key=key: make_batch(data, spec, Needs(), [key], seed=1)  # noqa: E731
                times[name].append(timed(call) / views)
        rows = [_row(side, name, times[name], times["nnU-Net, full augmentation"]) for name in times]
        for row in rows:
            spec = todo.get(row["row"])
            if spec is not None:
                with counting() as counts:
                    for key in range(samples):
                        make_batch(data, spec, Needs(), [key], seed=1)
                kept = samples * spec.groups[0].count * side**3
                row |= {"resampled_per_kept": counts["resampled"] / kept, "read_per_kept": counts["read"] / kept}
        return rows


def _row(
    side: int, name: str, taken: list[npt.NDArray[np.float64]], peer: list[npt.NDArray[np.float64]]
) -> dict[str, Any]:
    processor, wall = np.mean(taken, axis=0).tolist()
    peer_processor, peer_wall = np.mean(peer, axis=0).tolist()
    return {
        "side": side, "row": name, "ms_per_view": processor, "wall_ms_per_view": wall,
        "ns_per_voxel": processor * 1e6 / side**3, "times_faster": peer_processor / processor,
        "times_faster_wall": peer_wall / wall,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples",
        type=int,
        default=160,
        help="samples timed for each row; nnU-Net's own take 20 to 400 ms, by what it draws",
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128], help="sides of the cubic patch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for side in options.sizes for row in measure(side, options.samples)]
    print("patch  row                           ms/view  wall ms  ns/voxel  faster  resampled/kept  read/kept")
    for row in rows:
        waste = f"{row['resampled_per_kept']:14.2f}  {row['read_per_kept']:9.2f}" if "read_per_kept" in row else ""
        print(
            f"{row['side']:>5}  {row['row']:<28} {row['ms_per_view']:8.1f} {row['wall_ms_per_view']:8.1f} "
            f"{row['ns_per_voxel']:9.1f} {row['times_faster']:6.1f}x  {waste}"
        )
    print(f"marks: {MARK_SPEED}x faster, {MARK_WASTE} voxels resampled per voxel kept")
    print(json.dumps({"benchmark": "views", "machine": platform.processor() or platform.machine(), "rows": rows}))


if __name__ == "__main__":
    main()
