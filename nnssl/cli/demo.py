"""`nnssl_demo`: the whole road on a small cohort, offline."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from functools import partial

from nnssl.cli import _common
from nnssl.cli._screen import Screen

PROG = "nnssl_demo"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    return _common.run(partial(_demo, arguments), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    made = _common.parser(
        PROG,
        "Plan, preprocess, pretrain without labels, fine-tune stock nnU-Net with 1 and 5 labels from scratch and from "
        "the pretrained weights, and compare. On generated scans, or on a task of yours. Stopped, it goes on when "
        "called again. It reports what it measured, also where pretraining did not help.",
        examples=[
            "nnssl_demo",
            "nnssl_demo --minutes 30 --trainer DeSDTrainer --out demo_desd",
            "nnssl_demo --raw Task04_Hippocampus --out demo_hippocampus",
        ],
    )
    add = made.add_argument
    add("--raw", metavar="DIR", help="an nnU-Net or Medical Segmentation Decathlon task folder (default: phantoms)")
    add("--out", metavar="DIR", help="where everything is written (default: --workspace, else nnssl_demo here)")
    add("--minutes", type=float, metavar="N", help="about how long on two cores (default 8); more trains longer")
    add("--trainer", metavar="TRAINER", help="pretraining (default Vox2VecTrainer); nnssl_trainers lists them")
    _common.add_device(made, mps=False)
    return made


def _demo(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from nnssl.demo.report import PICTURE, REPORT, table
    from nnssl.demo.run import Demonstration, folder_of
    from nnssl.demo.settings import MINUTES, TRAINER, Settings
    from nnssl.engine.distributed import choose_device
    from nnssl.errors import DataError
    from nnssl.registry import find_trainer

    trainer = arguments.trainer or TRAINER
    find_trainer(trainer)  # a misspelt name is said now, not after preprocessing
    if arguments.raw is not None and not Path(arguments.raw).is_dir():
        raise DataError(f"--raw must be a task folder with imagesTr and labelsTr; there is none at {arguments.raw}.")
    settings = Settings(
        trainer=trainer,
        minutes=MINUTES if arguments.minutes is None else arguments.minutes,
        device=choose_device(arguments.device, ranks=1).type,
        raw=None if arguments.raw is None else str(Path(arguments.raw).expanduser().resolve()),
    )
    folder = folder_of(arguments.out or arguments.workspace)
    signal.signal(signal.SIGTERM, _leave)
    report = Demonstration(folder, settings, Screen()).run()
    print(f"\n{report['cohort']}; {report['trainer']}, {report['pretraining_steps']} steps; "
          f"{report['seconds'] / 60:.1f} minutes since the first step, pauses included\n")  # fmt: skip
    print(table(report))
    print(f"\nNumbers: {folder / REPORT}\nPicture: {folder / PICTURE}\nLogs:    {folder / 'logs'}")


def _leave(number: int, frame: object) -> None:
    """Leave through every `finally`, so that the commands that were started are stopped, too."""
    raise SystemExit(128 + number)
