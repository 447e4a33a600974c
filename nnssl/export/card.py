"""The model card beside a weights file: what it is, what it fits, how to use it, what to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnssl.export.other import PRIMUS

_USE = (
    "Fine-tune on labelled data set 4, with stock nnU-Net:",
    "",
    "    nnssl_plan_like {file} -d 4",
    "",
    "It prints the two nnU-Net commands that follow. `torch.load(..., weights_only=True)` reads the file; "
    "`encoder.safetensors` holds the encoder alone.",
)
_USE_OTHER = (
    "    nnssl_features {file} scan.nii.gz -o features --decoder",
    "",
    'In Python: `nnssl.load_pyramid("{file}")`. nnU-Net cannot build this network, so none of its '
    "trainings can start from it.",
)

_USE_PRIMUS = (
    "Fine-tune on labelled data set 4, with stock nnU-Net and its Primus trainer:",
    "",
    "    nnssl_export {file} -d 4",
    "",
    "It fits the weights to the data set's own plan, whose patch must be a multiple of 8 voxels a side, and prints the "
    'nnU-Net command that follows. In Python: `nnssl.load_encoder("{file}")`.',
)


def model_card(file: str, about: Mapping[str, Any], citations: Sequence[Mapping[str, Any]], proof: str) -> str:
    """Markdown for people.

    Args:
        file: name of the weights file.
        about: the file's provenance.
        citations: nnU-Net's form, [{"type", "name", "apa_citations": [..]}].
        proof: the sentence about what nnU-Net's loader brought back.
    """
    state = "finished run" if about["final"] else "run still going on; these weights will be replaced"
    method = about.get("method") or about.get("trainer") or "self-supervised pretraining"
    other = about.get("network")
    primus = isinstance(other, Mapping) and str(other["name"]) in PRIMUS.values()
    decoder = "encoder and decoder" if about["transferred"]["decoder"] else "encoder (the decoder starts fresh)"
    lines = [
        f"# {method} on {about['dataset']}",
        "",
        f"Weights{'' if other and not primus else ' for nnU-Net'} in `{file}`, from a {state}. {proof}",
        "",
        "| what | value |",
        "|---|---|",
        f"| pretrained part | {_part(other, primus) or decoder} |",
        f"| plan | {about['plans_name']}, {about['configuration']} |",
        f"| channels | {_channels(about['channel_names'])} |",
        f"| spacing D H W | {_numbers(about['spacing_mm'])} mm |",
        f"| patch D H W | {_numbers(about['patch_size'])} voxels |",
        f"| normalisation | {', '.join(about['normalization_schemes'])} |",
        *(f"| {name} | {about[name]} |" for name in ("steps", "epochs", "cases") if name in about),
        f"| versions | {', '.join(f'{name} {number}' for name, number in about['versions'].items())} |",
        "",
        "## Use",
        "",
        *(line.format(file=file) for line in (_USE_PRIMUS if primus else _USE_OTHER if other else _USE)),
        "",
        "## Limits",
        "",
        "Not a medical device. The weights know only the kind of scans they were trained on.",
    ]
    if citations:
        lines += ["", "## Cite", ""] + [f"- {text}" for entry in citations for text in _citation(entry)]
    return "\n".join(lines) + "\n"


def _part(other: Any, primus: bool) -> str:
    """Of a network that is not the plan's; "" where it is."""
    if primus:
        return f"encoder of {other['name']} (the decoder starts fresh)"
    return f"the whole network {other}" if other else ""


def _citation(entry: Mapping[str, Any]) -> list[str]:
    texts = entry.get("apa_citations") or entry.get("bibtex_citations") or [entry.get("name", "")]
    return [str(text) for text in texts]


def _channels(names: Mapping[str, Any] | Sequence[Any]) -> str:
    values = names.values() if isinstance(names, Mapping) else names
    return ", ".join(str(name) for name in values)


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
