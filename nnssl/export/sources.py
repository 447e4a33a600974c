"""Weights of any maker as one `Weights`: ours, stock nnU-Net's, the peer's (nnssl of MIC-DKFZ, OpenMind). Runs no code.

What another maker's file does not say is left out, never guessed: `Weights.configuration` may then lack, say,
`normalization_schemes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnssl.errors import DataError, ExportError
from nnssl.export.adaptation import resolved_configuration
from nnssl.export.other import PRIMUS
from nnssl.export.plain import plain
from nnssl.export.read import Weights, assembled, check_adaptation, load_content

OURS, STOCK, PEER = "nnssl", "stock nnU-Net", "nnssl of MIC-DKFZ"
SAFETENSORS = ".safetensors"
_ENCODER_FILE_KEY = "nnssl_adaptation_plan"  # of the metadata of encoder.safetensors
_FOLDER_WEIGHTS, _FOLDER_PLAN = "checkpoint_final.pth", "adaptation_plan.json"
_UNET = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
# What the peer means by a bare name: Isensee et al. 2024 (arXiv:2404.09556), the large residual encoder on 6 stages
_NAMED: dict[str, dict[str, Any]] = {
    "ResEncL": {
        "n_stages": 6,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 6,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
        "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
        "n_conv_per_stage_decoder": [1] * 5,
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
}
_NAMED_IMPORTS = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def maker(weights: Weights) -> str:
    """Who wrote the file: `OURS`, `STOCK` or `PEER`."""
    if weights.provenance.get("maker") == STOCK:
        return STOCK
    return OURS if weights.provenance else PEER


def read_any(path: str | Path, *, which: str = "default") -> Weights:
    """Read weights of any known maker.

    Args:
        path: a .pth file, our encoder.safetensors, or a folder with checkpoint_final.pth and adaptation_plan.json.
        which: "default", or a variant that the file holds ("student", "teacher").

    Raises:
        DataError: the file cannot be read, is of no known maker, or has no such variant.
    """
    path = Path(path)
    if path.is_dir():
        weights = _folder(path)
    elif path.suffix == SAFETENSORS:
        weights = _safetensors(path)
    else:
        weights = _from_content(path, load_content(path), None)
    return weights if which == "default" else _variant(weights, which)


def _variant(weights: Weights, which: str) -> Weights:
    if which not in weights.variants:
        known = ", ".join(["default", *weights.variants])
        raise DataError(f"{weights.path} holds no variant {which!r}; it holds {known}.")
    tensors = dict(weights.variants[which])
    decoder = sum(name.startswith("decoder.") for name in tensors)
    provenance = {**weights.provenance, "which": which}
    provenance["transferred"] = {"encoder": len(tensors) - decoder, "decoder": decoder}
    return Weights(
        path=weights.path,
        tensors=tensors,
        adaptation=weights.adaptation,
        provenance=provenance,
        citations=weights.citations,
        variants=weights.variants,
    )


def _folder(folder: Path) -> Weights:
    """The layout of the peer's published repositories."""
    file, plan = folder / _FOLDER_WEIGHTS, folder / _FOLDER_PLAN
    if not file.is_file():
        raise DataError(f"{folder} is a folder without {_FOLDER_WEIGHTS}. Name the weights file itself.")
    return _from_content(file, load_content(file), _read_json(plan) if plan.is_file() else None)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not readable JSON ({error}). Download it again.") from error


def _from_content(path: Path, content: Any, beside: Any) -> Weights:
    """`beside` is the adaptation plan from a file beside the weights, for weights that hold none."""
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        raise DataError(f"{path} is a torch file but holds no 'network_weights', as weights of nnU-Net and nnssl do.")
    own = content.get(_ENCODER_FILE_KEY, beside)
    if isinstance(own, Mapping):
        said = content.get("provenance")
        provenance = said if isinstance(said, Mapping) else {}
        adaptation = _adaptation(path, own)
    elif isinstance(content.get("init_args"), Mapping):
        provenance = {"maker": STOCK, **_stock_facts(content["init_args"])}
        adaptation = _stock(path, content["init_args"])
    else:
        raise DataError(
            f"{path} holds network weights but says nothing of the network they are for: neither "
            f"'{_ENCODER_FILE_KEY}' (nnssl) nor 'init_args' (nnU-Net) is in it, and no {_FOLDER_PLAN} came with it."
        )
    check_adaptation(path, adaptation)
    return assembled(path, content, adaptation, provenance)


