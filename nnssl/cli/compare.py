"""`nnssl_compare`: nnU-Net from scratch against pretrained weights, fairly, with one command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from nnssl.cli import _common
from nnssl.cli._screen import Screen
from nnssl.errors import UsageError

PROG = "nnssl_compare"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    return _common.run(partial(_compare, arguments), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    made = _common.parser(
        PROG,
        "Fine-tune stock nnU-Net from scratch and from each checkpoint: same plan, schedule, seeds, test cases, label "
        "subsets and decoder start. Stopped, the same command goes on inside the training it was at. Writes "
        "report.json, report.html, scores.csv and pictures; their wording says what the intervals allow.",
        examples=[
            "nnssl_compare 4 3d_fullres -w checkpoint_final.pth --dry_run",
            "nnssl_compare 4 3d_fullres -w checkpoint_final.pth --labels 1 3 all --replicates 8 -o compare_4",
            "nnssl_compare 4 7 3d_fullres -w a.pth b.pth --folds 0 1 --strict --equal_compute",
            "nnssl_compare 4 3d_fullres -w a.pth --set epochs=20 iterations_per_epoch=50 peak_lr=3e-3",
            "nnssl_compare 4 3d_fullres -w a.pth --devices cuda:0 cuda:1",
        ],
    )
    add = made.add_argument
    add("datasets", nargs="+", metavar="DATASET", help="labelled data sets: number or full name")
    add("configuration", help="3d_fullres, or another one of the plans")
    add(
        "-w", dest="weights", nargs="+", required=True, metavar="CKPT", help="checkpoints of nnssl, nnU-Net or OpenMind"
    )
    add(
        "--labels", nargs="+", default=["1", "3", "5", "10", "all"], metavar="N", help="default: 1 3 5 10 all; subjects"
    )
    add("--folds", nargs="+", type=int, default=[0], metavar="F", help="folds of the target's split (default 0)")
    add("--replicates", type=int, default=3, metavar="N", help="label draws and seeds of each training (default 3)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change the schedule of all arms")
    add("-p", dest="plans", metavar="PLANS", help="plans file (default: the one that the first checkpoint fits)")
    add("--equal_compute", action="store_true", help="also from scratch, longer by the hours of the pretraining")
    add("--strict", action="store_true", help="refuse where a test case was, or may have been, pretrained on")
    add("--dry_run", action="store_true", help="say what would be done, how long, and what it can show; then stop")
    add("--tolerance_mm", type=float, default=2.0, metavar="MM", help="of the normalised surface distance (default 2)")
    _common.add_device(made, mps=False)
    add("--devices", nargs="+", metavar="DEV", help="train on several at a time: cuda:0 cuda:1, or cpu cpu")
    add("-j", dest="at_once", type=int, default=1, metavar="N", help="trainings at a time on each device (default 1)")
    add("-o", dest="out", default="nnssl_compare", metavar="DIR", help="folder of the comparison")
    return made


def _compare(arguments: argparse.Namespace) -> None:
    _common.apply_workspace(arguments)
    from pathlib import Path

    from nnssl.engine.recipe import assignments
    from nnssl.evaluate.compare.page import sentences, write_page
    from nnssl.evaluate.compare.pictures import draw_pictures
    from nnssl.evaluate.compare.plan import Request
    from nnssl.evaluate.compare.report import make_report, measure
    from nnssl.evaluate.compare.run import Comparison
    from nnssl.paths import folders

    _check(arguments)
    request = Request(
        targets=arguments.datasets,
        configuration=arguments.configuration,
        weights=[Path(path).expanduser().resolve() for path in arguments.weights],
        labels=arguments.labels,
        folds=arguments.folds,
        replicates=arguments.replicates,
        settings=assignments(arguments.set),
        plans_name=arguments.plans,
        devices=_devices(arguments),
        at_once=arguments.at_once,
        strict=arguments.strict,
        equal_compute=arguments.equal_compute,
        tolerance_mm=arguments.tolerance_mm,
        out=Path(arguments.out).expanduser().resolve(),
    )
    comparison = Comparison(request, folders(), Screen())
    said = comparison.describe()
    print("\n".join(said), flush=True)
    time_left = comparison.estimate()
    print(time_left, flush=True)
    comparison.notes.say([*said, time_left])
    if arguments.dry_run:
        return
    comparison.run()
    measured = measure(comparison)
    report = make_report(comparison, measured)
    page = write_page(request.out, report, draw_pictures(comparison, report, measured))
    print("\n".join(sentences(report)))
    print(f"Report: {page}")


def _devices(arguments: argparse.Namespace) -> list[str]:
    """What `--devices` or `-device` says, checked against this machine."""
    from nnssl.engine.distributed import choose_device

    if arguments.devices is None:
        return [choose_device(arguments.device).type]
    kinds = {device.partition(":")[0] for device in arguments.devices}
    numbers = [number for _, _, number in (device.partition(":") for device in arguments.devices) if number]
    known = kinds in ({"cpu"}, {"cuda"}) and all(number.isdigit() for number in numbers)
    if not known or (numbers and kinds == {"cpu"}) or arguments.device not in (None, *kinds):
        raise UsageError("--devices takes devices of one kind: cuda:0 cuda:1 .., or cpu cpu ..; -device must agree.")
    choose_device(min(kinds), ranks=1 + max(map(int, numbers), default=0))
    return list(arguments.devices)


def _check(arguments: argparse.Namespace) -> None:
    for label in arguments.labels:
        if label != "all" and not (label.isdigit() and int(label) > 0):
            raise UsageError(f"--labels takes numbers of labelled subjects and 'all', not {label!r}.")
    for name in ("labels", "folds", "weights", "datasets"):
        given = getattr(arguments, name)
        if len(set(given)) < len(given):
            raise UsageError(f"{name} holds something twice ({' '.join(map(str, given))}); give each once.")
    if arguments.replicates < 1 or arguments.at_once < 1 or min(arguments.folds) < 0:
        raise UsageError("--replicates and -j must be at least 1, and --folds at least 0.")
    if not arguments.tolerance_mm > 0:
        raise UsageError(f"--tolerance_mm must be positive; it is {arguments.tolerance_mm:g}.")
    unsettable = {"seed", "split"} & {word.partition("=")[0] for word in arguments.set}
    if unsettable:
        raise UsageError(f"--set {min(unsettable)}: the comparison draws it itself, one a replicate.")
