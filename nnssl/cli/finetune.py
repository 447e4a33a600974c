"""`nnssl_finetune`: stock nnU-Net's training from pretrained weights, with a schedule that keeps what was learned."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from nnssl.cli import _common
from nnssl.errors import UsageError

PROG = "nnssl_finetune"
SCHEDULES = ("warmup", "sawtooth", "frozen_then_thawed", "frozen")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    return _common.run(partial(_finetune, arguments), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    made = _common.parser(
        PROG,
        "Fine-tune stock nnU-Net from weights of nnssl_pretrain. Everything is nnU-Net's but the schedule: the "
        "learning rate warms up to 1e-3, and the encoder may rest at first or throughout. nnUNetv2_predict works with "
        "the result as it is.",
        examples=[
            "nnssl_finetune 4 3d_fullres 0 -w checkpoint_final.pth",
            "nnssl_finetune 4 3d_fullres 0 -w checkpoint_final.pth --schedule sawtooth --epochs 200",
            "nnssl_finetune 4 3d_fullres 0 --schedule sawtooth --c",
            "nnssl_finetune 4 3d_fullres 0 -w checkpoint_final.pth --set iterations_per_epoch=100 peak_lr=3e-3",
        ],
    )
    add = made.add_argument
    add("dataset", metavar="DATASET", help="labelled data set: number or full name")
    add("configuration", help="3d_fullres, or another one of the plans")
    add("fold", help="0 to 4, or all")
    add("-w", dest="weights", metavar="CKPT", help="checkpoint_final.pth of nnssl_pretrain (else: from scratch)")
    add("--schedule", choices=SCHEDULES, default="warmup", help="default: warmup")
    add("--epochs", metavar="N", help="default 1000, of 250 iterations")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change keys of the schedule")
    add("-p", dest="plans", metavar="PLANS", help="plans file (default: the one that the weights fit)")
    _common.add_device(made)
    add("-num_gpus", type=int, default=1, metavar="N", help="processes, one a GPU")
    add("--c", action="store_true", help="continue the training in the folder, with its own settings")
    return made


def _finetune(arguments: argparse.Namespace) -> None:
    _common.apply_workspace(arguments)
    from pathlib import Path

    from nnssl.engine.recipe import assignments
    from nnssl.evaluate.finetune.run import TRAINERS, Request, prepare, train

    if arguments.num_gpus < 1:
        raise UsageError(f"-num_gpus must be at least 1; it is {arguments.num_gpus}.")
    settings = assignments([*arguments.set, *([] if arguments.epochs is None else [f"epochs={arguments.epochs}"])])
    if "schedule" in settings:
        raise UsageError("The schedule is chosen with --schedule, not with --set: results folders are named after it.")
    request = Request(
        target=arguments.dataset,
        configuration=arguments.configuration,
        fold=arguments.fold,
        weights=None if arguments.weights is None else Path(arguments.weights).expanduser().resolve(),
        schedule=arguments.schedule,
        settings=settings,
        plans_name=arguments.plans,
        device=arguments.device,
        gpus=arguments.num_gpus,
        continue_run=arguments.c,
    )
    prepared = prepare(request)
    train(request, prepared)
    print(f"\nFine-tuned: {prepared.folder}\nPredict with stock nnU-Net:")
    print(
        f"  nnUNetv2_predict -d {arguments.dataset} -c {request.configuration} -p {prepared.plans_name} "
        f"-tr {TRAINERS[request.schedule]} -f {request.fold} -i IMAGES -o PREDICTIONS"
    )