def _adaptation(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The block with the architecture written out, and every part of it that is read later checked."""
    try:
        block = dict(given["architecture_plans"])
        name = str(block["arch_class_name"])
        if not block.get("arch_kwargs"):
            # nnssl writes no arguments for a Primus, which its size and patch describe
            own: dict[str, Any] | None = {} if name in PRIMUS and block.get("arch_kwargs") == {} else None
            block["arch_kwargs"] = given.get("architecture_kwargs") or _NAMED.get(name, own)
        if block["arch_kwargs"] is None:
            raise DataError(
                f"{path} holds a {name} network; only nnU-Net's convolutional U-Nets, and a Primus that nnssl wrote, "
                f"can be fitted."
            )
        if name in _NAMED:
            block.update(arch_class_name=_UNET, arch_kwargs_requiring_import=_NAMED_IMPORTS)
        plan = dict(given["pretrain_plan"])
        first = next(iter(plan["configurations"]))
        plan["configurations"] = {first: dict(plan["configurations"][first])}
        int(given["pretrain_num_input_channels"])
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError(f"'{_ENCODER_FILE_KEY}' of {path} lacks or garbles something ({error!r}).") from error
    return {**given, "architecture_plans": block, "pretrain_plan": plan}


def _stock(path: Path, init: Mapping[str, Any]) -> dict[str, Any]:
    """The same block from what a stock trainer notes: its arguments."""
    try:
        plans, configuration = init["plans"], str(init["configuration"])
        chosen = plain(resolved_configuration(plans, configuration))
        architecture = chosen["architecture"]
        rest = {key: plain(item) for key, item in plans.items() if key not in ("configurations", "continue_training")}
        return {
            "architecture_plans": {
                "arch_class_name": architecture["network_class_name"],
                "arch_kwargs": architecture["arch_kwargs"],
                "arch_kwargs_requiring_import": architecture["_kw_requires_import"],
            },
            "pretrain_plan": {**rest, "configurations": {configuration: chosen}},
            "pretrain_num_input_channels": len(chosen["normalization_schemes"]),
            "recommended_downstream_patchsize": chosen["patch_size"],
        }
    except (KeyError, TypeError, ValueError, AttributeError, ExportError) as error:
        raise DataError(
            f"{path} looks like a checkpoint of stock nnU-Net, but its 'init_args' do not hold a plan with an "
            f"architecture ({error}). nnU-Net 2.4 and older write none; continue such weights with nnU-Net itself."
        ) from error


def _stock_facts(init: Mapping[str, Any]) -> dict[str, Any]:
    description = init.get("dataset_json")
    names = description.get("channel_names", {}) if isinstance(description, Mapping) else {}
    return {"channel_names": plain(names) if isinstance(names, Mapping) else {}}


def _safetensors(path: Path) -> Weights:
    if not path.is_file():
        raise DataError(f"{path} is not there; a weights file (.pth or {SAFETENSORS}) is needed.")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        about = {key: json.loads(text) for key, text in metadata.items() if key in ("nnssl", _ENCODER_FILE_KEY)}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # too deep a JSON is a RuntimeError
        raise DataError(f"{path} is damaged or no safetensors file ({error}). Copy it again.") from error
    if _ENCODER_FILE_KEY not in about:
        raise DataError(
            f"The metadata of {path} do not say what network it is for. Use checkpoint_final.pth beside it."
        )
    adaptation, said = _adaptation(path, about[_ENCODER_FILE_KEY]), about.get("nnssl")
    check_adaptation(path, adaptation)
    return assembled(path, {"network_weights": tensors}, adaptation, said if isinstance(said, Mapping) else {})
