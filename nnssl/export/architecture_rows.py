"""The doctor's rows about the network: what `arch_kwargs` of weights and target agree on, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnssl.export.fitted import TargetPlan
from nnssl.export.read import Weights
from nnssl.export.rows import Commands, Row, by

# what -> (key in arch_kwargs, consequence); all but the class are mended by the export as far as its rules go
_PARTS = (
    ("stages", "n_stages", "deeper stages start fresh, or are left out"),
    ("features", "features_per_stage", "stages of another width cannot transfer and start fresh"),
    ("blocks a stage", "n_blocks_per_stage", "additional blocks start fresh"),
    ("convolutions a stage", "n_conv_per_stage", "additional convolutions start fresh"),
    ("decoder convolutions", "n_conv_per_stage_decoder", "additional decoder convolutions start fresh"),
    ("kernels", "kernel_sizes", "nnU-Net refuses the shapes; the export adapts them"),
    ("strides", "strides", "loads in silence where decoder kernels agree, but stages see structures at another size"),
    ("convolution bias", "conv_bias", "biases start fresh or are lost"),
    ("normalisation layer", "norm_op", "features are scaled otherwise than in pretraining"),
    ("nonlinearity", "nonlin", "loads in silence, but features are not those that were learned"),
)


def architecture_rows(weights: Weights, target: TargetPlan, commands: Commands) -> list[Row]:
    """Class first, then every property that either side has."""
    ours, theirs = weights.architecture, target.chosen["architecture"]
    kinds = [str(block["network_class_name"]).rsplit(".", 1)[-1] for block in (ours, theirs)]
    same = kinds[0] == kinds[1]
    rows = [
        Row(
            what="architecture",
            weights=kinds[0],
            target=kinds[1],
            verdict="fits" if same else "no",
            consequence="" if same else "layers have other names and meanings: next to nothing transfers",
            fix="" if same else commands.plan_like,
        )
    ]
    for what, key, consequence in _PARTS:
        left, right = (_per_stage(block["arch_kwargs"], key) for block in (ours, theirs))
        if left is None and right is None:
            continue
        equal = left == right
        rows.append(
            Row(
                what=what,
                weights=_short(left),
                target=_short(right),
                verdict="fits" if equal else "no",
                consequence="" if equal else consequence,
                fix=""
                if equal
                else (f"{commands.plan_like} (exact)  or  {commands.export}" if same else commands.plan_like),
            )
        )
    return rows


def _per_stage(kwargs: Mapping[str, Any], key: str) -> Any:
    """A value of arch_kwargs in one form: per stage, kernels and strides as triples."""
    value = kwargs.get(key)
    stages = int(kwargs["n_stages"])
    if key in ("kernel_sizes", "strides") and value is not None:
        rows = [value] * stages if isinstance(value, int) else list(value)
        return [[row] * 3 if isinstance(row, int) else list(row) for row in rows]
    if key in ("n_blocks_per_stage", "n_conv_per_stage", "n_conv_per_stage_decoder") and isinstance(value, int):
        return [value] * (stages - (key == "n_conv_per_stage_decoder"))
    return list(value) if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    """A value per stage in few letters: 1x3x3, 3x3x3 (5)."""
    if value is None:
        return "-"
    if not isinstance(value, list):
        return str(value).rsplit(".", 1)[-1]
    texts = [by(row) if isinstance(row, list) else str(row) for row in value]
    runs: list[tuple[str, int]] = []
    for text in texts:
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1] + 1)
        else:
            runs.append((text, 1))
    return " ".join(text if count == 1 else f"{text}({count})" for text, count in runs)
