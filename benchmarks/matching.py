"""Do matched points land in the right organ? Every matcher on labelled head-neck CT, against chance and outlines.

    python benchmarks/matching.py ../shared/data/OpenKBP_HN [--steps 400] [--seeds 0 1 2] [--cases 8] [-o FOLDER]

Pretrains AnatEmbed on the unlabelled scans with a small plan and matches random points of every organ of the labelled
ones to the same organ of the others. A hit is a match inside that organ; `near` counts matches within 10 mm of it. No
answer (registration may refuse a pair) is no hit. Chance is a random point of the other body. Prints a table and a JSON
line a row. Some minutes a run on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from head_neck import UNLABELLED, make_raw, prepare, run
from scipy import ndimage

from nnssl.cli.pretrain import main as pretrain
from nnssl.engine.randomness import numpy_generator
from nnssl.match.cases import MatchCase, dataset_cases
from nnssl.match.choose import make_matcher
from nnssl.match.matcher import Matched, Matcher, cycle_error_mm
from nnssl.match.table import TableSettings, body_points
from nnssl.paths import folders
from nnssl.planning.reading import read_image

ORGANS = {1: "brainstem", 2: "spinal cord", 3: "right parotid", 4: "left parotid", 5: "mandible"}
LABELLED = "Dataset746_HeadNeckLabelled"
WIDTH = 32  # of the embeddings
POINTS, NEAR_MM = 20, 10.0  # points an organ and pair


@dataclass(frozen=True)
class Labels:
    """The organs of one case.

    Attributes:
        values: (D, H, W).
        to_world: (4, 4) from voxel to mm.
        far_mm: {organ: (D, H, W) distance to it in mm}.
    """

    values: npt.NDArray[np.int64]
    to_world: npt.NDArray[np.float64]
    far_mm: Mapping[int, npt.NDArray[np.float64]]

    def points(self, organ: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """(POINTS, 3) mm of random voxels of an organ."""
        voxels = np.argwhere(self.values == organ)
        chosen = voxels[rng.integers(len(voxels), size=POINTS)]
        return np.asarray(chosen @ self.to_world[:3, :3].T + self.to_world[:3, 3])

    def distances(self, organ: int, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(P,) mm to the organ from the nearest voxel; what lies outside the scan is infinitely far."""
        homogeneous = np.column_stack([points_mm, np.ones(len(points_mm))])
        index = np.rint(np.linalg.solve(self.to_world, homogeneous.T).T[:, :3]).astype(int)
        inside = ((index >= 0) & (index < self.values.shape)).all(axis=1)
        index = np.clip(index, 0, np.array(self.values.shape) - 1)
        return np.where(inside, self.far_mm[organ][tuple(index.T)], np.inf)


class ChanceMatcher(Matcher):
    """A random point of the other body."""

    name = "chance"

    def match(self, case_a: str, points_mm: npt.NDArray[np.float64], case_b: str) -> Matched:
        """By lot, the same for the same question."""
        key = int(abs(points_mm[0]).sum() * 1000)
        settings = TableSettings(points=len(points_mm), seed=key)
        return Matched(
            body_points(self.case(case_b), settings), np.zeros(len(points_mm)), np.ones(len(points_mm), bool)
        )

    def fingerprint(self) -> str:
        """There is nothing to change."""
        return "1"


def prepare_both(source: Path, workspace: Path, cases: int) -> list[str]:
    """Both data sets, the unlabelled one preprocessed with a small plan; names of the labelled cases used."""
    prepare(source, workspace, trainers=["AnatEmbedTrainer"])
    used = sorted(file.name.removesuffix(".nii.gz") for file in (source / "labelsTr").iterdir())[:cases]
    make_raw(workspace / "nnUNet_raw" / LABELLED, (source / "imagesTr" / f"{case}_0000.nii.gz" for case in used))
    return used


