"""nnssl_plan_and_preprocess: fingerprint, plan and preprocess data sets without labels."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.cli import _common
from nnssl.errors import DataError, UsageError

if TYPE_CHECKING:
    from nnssl.needs import Match
    from nnssl.paths import Folders
    from nnssl.planning.cases import RawDataset
    from nnssl.planning.planner import Plans
    from nnssl.planning.requirements import Required

PROG = "nnssl_plan_and_preprocess"
DEFAULT_PLANS_NAME = "nnsslPlans"
_EXAMPLES = (
    f"{PROG} -d 745                                    plan and preprocess 3d_fullres",
    f"{PROG} -d 745 746 -pl nnUNetPlannerResEncM -np 8",
    f"{PROG} -d 745 -target 4                          with the plans of data set 4, so that weights fit it",
    f"{PROG} -d 745 --for Vox2VecTrainer               and what this trainer needs besides",
    f"{PROG} -d 745 --for DeSDTrainer --preset paper   with the published plan, nnsslPlansDeSDPaper",
    f"{PROG} -d 745 --for AliceTrainer --matches table.csv   with matched points of your own",
    f"{PROG} -d 745 --no_pp                            plan only, then 8 array jobs:",
    f"{PROG} -d 745 --only_pp --part $I/8              I from 1 to 8",
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = _parser().parse_args(argv)

    def body() -> int:
        """Everything that may fail in words: `_common.run` prints them."""
        _check(arguments)
        _common.apply_workspace(arguments)
        return _run(arguments)

    return _common.run(body, prog=PROG)


def _parser() -> argparse.ArgumentParser:
    parser = _common.parser(
        PROG,
        "Make the fingerprint, nnU-Net plans and preprocessed cases of data sets in nnUNet_raw, without labels. A run "
        "that was stopped goes on where it was; cases that are done are not done again.",
        examples=_EXAMPLES,
    )
    add = parser.add_argument
    add("-d", nargs="+", required=True, metavar="ID", help="data sets, by id (745) or name (Dataset745_Thorax)")
    add("-c", nargs="+", default=["3d_fullres"], metavar="CONFIG", help="3d_fullres (default), 3d_lowres")
    planning = parser.add_argument_group("planning")
    add = planning.add_argument
    add(
        "-pl", default="ExperimentPlanner", metavar="PLANNER", help="nnU-Net's planner class, e.g. nnUNetPlannerResEncM"
    )
    add("-overwrite_target_spacing", nargs=3, type=float, metavar=("Z", "Y", "X"), help="mm, instead of the median")
    add("-overwrite_plans_name", metavar="NAME", help="name of the plans file (default nnsslPlans)")
    add("-target", metavar="ID", help="take the plans of this data set, which will be fine-tuned, instead of planning")
    add("-target_plans", default="nnUNetPlans", metavar="NAME", help="which of its plans (default nnUNetPlans)")
    add("--no_pp", action="store_true", help="plan only")
    preprocessing = parser.add_argument_group("preprocessing")
    add = preprocessing.add_argument
    add("--only_pp", action="store_true", help="preprocess only, with the plans of -p as they are")
    add("-p", metavar="NAME", help="plans for --only_pp (default nnsslPlans)")
    add(
        "--for", nargs="+", dest="trainers", default=[], metavar="TRAINER", help="make what these trainers need besides"
    )
    add(
        "--preset",
        metavar="NAME",
        help="the recipe of --for that will be used; it may bring its own plan, as DeSD's paper does",
    )
    add(
        "--matches",
        metavar="CSV",
        help="your own matched points (mm in LPS), in place of those that --for would find by registration",
    )
    add("-np", type=int, default=2, metavar="N", help="cases worked on at a time (default 2)")
    add("--skip_bad", action="store_true", help="leave out cases that cannot be used and end with success")
    add(
        "--accept",
        nargs="+",
        default=[],
        metavar="REASON",
        help="use cases all the same that were refused as REASON: near_empty, label_map, ct_not_hu, duplicate",
    )
    add("--part", metavar="I/N", help="every N-th case from the I-th on, for array jobs; needs the plans file")
    add("--clean", action="store_true", help="delete what was planned and preprocessed under this name, begin anew")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Refuse combinations that cannot be meant, before anything slow is imported."""
    if "2d" in arguments.c:
        raise UsageError("nnssl pretrains 3D networks; 2d cannot be chosen. Use -c 3d_fullres or -c 3d_lowres.")
    if arguments.np < 1:
        raise UsageError(f"-np must be at least 1; it is {arguments.np}.")
    if arguments.no_pp and (arguments.only_pp or arguments.part):
        raise UsageError("--no_pp plans only; it cannot go with --only_pp or --part.")
    if arguments.p and not arguments.only_pp and not arguments.part:
        raise UsageError("-p names the plans of --only_pp. When planning, the name is given by -overwrite_plans_name.")
    if arguments.target and (arguments.overwrite_target_spacing or arguments.pl != "ExperimentPlanner"):
        raise UsageError(
            "-target takes the plans of another data set; -pl and -overwrite_target_spacing would change them."
        )
    for name in (arguments.overwrite_plans_name, arguments.p):
        if name is not None:
            _common.check_plans_name(name)
    spacing = arguments.overwrite_target_spacing or ()
    if not all(0 < side < math.inf for side in spacing):  # NaN is in no range
        raise UsageError("-overwrite_target_spacing takes three sizes in mm, all greater than 0.")
    if arguments.preset and not arguments.trainers:
        raise UsageError("--preset chooses the recipe of a trainer; name the trainer with --for.")
    if arguments.matches and (len(arguments.d) > 1 or arguments.no_pp or arguments.part):
        raise UsageError(
            "--matches is the table of one data set and is stored when all of it is preprocessed; it goes with one -d, "
            "and with neither --no_pp nor --part."
        )
    if arguments.part:
        if arguments.clean:
            raise UsageError(
                "--clean would delete what the other parts made. Run --clean --no_pp once, then the parts."
            )
        _part(arguments.part)


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match.group(1)) <= int(match.group(2)):
        raise UsageError(f"--part takes I/N with I from 1 to N, for example 2/8; found {text!r}.")
    return int(match.group(1)), int(match.group(2))


