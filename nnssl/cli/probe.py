"""`nnssl_probe`: what a linear and a non-linear head read from a frozen network, voxel by voxel."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from nnssl.cli import _common
from nnssl.cli._screen import Screen

PROG = "nnssl_probe"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = command_parser().parse_args(argv)
    return _common.run(partial(_probe, arguments), prog=PROG)


def command_parser() -> argparse.ArgumentParser:
    """The command's parser; nnssl_ablate checks with it what it will pass on."""
    made = _common.parser(
        PROG,
        "Trains a linear and a small non-linear head on the frozen features of a pretrained network, and of the same "
        "network untrained, after vox2vec's protocol: folds by subject, patches around voxels of the classes, each "
        "head at the step that its own validation Dice chooses. Writes report.md and report.json with Dice of "
        "whole test cases and paired intervals. Stopped, the same line goes on behind the last finished fold.",
        examples=[
            "nnssl_probe checkpoint_final.pth -d 4",
            "nnssl_probe checkpoint_final.pth -d 4 --folds 0 --set steps=500 validate_every=100",
            "nnssl_probe encoder.safetensors -d 4 -p nnUNetPlans -device cuda -o probe_encoder",
            "nnssl_probe checkpoint_final.pth -d 4 --set steps=45000 lr=3e-4   the length of the paper",
        ],
    )
    add = made.add_argument
    add("weights", metavar="CKPT", help="checkpoint_final.pth, encoder.safetensors, or nnU-Net's own")
    add("-d", dest="dataset", required=True, metavar="DATASET", help="labelled, preprocessed data set: number or name")
    add("-c", dest="configuration", default="3d_fullres", metavar="CONFIG", help="of the plans (default 3d_fullres)")
    add("-p", dest="plans", metavar="PLANS", help="plans file (default: the one that the weights fit)")
    add("--folds", nargs="+", type=int, metavar="F", help="of the target's split (default: all)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change how the heads are trained")
    add("--no_untrained", action="store_true", help="leave the untrained network away: figures without a baseline")
    add("--encoder", action="store_true", help="the encoder's maps, also where the file has a trained decoder")
    add("--which", default="default", metavar="NAME", help="student or teacher, where the file has both")
    _common.add_device(made)
    add("-o", dest="out", default="nnssl_probe", metavar="DIR", help="folder of the probe (default nnssl_probe)")
    return made


def _probe(arguments: argparse.Namespace) -> None:
    _common.apply_workspace(arguments)
    from pathlib import Path

    from nnssl.engine.distributed import choose_device
    from nnssl.engine.recipe import assignments
    from nnssl.evaluate.probe.report import in_words, make_report, write_report
    from nnssl.evaluate.probe.run import Probe
    from nnssl.evaluate.probe.settings import ProbeSettings
    from nnssl.evaluate.probe.target import Request
    from nnssl.evaluate.settings import changed
    from nnssl.paths import folders

    request = Request(
        weights=Path(arguments.weights).expanduser().resolve(),
        target=arguments.dataset,
        configuration=arguments.configuration,
        plans_name=arguments.plans,
        folds=arguments.folds,
        settings=changed(ProbeSettings(), assignments(arguments.set)),
        untrained=not arguments.no_untrained,
        encoder=arguments.encoder,
        which=arguments.which,
        device=choose_device(arguments.device).type,
        out=Path(arguments.out).expanduser().resolve(),
    )
    screen = Screen()
    probe = Probe(request, folders(), screen)
    screen.say(probe.describe())
    for warning in probe.target.warnings:
        screen.say(f"Warning: {warning}")
    report = make_report(probe, probe.run())
    page = write_report(request.out, report)
    screen.say(f"\n{in_words(report)}\nReport: {page}")


if __name__ == "__main__":
    sys.exit(main())