def train(steps: int, seed: int) -> Path:
    """AnatEmbed for so many steps of four views; the weights."""
    epochs = 5
    settings = [f"epochs={epochs}", f"steps_per_epoch={steps // epochs}", f"seed={seed}", "optimizer.warmup_epochs=0.5"]
    settings += [f"method.width={WIDTH}", "save_every_minutes=60"]  # 128 channels are most of a small network's time
    run(
        pretrain,
        [
            "745",
            "3d_fullres",
            "-tr",
            "AnatEmbedTrainer",
            "-device",
            "cpu",
            "--name",
            f"s{seed}_{steps}",
            "--set",
            *settings,
        ],
    )
    results = folders().results / UNLABELLED / "AnatEmbedTrainer__nnsslPlans__3d_fullres"
    return results / f"fold_all--s{seed}_{steps}" / "checkpoint_final.pth"


def read_labels(source: Path, case: str, reader: str) -> Labels:
    """The organs of a case."""
    image = read_image([source / "labelsTr" / f"{case}.nii.gz"], reader)
    values = np.rint(image.data[0]).astype(np.int64)
    organs = [organ for organ in ORGANS if (values == organ).any()]
    far = {organ: ndimage.distance_transform_edt(values != organ, sampling=image.spacing_mm) for organ in organs}
    return Labels(values, image.to_world, far)


def measure(matcher: Matcher, cases: Sequence[MatchCase], labels: Mapping[str, Labels]) -> dict[str, Any]:
    """Hit rates by organ over all ordered pairs of cases."""
    started = time.perf_counter()
    matcher.prepare(cases)
    hits: dict[int, list[float]] = {organ: [] for organ in ORGANS}
    near: list[float] = []
    cycles: list[float] = []
    answered: list[float] = []
    for a in labels:
        for b in labels:
            for organ in ORGANS:
                if a == b or organ not in labels[a].far_mm or organ not in labels[b].far_mm:
                    continue
                points = labels[a].points(organ, numpy_generator(0, organ, a, b))
                there = matcher.match(a, points, b)
                far = np.where(there.valid, labels[b].distances(organ, there.points_mm), np.inf)
                hits[organ] += (far == 0).tolist()
                near += (far <= NEAR_MM).tolist()
                answered += there.valid.tolist()
                cycles += cycle_error_mm(matcher, a, points, b, there)[there.valid].tolist()
    rates = {ORGANS[organ]: float(np.mean(found)) for organ, found in hits.items() if found}
    return {
        **rates,
        "mean": float(np.mean(list(rates.values()))),
        "near": float(np.mean(near)),
        "answered": float(np.mean(answered)),
        "cycle_mm": float(np.median(cycles)),
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Train, match, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=Path("../shared/data/OpenKBP_HN"))
    parser.add_argument("--steps", type=int, nargs="+", default=[400])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cases", type=int, default=8, help="labelled ones used")
    parser.add_argument("-o", dest="output", type=Path, help="an empty folder to work in, which is kept")
    arguments = parser.parse_args()
    if not arguments.source.is_dir():
        sys.exit(f"No scans at {arguments.source}; give a folder with imagesUn, imagesTr and labelsTr.")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        workspace = arguments.output or Path(temporary)
        used = prepare_both(arguments.source, workspace, arguments.cases)
        weights = {
            f"sam, {steps} steps, seed {seed}": train(steps, seed)
            for steps in arguments.steps
            for seed in arguments.seeds
        }
        cases = dataset_cases(LABELLED, folders(), used)
        labels = {case.case_id: read_labels(arguments.source, case.case_id, case.reader) for case in cases}
        print(f"| matcher | {' | '.join(ORGANS.values())} | mean | within {NEAR_MM:g} mm | answered | cycle, mm | s |")
        print("|---|" + "---|" * (len(ORGANS) + 5))
        rows = {"chance": ChanceMatcher(), **{name: make_matcher(name) for name in ("body", "affine")}}
        lines = []
        for name in [*rows, *weights]:
            found = measure(rows[name] if name in rows else make_matcher("sam", weights[name]), cases, labels)
            shares = " | ".join(
                f"{found.get(organ, float('nan')):.2f}" for organ in [*ORGANS.values(), "mean", "near", "answered"]
            )
            print(f"| {name} | {shares} | {found['cycle_mm']:.0f} | {found['seconds']:.0f} |", flush=True)
            lines.append(json.dumps({"row": name, "cases": len(cases)} | found))
        print("\n".join(lines))


if __name__ == "__main__":
    main()