def _run(arguments: argparse.Namespace) -> int:
    """All data sets; bad cases are reported at the end, when everything else is done."""
    from nnssl import paths
    from nnssl.needs import MatchedPoints
    from nnssl.planning.requirements import of_trainers
    from nnssl.planning.run import listing

    where = paths.folders()
    names = [paths.dataset(each, where=where) for each in arguments.d]
    required = of_trainers(arguments.trainers, arguments.preset)
    if required.plan is not None and arguments.overwrite_target_spacing:
        raise UsageError(
            f"The preset brings its own plan with voxels of {required.plan.spacing_words}; leave "
            f"-overwrite_target_spacing away, or use another preset."
        )
    if arguments.matches and MatchedPoints not in required.tables:
        raise UsageError(
            "--matches is for trainers that need matched points; name one with --for, such as AliceTrainer."
        )
    bad: dict[str, str] = {}
    for name in names:
        for case, reason in _one_dataset(arguments, name, where, required).items():
            bad[f"{name}/{case}"] = reason
    if not bad:
        return 0
    count = f"{len(bad)} case{'s' if len(bad) > 1 else ''} cannot be used"
    if arguments.skip_bad:
        print(f"{count} and were left out (--skip_bad):\n{listing(bad)}", file=sys.stderr)
        return 0
    raise DataError(
        f"{count}; all others are done.\n{listing(bad)}\nMend or remove them and run the command again, or go on "
        f"without them: --skip_bad."
    )


def _one_dataset(arguments: argparse.Namespace, name: str, where: Folders, required: Required) -> dict[str, str]:
    """Plan and preprocess one data set; returns {case: why it was left out}."""
    from nnssl.data.agreement import dataset_id
    from nnssl.needs import MatchedPoints
    from nnssl.planning.cases import read_raw_dataset
    from nnssl.planning.checks import checked_judgements
    from nnssl.planning.folder import preprocess_folder
    from nnssl.planning.grid import case_plan
    from nnssl.planning.own_matches import read_own_matches, store_own_matches

    dataset = read_raw_dataset(name, where, accepted=checked_judgements(arguments.accept))
    for note in dataset.notes:
        _say(f"Warning: {note}")
    bad = dict(dataset.malformed)
    own: list[Match] = []
    if arguments.matches:  # before the work, which may take hours
        own = read_own_matches(Path(arguments.matches), {*(case.case_id for case in dataset.cases), *bad})
        required = replace(required, tables=tuple(table for table in required.tables if table is not MatchedPoints))
    if arguments.only_pp or arguments.part:
        plans, more = _existing_plans(arguments, dataset, where, required)
    else:
        plans, more = _new_plans(arguments, dataset, where, required)
    bad.update(more)
    if arguments.no_pp:
        besides = f" --for {' '.join(arguments.trainers)}" if arguments.trainers else ""
        besides += f" --preset {arguments.preset}" if arguments.preset else ""
        besides += f" --workspace {shlex.quote(arguments.workspace)}" if arguments.workspace else ""
        _say(f"Preprocess with: {PROG} -d {dataset_id(name)} --only_pp -p {plans['plans_name']}{besides}")
        return bad
    part = _part(arguments.part) if arguments.part else None
    for configuration in _configurations(arguments.c, plans):
        plan = case_plan(plans, configuration)
        folder = where.preprocessed / name / plan.data_identifier
        outcome = preprocess_folder(dataset, plan, folder, required, workers=arguments.np, part=part)
        bad.update(outcome.quarantined)
        if own:
            store_own_matches(own, folder, say=_say)
        _warn_of_small_cases(folder, plan.patch_size)
        _say(
            f"{name} {configuration}: {len(outcome.made)} cases preprocessed, {len(outcome.kept)} were done before, "
            f"{len(outcome.quarantined)} left out, in {folder}"
        )
    return bad


