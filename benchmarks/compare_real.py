"""From scratch against pretrained on real scans, from raw files to the report of nnssl_compare.

    python benchmarks/compare_real.py ../shared/data/Task04_Hippocampus --out OUT [-j 2]
        [--trainers Vox2VecTrainer MAETrainer] [--labels 1 3 5 10 all] [--replicates 3] [--equal_compute]
    python benchmarks/compare_real.py ../shared/data/OpenKBP_HN --out OUT --trainers Vox2VecTrainer
        --pretrain_set epochs=20 method.values=plan --tune --labels all --set peak_lr=3e-3
    python benchmarks/compare_real.py SOURCE --out OUT --plan nnUNetPlans -device cuda [--only_prepare]

Every step is a command that a user would type. The plan is nnU-Net's own for the labelled cases, made small (4 stages,
8 to 64 features) or, with `--plan nnUNetPlans`, as it is; scans of other subjects are pretrained on. 12 subjects train,
12 others test. `--tune` compares schedules without them: 8 of the 12 train, 4 are held out. Called again, it goes on
where it was stopped. Small: one or two minutes a training on one core, and as long or longer a pretraining.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cohorts import LABELLED, UNLABELLED, Cohort, cohort_of

from nnssl.demo.small_plan import CONFIGURATION, NAME, small_plan
from nnssl.evaluate.commands import program

# Steps an epoch, and what minutes on a CPU change in the trainers' own recipes.
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


def prepare(root: Path, cohort: Cohort, trainers: Sequence[str], plan: str) -> None:
    """Both data sets, the target's plan and the one made small, the folds, everything preprocessed."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir(parents=True, exist_ok=True)
    cohort.write(root / "nnUNet_raw")
    run(root, "nnUNetv2_extract_fingerprint", "-d", 4, "-np", 1)
    run(root, "nnUNetv2_plan_experiment", "-d", 4)
    home = root / "nnUNet_preprocessed" / LABELLED
    own = json.loads((home / "nnUNetPlans.json").read_text())
    small = small_plan(own, case_voxels=cohort.case_voxels, patch_limit=cohort.patch_limit)
    (home / f"{NAME}.json").write_text(json.dumps(small))
    (home / "splits_final.json").write_text(json.dumps(cohort.folds()))
    run(root, "nnUNetv2_preprocess", "-d", 4, "-plans_name", plan, "-c", CONFIGURATION, "-np", 1)
    target = ("-target", 4, "-target_plans", plan, "--for", *trainers)
    run(root, "nnssl_plan_and_preprocess", "-d", 745, *target, "-np", 1)


def pretrain(root: Path, trainer: str, options: argparse.Namespace) -> Path:
    """The weights of one pretraining; continued if it was stopped."""
    folder = root / "nnUNet_results" / UNLABELLED / f"{trainer}__nnsslPlans__{CONFIGURATION}" / "fold_all"
    weights = folder / "checkpoint_final.pth"
    if not weights.is_file():
        again = ["--c"] if (folder / "state_latest.pth").is_file() else []
        words = (745, CONFIGURATION, "-tr", trainer, "-device", options.device, *again)
        recipe = (*SMALL, *PRETRAININGS[trainer]) if options.plan == NAME else OWN
        run(root, "nnssl_pretrain", *words, "--set", *changed(recipe, options.pretrain_set))
    return weights


def changed(settings: Sequence[str], asked: Sequence[str]) -> list[str]:
    """KEY=VALUE words, those asked for in place of the settings of the same key."""
    values = dict(word.split("=", 1) for word in (*settings, *asked))
    return [f"{key}={value}" for key, value in values.items()]


def compare(root: Path, weights: Sequence[Path], options: argparse.Namespace) -> None:
    """nnssl_compare; every fold and schedule in a folder of its own."""
    schedule = changed(SMALL_SCHEDULE if options.plan == NAME else OWN_SCHEDULE, options.set)
    name = "_".join(["tune" if options.tune else "compare", *options.set]).replace("/", "_")
    labels = ("--labels", *options.labels, "--replicates", options.replicates, "--folds", int(options.tune))
    labels += ("--equal_compute",) if options.equal_compute else ()
    place = ("-p", options.plan, "-device", options.device, "-j", options.j, "-o", root / name)
    run(root, "nnssl_compare", 4, CONFIGURATION, "-w", *weights, *labels, *place, "--set", *schedule)


def main() -> None:
    """Prepare, pretrain, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", default=Path("../shared/data/Task04_Hippocampus"))
    parser.add_argument("--out", type=Path, required=True, help="workspace and reports")
    parser.add_argument("-j", type=int, default=2, help="trainings at a time")
    known = list(PRETRAININGS)
    parser.add_argument("--trainers", nargs="+", choices=known, default=known[:2], metavar="TRAINER", help=str(known))
    parser.add_argument(
        "--pretrain_set", nargs="+", default=[], metavar="KEY=VALUE", help="change what is pretrained now"
    )
    parser.add_argument("--labels", nargs="+", default=["1", "3", "5", "10"])
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--equal_compute", action="store_true")
    parser.add_argument("--tune", action="store_true", help="on the fold that no test subject is in")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change the schedule of all arms")
    parser.add_argument("--plan", choices=(NAME, "nnUNetPlans"), default=NAME, help="made small, or nnU-Net's own")
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only_prepare", action="store_true", help="plan and preprocess; train nothing")
    options = parser.parse_args()
    root = options.out.resolve()
    if not (root / "nnUNet_preprocessed" / UNLABELLED / f"nnsslPlans_{CONFIGURATION}" / "nnssl_index.json").is_file():
        prepare(root, cohort_of(options.source), options.trainers, options.plan)
    if options.only_prepare:
        return
    compare(root, [pretrain(root, trainer, options) for trainer in options.trainers], options)


if __name__ == "__main__":
    main()
