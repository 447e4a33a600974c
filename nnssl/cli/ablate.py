"""`nnssl_ablate`: one factor of a recipe at a time, at the same budget, in one table."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from nnssl.cli import _common
from nnssl.cli._screen import Screen
from nnssl.errors import UsageError

if TYPE_CHECKING:
    from nnssl.evaluate.ablate.run import Request

PROG = "nnssl_ablate"
_OURS = ("-w", "-d", "-o", "-c", "-device", "--workspace", "--no_untrained", "--dry_run")  # not for the judge's options


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    return _common.run(partial(_ablate, arguments), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    made = _common.parser(
        PROG,
        "Pretrains with the recipe as it is and with one key of it changed at a time, all for the same number of "
        "steps and samples, each a run of nnssl_pretrain with a --name of its own. Judged by label-free signals, "
        "and with --target by nnssl_probe (or by nnssl_compare) on labelled cases. Writes ablation.md and "
        "ablation.json. Stopped, the same line goes on; finished runs are kept.",
        examples=[
            "nnssl_ablate 745 3d_fullres -tr DeSDTrainer --over method.rotation_deg=0,15,30 --dry_run",
            "nnssl_ablate 745 3d_fullres -tr MAETrainer --over 'method.ratio=(0.6,0.7),(0.8,0.9)' --set epochs=100",
            "nnssl_ablate 745 3d_fullres -tr MAETrainer --over optimizer.lr=1e-4,1e-3 --target 4 --seeds 3",
            "nnssl_ablate 745 3d_fullres -tr MAETrainer --over optimizer.lr=1e-4,1e-3 --target 4 --compare "
            "--judge_options='--labels 1 5 all --replicates 8'",
        ],
    )
    add = made.add_argument
    add("datasets", nargs="+", metavar="DATASET", help="number or full name; the plans are those of the first")
    add("configuration", help="3d_fullres or 3d_lowres")
    add("-tr", dest="trainer", required=True, metavar="TRAINER", help="trainer; nnssl_trainers lists them")
    add(
        "--over", action="append", required=True, metavar="KEY=A,B", help="a recipe key and its values; may be repeated"
    )
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change recipe keys of all runs")
    add("--preset", metavar="P", help="the trainer's preset (default: default)")
    add("-p", dest="plans", default="nnsslPlans", metavar="PLANS", help="plans file (default nnsslPlans)")
    add("--seeds", type=int, default=1, metavar="N", help="runs of each setting, with seeds of their own (default 1)")
    add("--target", metavar="DATASET", help="labelled, preprocessed data set that judges")
    add("--compare", action="store_true", help="judge by nnssl_compare in place of nnssl_probe")
    add("--judge_options", default="", metavar="WORDS", help="in quotes: more options of the judging command")
    add("--prefix", default="ablate", metavar="NAME", help="begins the names of the runs (default ablate)")
    _common.add_device(made)
    add("-j", dest="at_once", type=int, default=1, metavar="N", help="pretrainings at the same time (default 1)")
    add("--dry_run", action="store_true", help="check everything, print the commands, then stop")
    add("-o", dest="out", default="nnssl_ablate", metavar="DIR", help="folder of the tables (default nnssl_ablate)")
    return made


def _ablate(arguments: argparse.Namespace) -> None:
    _common.apply_workspace(arguments)
    request = _request(arguments)
    from nnssl.evaluate.ablate.report import in_words, make_report, write_report
    from nnssl.evaluate.ablate.run import Ablation
    from nnssl.paths import folders

    screen = Screen()
    ablation = Ablation(request, folders(), screen)
    screen.say(ablation.describe())
    if arguments.dry_run:
        screen.say("\n".join(ablation.commands()))
        return
    ablation.run()
    report = make_report(ablation)
    page = write_report(request.out, report)
    screen.say(f"\n{in_words(report)}\nReport: {page}")


def _request(arguments: argparse.Namespace) -> Request:
    """Everything checked that every run would stumble over."""
    options = _judge_options(arguments)
    if arguments.seeds < 1 or arguments.at_once < 1:
        raise UsageError("--seeds and -j must be at least 1.")
    from pathlib import Path

    from nnssl.engine.recipe import assignments
    from nnssl.evaluate.ablate.plan import plan_runs, read_factor
    from nnssl.evaluate.ablate.run import Request
    from nnssl.launch import Request as Pretraining
    from nnssl.launch import check_name, read_plans
    from nnssl.paths import dataset, folders
    from nnssl.registry import find_trainer

    where = folders()
    names = [dataset(given, where=where) for given in arguments.datasets]
    trainer, configuration, plans = arguments.trainer, arguments.configuration, arguments.plans
    check_name(arguments.prefix)
    runs = plan_runs(
        find_trainer(trainer),
        [read_factor(word) for word in arguments.over],
        preset=arguments.preset or "default",
        overrides=assignments(arguments.set),
        seeds=arguments.seeds,
        prefix=arguments.prefix,
    )
    read_plans(where, Pretraining(trainer=trainer, dataset=names[0], configuration=configuration, plans_name=plans))
    return Request(
        datasets=names,
        configuration=configuration,
        trainer=trainer,
        plans_name=plans,
        preset=arguments.preset,
        runs=runs,
        target=None if arguments.target is None else dataset(arguments.target, where=where),
        judge="compare" if arguments.compare else "probe",
        judge_options=options,
        device=arguments.device,
        at_once=arguments.at_once,
        out=Path(arguments.out).expanduser().resolve(),
    )


def _judge_options(arguments: argparse.Namespace) -> list[str]:
    """The words for the judging command, taken by its own parser: a slip must not show after days of pretraining."""
    if arguments.target is None and (arguments.compare or arguments.judge_options):
        raise UsageError("--compare and --judge_options need --target: a labelled data set that judges.")
    words = shlex.split(arguments.judge_options)
    taken = [word for word in words if word.partition("=")[0] in _OURS]
    if taken:
        raise UsageError(f"--judge_options: {taken[0]} is set by {PROG} itself.")
    if arguments.target is not None:
        from nnssl.cli import compare, probe

        if arguments.compare:
            compare._parser().parse_args([arguments.target, arguments.configuration, "-w", "CKPT", *words])
        else:
            probe.command_parser().parse_args(["CKPT", "-d", arguments.target, *words])
    return words


if __name__ == "__main__":
    sys.exit(main())
