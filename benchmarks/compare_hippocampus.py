"""From scratch against pretrained on real hippocampus, from raw files to the report of nnssl_compare.

    python benchmarks/compare_hippocampus.py ../shared/data/Task04_Hippocampus --out compare_hippocampus [-j 2]
        [--trainers Vox2VecTrainer MAETrainer] [--labels 1 3 5 10 all] [--replicates 3] [--equal_compute]
    python benchmarks/compare_hippocampus.py ../shared/data/Task04_Hippocampus --out real_plan --plan nnUNetPlans
        -device cuda [--only_prepare]

Every step is a command that a user would type. The plan is nnU-Net's own for the 40 labelled cases, made small (4
stages, 8 to 64 features) or, with `--plan nnUNetPlans`, as it is; 119 cases of other subjects are pretrained on. 12
subjects train, the other 12 test. Called again, it goes on where it was stopped. Small: about two minutes a training on
one core, and as long or longer a pretraining.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

from nnssl.demo.small_plan import CONFIGURATION, NAME, small_plan
from nnssl.evaluate.commands import program

UNLABELLED, LABELLED = "Dataset745_HippoUn", "Dataset004_Hippocampus"
TRAINING_SUBJECTS = 12
# Steps, and what minutes on a CPU change in the trainers' own recipes.
DISTILLED = ("steps_per_epoch=30", "batch_size=16", "optimizer.lr=2e-3", "method.frozen_epochs=0")
PRETRAININGS = {
    "Vox2VecTrainer": ("steps_per_epoch=30", "method.voxels=256", "optimizer.lr=3e-3"),
    "MAETrainer": ("steps_per_epoch=50", "optimizer.lr=5e-3"),
    "AnatEmbedTrainer": ("steps_per_epoch=30", "method.width=32"),
    "AliceTrainer": (
        *("steps_per_epoch=20", "optimizer.lr=1e-3", "method.frozen_epochs=0"),
        *("method.hidden=256", "method.bottleneck=128", "method.casa_width=64"),
    ),
    "DeSDTrainer": DISTILLED,
    "CADSTrainer": DISTILLED,
    "DINO3DTrainer": (*DISTILLED, "method.local_views=2"),
}
SMALL = ("epochs=10", "batch_size=4", "optimizer.warmup_epochs=1")
SMALL_SCHEDULE = ("epochs=4", "iterations_per_epoch=50", "curve_cases=4", "threads=1")
# With nnU-Net's own plan: the recipes as they are but for their length.
OWN = ("epochs=10", "steps_per_epoch=200", "optimizer.warmup_epochs=1")
OWN_SCHEDULE = ("epochs=20", "iterations_per_epoch=50", "curve_cases=4")


def run(root: Path, command: str, *words: object) -> None:
    """Run a command in the workspace, one thread, output shown.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    folders = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**os.environ, **folders, "OMP_NUM_THREADS": "1", "nnUNet_compile": "f"}
    subprocess.run([program(command), *map(str, words)], env=environment, check=True)


def copy_cases(source: Path, folder: Path, cases: list[str], *, labelled: bool) -> None:
    """An nnU-Net data set of some of the task's cases; ids 2k-1 and 2k are the two sides of one subject."""
    parts = {"imagesTr": "_0000.nii.gz"} | ({"labelsTr": ".nii.gz"} if labelled else {})
    for part, suffix in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for case in cases:
            shutil.copy(source / part / f"{case}{suffix}", folder / part)
    about: dict[str, Any] = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0} | ({"anterior": 1, "posterior": 2} if labelled else {}),
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    if labelled:
        about["subjects"] = {case: subject(case) for case in cases}
    (folder / "dataset.json").write_text(json.dumps(about))


def subject(case: str) -> str:
    """Of hippocampus_001 and hippocampus_002: the same one."""
    return f"s{(int(case[-3:]) + 1) // 2:03d}"


