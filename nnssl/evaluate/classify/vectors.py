"""One vector an image from each network, made once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nnssl.atomic import whole_file
from nnssl.engine.randomness import digest
from nnssl.errors import DataError
from nnssl.evaluate.classify.items import Item
from nnssl.evaluate.classify.metrics import Floats
from nnssl.evaluate.features import embed
from nnssl.planning.grid import CasePlan
from nnssl.planning.preprocess import onto_grid
from nnssl.planning.reading import read_image, source_stamp

VECTORS, IMAGES = "vectors.npz", "prepared"


def prepared_file(folder: Path, item: Item) -> Path:
    """Where an image lies as the network sees it: (C, D, H, W) float32."""
    return folder / IMAGES / f"{digest(0, 0, [str(file) for file in item.files]).hex()}.npy"


def stored_shape(file: Path) -> tuple[int, ...]:
    """The shape that a .npy file's header says; its voxels are not read, nor mapped into memory."""
    with file.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read(stream)
    return tuple(shape)


def vectors(
    networks: Mapping[str, Any],
    items: Sequence[Item],
    plan: CasePlan,
    folder: Path,
    *,
    key: str,
    largest: Sequence[int],
    keep_images: bool,
    device: str,
    progress: Callable[[str], object],
) -> tuple[dict[str, Floats], dict[str, str]]:
    """{network: (n, d) vectors} and {image: hash of its content}; what an earlier call made is taken over.

    Args:
        networks: {name: pyramid}, on `device`.
        items: what to look at.
        plan: how images are prepared.
        folder: holds `VECTORS`, and prepared images where they are kept.
        key: changes with the networks.
        largest: D H W of a window.
        keep_images: also keep the prepared images, for training on them.
        device: where to compute.
        progress: called with a passing line.

    Raises:
        DataError: images that cannot be used; all of them are named.
    """
    made = {name: row for name, row in _read(folder / VECTORS, key).items() if name in {_stamp(item) for item in items}}
    bad = []
    if keep_images:
        (folder / IMAGES).mkdir(exist_ok=True)
    try:
        for number, item in enumerate(items):
            if _stamp(item) in made and (not keep_images or prepared_file(folder, item).is_file()):
                continue
            progress(f"image {number + 1} of {len(items)}: {item.name}")
            try:
                image = read_image(item.files, plan.reader)
                data = onto_grid(image, plan).data
            except DataError as error:  # all bad images of hundreds are told at once
                bad.append(str(error))
                continue
            if keep_images:
                _keep(prepared_file(folder, item), data)
            found = _vectors(networks, data, largest, device)
            made[_stamp(item)] = {"hash": image.source_hash, **found}
    finally:  # a stopped command keeps what it has
        _write(folder / VECTORS, key, made, list(networks))
    if bad:
        raise DataError("\n".join([f"{len(bad)} of {len(items)} images could not be used:", *bad]))
    rows = [made[_stamp(item)] for item in items]
    stacked = {name: np.stack([row[name] for row in rows]).astype(np.float64) for name in networks}
    return stacked, {item.name: str(row["hash"]) for item, row in zip(items, rows, strict=True)}


def _vectors(
    networks: Mapping[str, Any], data: npt.NDArray[np.float32], largest: Sequence[int], device: str
) -> dict[str, npt.NDArray[np.float32]]:
    """{network: (d,)} of one prepared image."""
    image = torch.from_numpy(data)
    return {
        name: embed(network, image, largest=largest, device=device).vector.numpy() for name, network in networks.items()
    }


def _keep(file: Path, data: npt.NDArray[np.float32]) -> None:
    with whole_file(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, data)


def _stamp(item: Item) -> str:
    """Changes with the names, sizes and times of the files."""
    return "|".join([*map(str, item.files), source_stamp(item.files)])


def _read(file: Path, key: str) -> dict[str, dict[str, Any]]:
    """{stamp: row} of an earlier call with the same networks."""
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as content:
        about = json.loads(str(content["about"]))
        arrays = {name: content[name] for name in about["networks"]} if about["key"] == key else {}
    return {
        row["stamp"]: {"hash": row["hash"], **{name: values[index] for name, values in arrays.items()}}
        for index, row in enumerate(about["rows"] if arrays else [])
    }


def _write(file: Path, key: str, made: Mapping[str, Mapping[str, Any]], networks: Sequence[str]) -> None:
    if not made:
        return
    rows = [{"stamp": stamp, "hash": row["hash"]} for stamp, row in made.items()]
    about = np.array(json.dumps({"key": key, "networks": list(networks), "rows": rows}))
    arrays: dict[str, Any] = {name: np.stack([row[name] for row in made.values()]) for name in networks}
    with whole_file(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, about=about, **arrays)
