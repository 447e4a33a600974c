"""`nnssl_pretrain`: train any plugin on a preprocessed data set."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nnssl.cli import _common, _request
from nnssl.errors import UsageError

if TYPE_CHECKING:
    from nnssl.launch import Request

PROG = "nnssl_pretrain"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Ends with 128 + the signal's number when a signal made the run save and leave."""
    arguments = _parser().parse_args(argv)
    return _common.run(partial(_pretrain, arguments), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    made = _common.parser(
        PROG,
        "Self-supervised pretraining on a preprocessed data set. Writes nnUNet_results/DATASET/TRAINER__PLANS__CONFIG/"
        "fold_all with the training state and, at the end, checkpoint_final.pth for stock nnUNetv2_train. SIGTERM, "
        "SIGUSR1 and Ctrl-C save the state and leave (exit code 128 + the signal's number); --c goes on.",
        examples=[
            "nnssl_pretrain 745 3d_fullres -tr DeSDTrainer",
            "nnssl_pretrain 745 3d_fullres -tr DeSDTrainer --c",
            "nnssl_pretrain 745 3d_fullres -tr DeSDTrainer --c --set epochs=600",
            "nnssl_pretrain 745 3d_fullres -tr MAETrainer --name masked --set epochs=300 method.ratio=0.7,0.8",
            "nnssl_pretrain 745 746 3d_fullres -tr MAETrainer --mix 1 2 -num_gpus 4",
            "torchrun --nproc_per_node 4 $(which nnssl_pretrain) 745 3d_fullres -tr MAETrainer",
        ],
    )
    _request.add_request(made)
    add = made.add_argument
    add("-num_gpus", type=int, default=1, metavar="N", help="processes, one a GPU; with -device cpu N processes")
    add("--c", action="store_true", help="continue the run in the folder, at the very step it was saved")
    add("--name", metavar="NAME", help="a run beside others: the folder becomes fold_all--NAME")
    add("-pretrained_weights", metavar="FILE", help="start from the networks in an earlier checkpoint_final.pth")
    add("--deterministic", action="store_true", help="repeatable sums on a GPU, where torch has them; slower")
    return made


def _pretrain(arguments: argparse.Namespace) -> int:
    _common.apply_workspace(arguments)
    from nnssl.launch import check_name

    if arguments.num_gpus > 1 or "RANK" in os.environ:
        # torch warns on every rank that it looked for unused parameters and found none; they are allowed on purpose
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    request = _request.request_of(arguments)
    _check(arguments)
    check_name(arguments.name)
    options = replace(
        request.options,
        continue_run=arguments.c,
        weights=arguments.pretrained_weights,
        deterministic=arguments.deterministic,
    )
    return _start(replace(request, ranks=arguments.num_gpus, name=arguments.name, options=options))


def _check(arguments: argparse.Namespace) -> None:
    if arguments.num_gpus < 1:
        raise UsageError(f"-num_gpus must be at least 1; it is {arguments.num_gpus}.")
    if arguments.c and arguments.pretrained_weights:
        raise UsageError(
            "--c continues a run from its own state; -pretrained_weights starts a new one. Give one of them."
        )
    if arguments.num_gpus > 1 and "RANK" in os.environ:
        raise UsageError("A launcher (torchrun) has set RANK already; leave -num_gpus away.")


def _start(request: Request) -> int:
    from nnssl.engine.distributed import choose_device, spawn_ranks
    from nnssl.launch import read_plans
    from nnssl.paths import folders
    from nnssl.registry import find_trainer

    if request.ranks == 1:
        _train(request)
        return 0
    # What would fail in every rank is said once, here.
    find_trainer(request.trainer)
    read_plans(folders(), request)
    device = choose_device(request.device, ranks=request.ranks)
    return spawn_ranks(rank_main, (replace(request, device=device.type),), ranks=request.ranks)


def rank_main(request: Request) -> None:
    """One spawned rank: as the command itself, but that every rank would say the same sentence."""
    code = _common.run(partial(_train, request), prog=PROG)
    if code:
        raise SystemExit(code)


def _train(request: Request) -> None:
    from nnssl.launch import pretrain

    pretrain(request)
