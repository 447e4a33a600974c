"""`nnssl_export`: pretrained weights, fitted to the plan that a labelled data set has."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnssl.cli._common import apply_workspace, parser, run
from nnssl.errors import UsageError

if TYPE_CHECKING:
    from nnssl.export.fit import Fit

PROG = "nnssl_export"
_FORMATS = ("stock", "nnssl", "safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    made = parser(
        PROG,
        "Fits pretrained weights to the plan that a labelled data set has: input channels, kernels, strides, number of "
        "stages; the decoder where it fits. The file is written only after nnU-Net's own loader brought back every "
        "tensor it promises. nnssl_plan_like is the more exact way: it makes a plan that the weights fit as they are.",
        examples=(
            "nnssl_export checkpoint_final.pth -d 4",
            "nnssl_export checkpoint_final.pth -d 4 -p nnUNetResEncUNetLPlans --min_transfer 0.8",
            "nnssl_export checkpoint_final.pth -d 4 --which student --channels 0 0 1 -o fitted.pth",
        ),
    )
    made.add_argument(
        "weights", metavar="CKPT", help="weights of nnssl, stock nnU-Net or MIC-DKFZ's nnssl; or a folder"
    )
    made.add_argument("-d", dest="dataset", required=True, metavar="ID", help="labelled data set: number or full name")
    made.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="its plan (default nnUNetPlans)")
    made.add_argument("-c", dest="configuration", default="3d_fullres", metavar="CONFIG", help="default 3d_fullres")
    made.add_argument("--which", default="default", metavar="NAME", help="student or teacher, where the file has both")
    made.add_argument(
        "--channels",
        nargs="+",
        default=["repeat"],
        metavar="N",
        help="'repeat' (default), or for each channel of the data set the channel of the weights (from 0) it takes",
    )
    made.add_argument(
        "--min_transfer",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="least share of encoder tensors that must come from the weights, 0 to 1 (default 0.9)",
    )
    made.add_argument(
        "--format",
        dest="form",
        choices=_FORMATS,
        default="stock",
        help="stock: whole network; nnssl: encoder and adaptation plan; safetensors: encoder, JSON metadata",
    )
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of tensors that stay fresh (default 0)")
    made.add_argument(
        "-o", dest="output", metavar="FILE", help="file to write (default: beside CKPT, named after the target)"
    )
    arguments = made.parse_args(argv)
    return run(lambda: _export(arguments), prog=PROG)


def _export(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.min_transfer <= 1:
        raise UsageError(f"--min_transfer is a share from 0 to 1, not {arguments.min_transfer:g}.")
    channels = _channels(arguments.channels)
    apply_workspace(arguments)
    from nnssl.export.fitted import write_fitted
    from nnssl.export.other import for_nnunet
    from nnssl.export.primus import trainer_of
    from nnssl.export.sources import read_any
    from nnssl.export.target_plan import read_target_plan
    from nnssl.paths import dataset, folders

    where = folders()
    name = dataset(arguments.dataset, where=where)
    target = read_target_plan(name, where, plans_name=arguments.plans, configuration=arguments.configuration)
    weights = for_nnunet(read_any(arguments.weights, which=arguments.which))
    path = _output(arguments, weights.path, name)
    fitted, compared = write_fitted(
        path,
        weights,
        target,
        form=arguments.form,
        channels=channels,
        min_transfer=arguments.min_transfer,
        seed=arguments.seed,
    )
    _tell(path, fitted, compared, trainer_of(weights), arguments)


def _channels(words: Sequence[str]) -> list[int] | None:
    if list(words) == ["repeat"]:
        return None
    if not all(word.isdigit() for word in words):
        raise UsageError(f"--channels takes 'repeat' or channel numbers from 0, not {' '.join(words)!r}.")
    return [int(word) for word in words]


def _output(arguments: argparse.Namespace, source: Path, name: str) -> Path:
    ending = ".safetensors" if arguments.form == "safetensors" else ".pth"
    if arguments.output is None:
        chosen = "" if arguments.which == "default" else f"_{arguments.which}"
        middle = f"{name}__{arguments.plans}__{arguments.configuration}"
        form = "__nnssl" if arguments.form == "nnssl" else ""
        return source.with_name(f"{source.stem}{chosen}__{middle}{form}{ending}")
    path = Path(arguments.output)
    if path.suffix != ending:
        raise UsageError(f"--format {arguments.form} writes a {ending} file; -o names {path.name}.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder of -o, {path.parent}, is not there. Make it first.")
    if path.exists() and path.samefile(source):
        raise UsageError(f"-o would overwrite the weights themselves ({path}). Choose another name.")
    return path


def _tell(path: Path, fitted: Fit, compared: int, trainer: str | None, arguments: argparse.Namespace) -> None:
    parts = {"encoder": fitted.encoder} | ({"decoder": fitted.decoder} if arguments.form == "stock" else {})
    print(f"Wrote {path}")
    for name, part in parts.items():
        print(f"  {name}  {fitted.count(*part)}")
    for (how, why), count in fitted.reasons(*(beginning for part in parts.values() for beginning in part)).items():
        print(f"  {count:>5} {how}: {why}")
    if arguments.form == "stock":
        print(f"nnU-Net's own loader brought {compared} of {compared} promised tensors back equal. Train with:")
        command = ["nnUNetv2_train", arguments.dataset, arguments.configuration, "0", "-p", arguments.plans]
        command += [] if trainer is None else ["-tr", trainer]
        print("  " + shlex.join([*command, "-pretrained_weights", str(path.resolve())]))
    else:
        print(f"Read back, {compared} of {compared} promised tensors are equal.")


if __name__ == "__main__":
    sys.exit(main())