def _warn_of_small_cases(folder: Path, patch: Sequence[int]) -> None:
    """Name the cases that methods whose views are as large as the patch will refuse."""
    from nnssl.data.index import stored_index
    from nnssl.data.requirements import LEAST_FILLED, mostly_padding, named

    index = stored_index(folder)
    small = mostly_padding(list(index.entries.values()) if index else [], patch)
    if small:
        _say(
            f"Warning: {named(small)} would fill less than {LEAST_FILLED:.0%} of the patch {list(patch)}. Methods with "
            f"such views refuse to pretrain with that; remove what is too small from imagesTr, or plan smaller."
        )


def _default_name(arguments: argparse.Namespace, required: Required) -> str:
    """nnsslPlans, or the name of the plan that the preset brings."""
    wish = None if arguments.target else required.plan
    return DEFAULT_PLANS_NAME + (wish.name if wish else "")


def _new_plans(
    arguments: argparse.Namespace, dataset: RawDataset, where: Folders, required: Required
) -> tuple[Plans, dict[str, str]]:
    """Make the fingerprint and the plans; returns the plans and {case: why it was left out}."""
    from nnssl import nnunet
    from nnssl.planning.folder import checked_index, clean_folder
    from nnssl.planning.grid import case_plan
    from nnssl.planning.planner import load_plans, plans_path, save_plans
    from nnssl.planning.run import PlanRequest, make_plan, write_fingerprint

    request = PlanRequest(
        planner=arguments.pl,
        plans_name=arguments.overwrite_plans_name or _default_name(arguments, required),
        spacing_mm=arguments.overwrite_target_spacing,
        target=arguments.target,
        target_plans=arguments.target_plans,
        wish=required.plan,
    )
    reader = nnunet.reader_for(dataset.description)
    bad = write_fingerprint(dataset, reader, where, workers=arguments.np, anew=arguments.clean, say=_say)
    plans = make_plan(dataset, request, where, say=_say)
    for configuration in _configurations(arguments.c, plans):
        plan = case_plan(plans, configuration)
        folder = where.preprocessed / dataset.name / plan.data_identifier
        if arguments.clean:
            clean_folder(folder)
        # before the plans file is written: data and plans must never disagree
        checked_index(folder, plan)
    path = plans_path(where.preprocessed, dataset.name, request.plans_name)
    save_plans(path, plans, replace=arguments.clean)
    for configuration in _configurations(arguments.c, plans):
        chosen = plans["configurations"][configuration]
        patch = " x ".join(str(side) for side in chosen["patch_size"])
        spacing = " x ".join(f"{side:.4g}" for side in chosen["spacing"])
        _say(f"{dataset.name} {configuration}: patch {patch}, spacing {spacing} mm (axes as in the plans); {path}")
    return load_plans(path), bad


def _existing_plans(
    arguments: argparse.Namespace, dataset: RawDataset, where: Folders, required: Required
) -> tuple[Plans, dict[str, str]]:
    """The plans file as it is, edited by hand or not; a fingerprint is made only where there is none."""
    from nnssl.planning.folder import clean_folder
    from nnssl.planning.grid import case_plan
    from nnssl.planning.planner import load_plans, plans_path
    from nnssl.planning.run import FINGERPRINT_FILE, write_fingerprint

    name = arguments.p or _default_name(arguments, required)
    plans = load_plans(plans_path(where.preprocessed, dataset.name, name))
    bad: dict[str, str] = {}
    if not (where.preprocessed / dataset.name / FINGERPRINT_FILE).is_file() and not arguments.part:
        reader = plans["image_reader_writer"]
        bad = write_fingerprint(dataset, reader, where, workers=arguments.np, anew=False, say=_say)
    if arguments.clean:
        for configuration in _configurations(arguments.c, plans):
            clean_folder(where.preprocessed / dataset.name / case_plan(plans, configuration).data_identifier)
    return plans, bad


def _configurations(wanted: Sequence[str], plans: Plans) -> list[str]:
    """Those of `wanted` that the plans have; as in nnU-Net, a missing one is skipped while another is left."""
    from nnssl.planning.planner import resolved

    present = [name for name in wanted if name in plans["configurations"]]
    if not present:
        resolved(plans, wanted[0])  # raises with the list of what there is
    for name in sorted({*wanted} - {*present}):
        _say(f"Skipping {name}: the plans {plans['plans_name']} of {plans['dataset_name']} do not have it.")
    return present


def _say(sentence: str) -> None:
    print(sentence, flush=True)
