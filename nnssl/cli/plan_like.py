"""`nnssl_plan_like`: a plan for a labelled data set that pretrained weights fit."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnssl.cli._common import apply_workspace, check_plans_name, parser, run
from nnssl.errors import PlanError, UsageError

if TYPE_CHECKING:
    from nnssl.export.read import Weights
    from nnssl.export.target import Target
    from nnssl.paths import Folders
    from nnssl.planning.plan_like import Keep, LikePlan

PROG = "nnssl_plan_like"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    made = parser(
        PROG,
        "Writes a plan for a labelled data set whose architecture is that of pretrained weights, and prints the stock "
        "nnU-Net commands that preprocess and train with it. Spacing, normalisation and patch are those of the "
        "pretraining unless kept.",
        examples=(
            "nnssl_plan_like checkpoint_final.pth -d 4",
            "nnssl_plan_like checkpoint_final.pth -d 4 --keep_spacing",
            "nnssl_plan_like checkpoint_final.pth -d 4 -p nnUNetResEncUNetMPlans --keep_patch",
        ),
    )
    made.add_argument("weights", metavar="CKPT", help="checkpoint_final.pth or pretrained_latest.pth of nnssl_pretrain")
    made.add_argument("-d", dest="dataset", required=True, metavar="ID", help="labelled data set: number or full name")
    made.add_argument("--keep_spacing", action="store_true", help="the data set's own voxel size")
    made.add_argument("--keep_normalization", action="store_true", help="the data set's own normalisation")
    made.add_argument("--keep_patch", action="store_true", help="the data set's own patch size, made legal")
    made.add_argument(
        "-p",
        dest="base",
        metavar="PLANS",
        help="plans file of the data set that says what its own choices are (else nnU-Net's planner is asked)",
    )
    made.add_argument("-overwrite_plans_name", dest="name", metavar="NAME", help="name of the plan that is written")
    made.add_argument(
        "-np",
        dest="processes",
        type=int,
        default=2,
        metavar="N",
        help="processes for a missing fingerprint (default 2)",
    )
    arguments = made.parse_args(argv)
    return run(lambda: _plan(arguments), prog=PROG)


def _plan(arguments: argparse.Namespace) -> None:
    if arguments.processes < 1:
        raise UsageError(f"-np must be at least 1, not {arguments.processes}.")
    apply_workspace(arguments)
    from nnssl.export.other import for_unet
    from nnssl.export.read import read_weights
    from nnssl.export.target import check_fit, read_target
    from nnssl.paths import dataset, folders
    from nnssl.planning.plan_like import CONFIGURATION, Keep, default_name

    where = folders()
    target = read_target(dataset(arguments.dataset, where=where), where)
    weights = for_unet(read_weights(arguments.weights))
    _check_channels(weights, target)
    keep = Keep(spacing=arguments.keep_spacing, normalization=arguments.keep_normalization, patch=arguments.keep_patch)
    name = default_name(weights.plans, keep) if arguments.name is None else arguments.name
    check_plans_name(name)
    like = _merge(weights, target, where, keep, name, arguments)
    check_fit(weights.path, like.plans, CONFIGURATION, target)
    file = where.preprocessed / target.name / f"{name}.json"
    _write(like.plans, file)
    _tell(like, file, arguments)


def _merge(
    weights: Weights, target: Target, where: Folders, keep: Keep, name: str, arguments: argparse.Namespace
) -> LikePlan:
    from nnssl.export.target import OwnPlan, ensure_fingerprint, own_plan, read_own_plan
    from nnssl.planning.plan_like import plan_like

    print(f"Asking nnU-Net's planner about {target.name} ...", flush=True)
    ensure_fingerprint(target, where, processes=arguments.processes)
    own: OwnPlan
    if arguments.base is not None:
        own = read_own_plan(target, where, arguments.base)
    else:
        spacing = None if keep.spacing else weights.configuration["spacing"]
        own = own_plan(target, planner=str(weights.plans.get("experiment_planner_used")), spacing_mm=spacing)
    return plan_like(
        weights.plans,
        own.plans,
        name=name,
        keep=keep,
        natural_spacing_mm=own.natural_spacing_mm,
        cases=int(target.dataset_json["numTraining"]),
    )


def _check_channels(weights: Weights, target: Target) -> None:
    names = target.channel_names
    if len(names) != weights.channels:
        learned = weights.provenance.get("channel_names", {})
        known = f" ({', '.join(str(name) for name in learned.values())})" if learned else ""
        raise PlanError(
            f"The weights of {weights.path} take {weights.channels} input channel(s){known}, {target.name} has "
            f"{len(names)} ({', '.join(names)}). Pretrain on scans with the same channels."
        )


def _write(plans: dict[str, Any], file: Path) -> None:
    """Write the plans file; an existing one with other content is never replaced: preprocessed cases depend on it."""
    from nnssl.atomic import whole_file

    if file.is_file() and json.loads(file.read_text()) != json.loads(json.dumps(plans)):
        raise PlanError(
            f"{file} exists and differs from the plan for these weights. Remove it (and its preprocessed folder), or "
            f"choose another name with -overwrite_plans_name."
        )
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(plans, indent=4))


def _tell(like: LikePlan, file: Path, arguments: argparse.Namespace) -> None:
    from nnssl.paths import VARIABLES, folders
    from nnssl.planning.plan_like import CONFIGURATION

    print(f"\nWrote {file}")
    width = max(len(choice.what) for choice in like.choices)
    for choice in like.choices:
        why = f" ({choice.why})" if choice.why else ""
        print(f"  {choice.what:<{width}}  {choice.value}  from {choice.side}{why}")
    for warning in like.warnings:
        print(f"Note: {warning}", file=sys.stderr)
    print("\nnnU-Net's own loader takes these weights for this plan. Go on with stock nnU-Net:")
    if arguments.workspace is not None:
        where = folders()
        for variable, folder in zip(VARIABLES, (where.raw, where.preprocessed, where.results), strict=True):
            print(f"  export {variable}={shlex.quote(str(folder))}")
    weights = shlex.quote(str(Path(arguments.weights).resolve()))
    data, plans = shlex.quote(arguments.dataset), shlex.quote(file.stem)
    print(f"  nnUNetv2_preprocess -d {data} -plans_name {plans} -c {CONFIGURATION}")
    print(f"  nnUNetv2_train {data} {CONFIGURATION} 0 -p {plans} -pretrained_weights {weights}")


if __name__ == "__main__":
    sys.exit(main())
