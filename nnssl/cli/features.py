"""`nnssl_features`: embeddings of images from pretrained weights."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnssl.cli._common import apply_workspace, parser, run
from nnssl.errors import DataError, UsageError
from nnssl.evaluate.images import images_of_folder, stem

if TYPE_CHECKING:
    from nnssl.evaluate.features import Embedding
    from nnssl.export.load import PretrainedEncoder, PretrainedOther, PretrainedPyramid
    from nnssl.planning.preprocess import OnGrid

PROG = "nnssl_features"
CSV_FILE = "features.csv"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    made = parser(
        PROG,
        "Writes one vector an image: the means of all feature maps of a pretrained network, over windows of the "
        "pretraining's patch size. Images are read, normalised and resampled as in pretraining, as the weights say. "
        f"Writes {CSV_FILE} with all vectors, and CASE.npz with vector, channels and strides of the levels, and the "
        "maps asked for.",
        examples=(
            "nnssl_features checkpoint_final.pth scan1.nii.gz scan2.nii.gz -o features",
            "nnssl_features encoder.safetensors nnUNet_raw/Dataset004_Hippocampus/imagesTr -o features --pyramid 2 3",
            "nnssl_features checkpoint_final.pth t1.nii.gz,t2.nii.gz -o features --decoder",
        ),
    )
    made.add_argument("weights", metavar="CKPT", help="checkpoint_final.pth, encoder.safetensors, or nnU-Net's own")
    made.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image; or its channels with commas between; or a folder of CASE_0000.nii.gz as in nnU-Net",
    )
    made.add_argument("-o", dest="output", required=True, metavar="DIR", help="folder to write to; made where absent")
    made.add_argument(
        "--pyramid", nargs="+", type=int, default=[], metavar="LEVEL", help="also write these maps; 0: finest"
    )
    made.add_argument("--decoder", action="store_true", help="maps of the decoder in place of the encoder's")
    made.add_argument("--which", default="default", metavar="NAME", help="student or teacher, where the file has both")
    made.add_argument("-device", default="cpu", metavar="DEVICE", help="cpu (default), cuda, cuda:1 or mps")
    arguments = made.parse_args(argv)
    return run(lambda: _features(arguments), prog=PROG)


def _features(arguments: argparse.Namespace) -> None:
    apply_workspace(arguments)
    cases = _cases(arguments.images)
    import torch

    import nnssl
    from nnssl.evaluate.features import embed, preparation, prepare

    load = nnssl.load_pyramid if arguments.decoder else nnssl.load_encoder
    network = load(arguments.weights, which=arguments.which)
    unknown = [level for level in arguments.pyramid if not 0 <= level < len(network.channels)]
    if unknown:
        raise UsageError(f"--pyramid takes levels from 0 to {len(network.channels) - 1}, not {unknown[0]}.")
    plan = preparation(network.weights)
    device = _device(arguments.device)
    network.to(device)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    from tqdm import tqdm

    vectors, bad = {}, []
    for name, files in tqdm(cases.items(), unit="image", disable=not sys.stderr.isatty()):
        try:
            case = prepare(files, plan)
        except DataError as error:  # one bad file among hundreds must not cost the others; it is told at the end
            bad.append(str(error))
            continue
        found = embed(network, torch.from_numpy(case.data), keep=set(arguments.pyramid), device=device)
        _write(folder / f"{name}.npz", found, case, network)
        vectors[name] = found.vector.tolist()
    if vectors:
        _write_table(folder / CSV_FILE, vectors)
        width = len(next(iter(vectors.values())))
        print(f"Wrote {len(vectors)} vectors of {width} features to {folder / CSV_FILE}")
    if bad:
        raise DataError("\n".join([f"{len(bad)} of {len(cases)} images could not be used:", *bad]))


def _device(name: str) -> str:
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        text = str(error).strip().splitlines()[0]
        raise UsageError(f"-device {name} cannot be used here ({text}). Use -device cpu.") from error
    return name


def _cases(words: Sequence[str]) -> dict[str, list[Path]]:
    """{case: files by channel}, in the order given."""
    cases: dict[str, list[Path]] = {}
    for word in words:
        if Path(word).is_dir():
            found = images_of_folder(Path(word))
        else:
            files = [Path(part) for part in word.split(",")]
            missing = [file for file in files if not file.is_file()]
            if missing:
                raise UsageError(f"The image {missing[0]} is not there.")
            found = {stem(files[0]).removesuffix("_0000"): files}
        for name, files in found.items():
            if name in cases:
                raise UsageError(f"Two images are called {name} ({cases[name][0]} and {files[0]}); rename one.")
            cases[name] = files
    return cases


def _write(
    path: Path,
    found: Embedding,
    case: OnGrid,
    network: PretrainedEncoder | PretrainedPyramid | PretrainedOther,
) -> None:
    import numpy as np

    from nnssl.atomic import whole_file

    arrays: dict[str, Any] = {
        "vector": found.vector.numpy(),
        "level_channels": np.array(network.channels),
        "level_strides": np.array(network.strides),
        "spacing_mm": np.array(network.spacing_mm),
        "to_world": case.to_world,
        **{f"map_{level}": values.half().numpy() for level, values in found.maps.items()},
    }
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def _write_table(path: Path, vectors: Mapping[str, Sequence[float]]) -> None:
    from nnssl.atomic import whole_file

    width = len(next(iter(vectors.values())))
    with whole_file(path) as temporary, temporary.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["case", *(f"f{index}" for index in range(width))])
        table.writerows([name, *(f"{value:.9g}" for value in vector)] for name, vector in vectors.items())


if __name__ == "__main__":
    sys.exit(main())