def prepare(root: Path, source: Path, trainers: list[str], plan: str) -> None:
    """Both data sets, the target's plan and the one made small, one split by subject, everything preprocessed."""
    split = json.loads((source / "splits.json").read_text())
    labelled = sorted(split["fine_tune_labelled"])
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir(parents=True, exist_ok=True)
    copy_cases(source, root / "nnUNet_raw" / UNLABELLED, split["pretrain_unlabelled"], labelled=False)
    copy_cases(source, root / "nnUNet_raw" / LABELLED, labelled, labelled=True)
    run(root, "nnUNetv2_extract_fingerprint", "-d", 4, "-np", 1)
    run(root, "nnUNetv2_plan_experiment", "-d", 4)
    home = root / "nnUNet_preprocessed" / LABELLED
    (home / f"{NAME}.json").write_text(json.dumps(small_plan(json.loads((home / "nnUNetPlans.json").read_text()))))
    subjects = sorted({subject(case) for case in labelled})
    random.Random(0).shuffle(subjects)
    chosen = set(subjects[:TRAINING_SUBJECTS])
    fold = {
        "train": [case for case in labelled if subject(case) in chosen],
        "val": [case for case in labelled if subject(case) not in chosen],
    }
    (home / "splits_final.json").write_text(json.dumps([fold]))
    run(root, "nnUNetv2_preprocess", "-d", 4, "-plans_name", plan, "-c", CONFIGURATION, "-np", 1)
    target = ("-target", 4, "-target_plans", plan, "--for", *trainers)
    run(root, "nnssl_plan_and_preprocess", "-d", 745, *target, "-np", 1)


def pretrain(root: Path, trainer: str, plan: str, device: str) -> Path:
    """The weights of one pretraining; continued if it was stopped."""
    folder = root / "nnUNet_results" / UNLABELLED / f"{trainer}__nnsslPlans__{CONFIGURATION}" / "fold_all"
    weights = folder / "checkpoint_final.pth"
    if not weights.is_file():
        again = ["--c"] if (folder / "state_latest.pth").is_file() else []
        words = (745, CONFIGURATION, "-tr", trainer, "-device", device, *again)
        recipe = (*SMALL, *PRETRAININGS[trainer]) if plan == NAME else OWN
        run(root, "nnssl_pretrain", *words, "--set", *recipe)
    return weights


def main() -> None:
    """Prepare, pretrain, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=Path("../shared/data/Task04_Hippocampus"))
    parser.add_argument("--out", type=Path, required=True, help="workspace and report")
    parser.add_argument("-j", type=int, default=2, help="trainings at a time")
    known = list(PRETRAININGS)
    parser.add_argument("--trainers", nargs="+", choices=known, default=known[:2], metavar="TRAINER", help=str(known))
    parser.add_argument("--labels", nargs="+", default=["1", "3", "5", "10"])
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--equal_compute", action="store_true")
    parser.add_argument("--plan", choices=(NAME, "nnUNetPlans"), default=NAME, help="made small, or nnU-Net's own")
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only_prepare", action="store_true", help="plan and preprocess; train nothing")
    options = parser.parse_args()
    root = options.out.resolve()
    if not (root / "nnUNet_preprocessed" / UNLABELLED / f"nnsslPlans_{CONFIGURATION}" / "nnssl_index.json").is_file():
        prepare(root, options.source, options.trainers, options.plan)
    if options.only_prepare:
        return
    weights = [pretrain(root, trainer, options.plan, options.device) for trainer in options.trainers]
    labels = ("--labels", *options.labels, "--replicates", options.replicates)
    labels += ("--equal_compute",) if options.equal_compute else ()
    place = ("-p", options.plan, "-device", options.device, "-j", options.j, "-o", root / "compare")
    schedule = SMALL_SCHEDULE if options.plan == NAME else OWN_SCHEDULE
    run(root, "nnssl_compare", 4, CONFIGURATION, "-w", *weights, *labels, *place, "--set", *schedule)


if __name__ == "__main__":
    main()
