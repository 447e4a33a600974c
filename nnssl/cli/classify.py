"""`nnssl_classify`: classes of whole images from a frozen or fine-tuned encoder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from nnssl.cli import _common
from nnssl.cli._screen import Screen
from nnssl.errors import UsageError

PROG = "nnssl_classify"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    return _common.run(partial(_classify, arguments), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    made = _common.parser(
        PROG,
        "Classifies whole images with a pretrained encoder and, for comparison, with the same one untrained: logistic "
        "regression and nearest neighbours on frozen features, with --finetune also end to end. Folds are by subject; "
        "fixed test subjects are left out of them. Images are prepared as in pretraining, as the weights say. Writes "
        "report.md, report.json and predictions.csv: AUC, accuracy and balanced accuracy with intervals over subjects.",
        examples=[
            "nnssl_classify checkpoint_final.pth --csv scans.csv",
            "nnssl_classify checkpoint_final.pth --folders scans -o classes   scans/CLASS/SUBJECT/scan.nii.gz",
            "nnssl_classify encoder.safetensors --csv scans.csv --test anna bert --classes healthy ill",
            "nnssl_classify checkpoint_final.pth --csv scans.csv --finetune --set epochs=50 lr=1e-4,1e-3 -device cuda",
        ],
    )
    add = made.add_argument
    add("weights", metavar="CKPT", help="checkpoint_final.pth, encoder.safetensors, or nnU-Net's own")
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", metavar="FILE", help="columns path (; between channels), label, subject, maybe split")
    source.add_argument("--folders", metavar="DIR", help="a folder a class, with images or subjects' folders")
    add("--test", nargs="+", default=[], metavar="SUBJECT", help="fixed test subjects (or: split test, or DIR/test)")
    add("--classes", nargs="+", default=[], metavar="NAME", help="in order; of two, the second is the positive one")
    add("--folds", type=int, default=5, metavar="N", help="of the cross-validation (default 5)")
    add("--finetune", action="store_true", help="also train the whole encoder, and the untrained one likewise")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change how --finetune trains")
    add("--no_untrained", action="store_true", help="leave the untrained network away: figures without a baseline")
    add("--seed", type=int, default=0, metavar="N", help="of folds, untrained network and fine-tuning (default 0)")
    add("--which", default="default", metavar="NAME", help="student or teacher, where the file has both")
    _common.add_device(made)
    add("-o", dest="out", default="nnssl_classify", metavar="DIR", help="folder of the results")
    return made


def _classify(arguments: argparse.Namespace) -> None:
    _common.apply_workspace(arguments)
    from pathlib import Path

    from nnssl.engine.recipe import assignments
    from nnssl.evaluate.classify.items import read_csv, read_folders, settle
    from nnssl.evaluate.classify.settings import FinetuneSettings
    from nnssl.evaluate.settings import changed

    if arguments.set and not arguments.finetune:
        raise UsageError("--set changes how --finetune trains; give --finetune too, or leave --set away.")
    settings = changed(FinetuneSettings(), {"seed": str(arguments.seed), **assignments(arguments.set)})
    read = read_csv(Path(arguments.csv)) if arguments.csv else read_folders(Path(arguments.folders))
    items, classes = settle(read, test=arguments.test, classes=arguments.classes)

    from nnssl.engine.distributed import choose_device
    from nnssl.evaluate.classify.report import in_words, make_report, write_report
    from nnssl.evaluate.classify.run import Classification, Request

    request = Request(
        weights=Path(arguments.weights).expanduser().resolve(),
        items=items,
        classes=classes,
        folds=arguments.folds,
        finetuning=settings if arguments.finetune else None,
        untrained=not arguments.no_untrained,
        which=arguments.which,
        seed=arguments.seed,
        device=choose_device(arguments.device).type,
        out=Path(arguments.out).expanduser().resolve(),
    )
    screen = Screen()
    classification = Classification(request, screen)
    screen.say(classification.describe())
    found = classification.run()
    report = make_report(classification, found)
    page = write_report(request.out, report, items, found)
    screen.say(f"\n{in_words(report)}\nReport: {page}")


if __name__ == "__main__":
    sys.exit(main())
