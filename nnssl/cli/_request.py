"""What a pretraining is asked for on the command line: the same words for training it and for estimating it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nnssl.cli import _common
from nnssl.errors import UsageError

if TYPE_CHECKING:
    from nnssl.launch import Request


def add_request(made: argparse.ArgumentParser) -> None:
    """Add data sets, configuration, trainer, plans, device and recipe."""
    add = made.add_argument
    add("datasets", nargs="+", metavar="DATASET", help="number or full name; the plans are those of the first")
    add("configuration", help="3d_fullres or 3d_lowres")
    add("-tr", dest="trainer", required=True, metavar="TRAINER", help="trainer; nnssl_trainers lists them")
    add("-p", dest="plans", default="nnsslPlans", metavar="PLANS", help="plans file (default nnsslPlans)")
    _common.add_device(made)
    add("--preset", metavar="P", help="the trainer's preset (default: default)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change recipe keys")
    add("--mix", nargs="+", type=float, default=[], metavar="W", help="how often each data set is drawn")
    add("-num_workers", type=int, metavar="N", help="threads that read and make views; changes no number")


def request_of(arguments: argparse.Namespace) -> Request:
    """The request of these words, of one rank and of a new run.

    Raises:
        UsageError: a data set given twice, weights that do not fit, too few workers.
    """
    from nnssl.engine.recipe import assignments
    from nnssl.engine.run_folder import RunOptions
    from nnssl.launch import Request
    from nnssl.paths import dataset, folders

    where = folders()
    names = [dataset(given, where=where) for given in arguments.datasets]
    if len({*names}) < len(names):
        raise UsageError(f"A data set was given twice: {', '.join(names)}. Use --mix to draw one more often.")
    if arguments.num_workers is not None and arguments.num_workers < 0:
        raise UsageError(f"-num_workers must not be negative; it is {arguments.num_workers}.")
    if arguments.mix and len(arguments.mix) != len(names):
        raise UsageError(f"--mix needs one weight for each of {len(names)} data sets: {arguments.mix}.")
    return Request(
        trainer=arguments.trainer,
        dataset=names[0],
        configuration=arguments.configuration,
        plans_name=arguments.plans,
        device=arguments.device,
        options=RunOptions(
            preset=arguments.preset,
            overrides=assignments(arguments.set),
            datasets=tuple(names[1:]),
            mix=tuple(arguments.mix),
            workers=arguments.num_workers,
        ),
    )
