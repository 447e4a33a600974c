"""`nnssl_doctor`: what of pretrained weights fits a labelled data set, and what to do where it does not."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnssl.cli._common import apply_workspace, parser, run

if TYPE_CHECKING:
    from nnssl.export.doctor import Diagnosis
    from nnssl.export.rows import Row

PROG = "nnssl_doctor"
_MARKS = {"fits": "ok", "note": "~", "no": "NO", "unknown": "?"}
_WIDEST = 38  # columns of a value; longer ones are wrapped


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0 when the weights fit, 1 when something does not."""
    made = parser(
        PROG,
        "Compares pretrained weights with the plan of a labelled data set: what fits, what does not, what that costs "
        "and the command that mends it. Reads weights of nnssl, of stock nnU-Net and of MIC-DKFZ's nnssl (OpenMind), "
        "also as a downloaded folder; no code in a file is run. Exit code 0: stock nnU-Net starts from the file as it "
        "is and nothing is at odds; 1: something does not fit, or a file cannot be used (said on "
        "stderr); 2: the command line is wrong.",
        examples=(
            "nnssl_doctor checkpoint_final.pth -d 4",
            "nnssl_doctor checkpoint_final.pth -d 4 -p nnUNetResEncUNetMPlans -c 3d_fullres",
            "nnssl_doctor ResEncL-OpenMind-MAE/ -d 4",
        ),
    )
    made.add_argument("weights", metavar="CKPT", help="weights file, or a folder with one")
    made.add_argument("-d", dest="dataset", required=True, metavar="ID", help="labelled data set: number or full name")
    made.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="its plan (default nnUNetPlans)")
    made.add_argument("-c", dest="configuration", default="3d_fullres", metavar="CONFIG", help="default 3d_fullres")
    arguments = made.parse_args(argv)
    return run(lambda: _diagnose(arguments), prog=PROG)


def _diagnose(arguments: argparse.Namespace) -> int:
    apply_workspace(arguments)
    from nnssl.export.doctor import decoder_note, diagnose
    from nnssl.export.other import for_nnunet, is_primus
    from nnssl.export.rows import Commands
    from nnssl.export.sources import OURS, maker, read_any
    from nnssl.export.target_plan import read_target_plan, with_orientation
    from nnssl.paths import dataset, folders

    where = folders()
    name = dataset(arguments.dataset, where=where)
    target = read_target_plan(name, where, plans_name=arguments.plans, configuration=arguments.configuration)
    target = with_orientation(target, name, where)
    weights = for_nnunet(read_any(arguments.weights))
    ours = shlex.join([str(arguments.weights), "-d", arguments.dataset])
    plan = shlex.join(["-p", arguments.plans, "-c", arguments.configuration])
    # nnssl_plan_like takes files of nnssl alone, for as many channels as they have
    possible = maker(weights) == OURS and weights.channels == target.channels
    by_hand = f"a plan with the network of the weights: edit 'architecture' in a copy of {arguments.plans}.json"
    if is_primus(weights):
        possible, by_hand = False, "a plan with the spacing and normalisation of the weights (nnUNetv2_plan_experiment)"
    plan_like = f"nnssl_plan_like {ours}" if possible else by_hand
    commands = Commands(plan_like=plan_like, export=f"nnssl_export {ours} {plan}")
    found = diagnose(weights, target, commands)
    print(f"{weights.path} ({found.maker}) for {name}, {arguments.plans}, {arguments.configuration}\n")
    _table(found.rows)
    _summary(found, decoder_note(weights), commands.export)
    return 0 if found.fits else 1


def _table(rows: Sequence[Row]) -> None:
    cells = [("", "", "weights", "data set")] + [(_MARKS[r.verdict], r.what, r.weights, r.target) for r in rows]
    widths = [min(_WIDEST, max(len(row[column]) for row in cells)) for column in range(4)]
    for row, texts in zip((None, *rows), cells, strict=True):
        columns = [textwrap.wrap(text, width) or [""] for text, width in zip(texts, widths, strict=True)]
        for line in range(max(map(len, columns))):
            parts = [column[line] if line < len(column) else "" for column in columns]
            print("  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip())
        if row is not None and row.consequence:
            print(f"{'':{widths[0]}}    -> {row.consequence}")
        if row is not None and row.fix:
            print(f"{'':{widths[0]}}    fix: {row.fix}")


def _summary(found: Diagnosis, note: str, export: str) -> None:
    print("\nTensors that nnssl_export would transfer:")
    print(f"  encoder  {found.encoder}")
    print(f"  decoder  {found.decoder}")
    if note:
        print(note)
    if found.refused:
        print(f"Stock nnU-Net would refuse the file as it is: {found.refused}.")
        print(f"  fix: {export}")
    elif found.fits:
        print("It fits: stock nnU-Net starts from this file as it is (-pretrained_weights).")
    else:
        print("Stock nnU-Net would take the file, but what is marked NO is at odds and nobody would tell.")


if __name__ == "__main__":
    sys.exit(main())
