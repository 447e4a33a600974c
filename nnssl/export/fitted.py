"""Writes weights fitted to one target's plan, proven through the loader that will read them.

Three formats: *stock*, the whole network with every alias, for `nnUNetv2_train -pretrained_weights` (and, since it
holds the adaptation plan, for everything else); *nnssl*, encoder and adaptation plan, for nnU-Net's nnssl flow and for
sharing; *safetensors*, the encoder alone with JSON metadata.

The adaptation plan of a fitted file has the target's architecture and the *pretraining's* spacing, normalisation and
intensity statistics: these say what the weights know, and `nnssl_doctor` must be able to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nnssl.atomic import whole_file, write_tensors
from nnssl.encoders.tokens import KEYS
from nnssl.errors import ExportError, PlanError, UsageError
from nnssl.export.adaptation import adaptation_plan
from nnssl.export.checkpoint import CLASSES, write_encoder
from nnssl.export.fit import Fit, fit
from nnssl.export.other import is_primus
from nnssl.export.plain import plain
from nnssl.export.primus import primus_plan, size_of
from nnssl.export.primus_fit import fit_primus, prove_primus
from nnssl.export.proof import fresh_network, prove
from nnssl.export.read import Weights
from nnssl.export.rules import channel_mixing
from nnssl.export.tensors import DECODER, ENCODER, encoder_names

Format = Literal["stock", "nnssl", "safetensors"]
FORMATS: tuple[Format, ...] = ("stock", "nnssl", "safetensors")
_PER_CHANNEL = ("normalization_schemes", "use_mask_for_norm")
_INTENSITIES = "foreground_intensity_properties_per_channel"


@dataclass(frozen=True, kw_only=True)
class TargetPlan:
    """What weights are fitted to.

    Attributes:
        plans: the target's plans file.
        configuration: name of the configuration.
        chosen: that configuration with what it inherits.
        channel_names: of the target's dataset.json; empty where there is none.
        orientation: how most of its scans lie once nnU-Net has ordered their axes, as `planning.orientation.codes` says
            it; None: not looked at.
        dataset_json: the same file as a whole; empty where there is none.
    """

    plans: Mapping[str, Any]
    configuration: str
    chosen: Mapping[str, Any]
    channel_names: tuple[str, ...] = ()
    orientation: str | None = None
    dataset_json: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Input channels of the target's network."""
        return len(self.chosen["normalization_schemes"])


def has_decoder(weights: Weights) -> bool:
    """Whether the file holds a decoder that was trained: ours say so; of others, any decoder counts as trained."""
    if not any(name.startswith(f"{DECODER}stages.") for name in weights.tensors):
        return False  # encoder.safetensors tells of a decoder that lies in the file beside it
    said = weights.provenance.get("transferred")
    return not isinstance(said, Mapping) or bool(said.get("decoder", 0))


def fit_to(
    weights: Weights, target: TargetPlan, *, channels: Sequence[int] | None = None, seed: int = 0
) -> tuple[nn.Module, Fit]:
    """The target's freshly initialised network, and the weights fitted to it (not yet loaded).

    Raises:
        ExportError: nnU-Net cannot build the network, or the weights are of another kind.
        UsageError: `channels` does not suit.
    """
    if is_primus(weights):
        return fit_primus(weights, target, channels=channels, seed=seed)
    architecture = target.chosen["architecture"]
    try:
        network = fresh_network(architecture, channels=target.channels, classes=CLASSES, seed=seed)
    except PlanError as error:
        raise ExportError(f"The network of {target.plans['plans_name']} is not built: {error}") from error
    return network, fit(weights.tensors, network, decoder=has_decoder(weights), channels=channels)


def write_fitted(
    path: Path,
    weights: Weights,
    target: TargetPlan,
    *,
    form: Format = "stock",
    channels: Sequence[int] | None = None,
    min_transfer: float = 0.9,
    seed: int = 0,
) -> tuple[Fit, int]:
    """Fit, prove and write.

    Args:
        path: the file to write; an older one stays in place until the new one is proven.
        weights: the source.
        target: what to fit to.
        form: the format.
        channels: for every input channel of the target the source channel it takes; None: repeat or add up.
        min_transfer: least share of the encoder's tensors that must come from the weights, 0 to 1.
        seed: of the values that stay fresh.

    Returns:
        the fit, and how many tensors were read back and found equal.

    Raises:
        ExportError: too little transfers, or the file does not bring back what it promises; nothing is written then.
        UsageError: `channels` does not suit.
    """
    if is_primus(weights) and form != "stock":
        raise UsageError(
            f"--format {form} is for U-Nets. {weights.path.name} holds the encoder of Primus under nnU-Net's names "
            f"already; --format stock fits it to {target.plans['dataset_name']}."
        )
    network, fitted = fit_to(weights, target, channels=channels, seed=seed)
    _refuse_little(weights, target, fitted, min_transfer)
    state = network.state_dict()
    with torch.no_grad():
        for name, value in fitted.tensors.items():
            state[name].copy_(value)
    plan = _plan(network, weights, target, channels)
    about = _about(weights, target, fitted, channels=channels, seed=seed, decoder=form == "stock")
    if form == "safetensors":
        write_encoder(path, state, about, plan)
        return fitted, _prove_encoder(path, fitted)
    kept = state if form == "stock" else {name: state[name] for name in encoder_names(state)}
    content = {
        "network_weights": kept,
        "nnssl_adaptation_plan": plan,
        "citations": plain(list(weights.citations)),
        "provenance": about,
    }
    with whole_file(path) as temporary:
        write_tensors(temporary, content)
        if is_primus(weights):
            compared = prove_primus(temporary, fitted.tensors, weights, target, seed=seed + 1)
        elif form == "stock":
            architecture = target.chosen["architecture"]
            compared = prove(temporary, fitted.tensors, architecture=architecture, channels=target.channels)
        else:
            compared = _prove_parts(temporary, target, fitted)
    return fitted, compared


def _refuse_little(weights: Weights, target: TargetPlan, fitted: Fit, least: float) -> None:
    found = fitted.count(*fitted.encoder)
    if found.share >= least:
        return
    reasons = list(fitted.reasons(*fitted.encoder).items())[:3]
    why = "; ".join(f"{count} fresh: {why}" for (how, why), count in reasons if how == "fresh")
    raise ExportError(
        f"Only {100 * found.share:.0f} % of the encoder's {found.exact + found.adapted + found.fresh} tensors of "
        f"{target.plans['plans_name']} ({target.configuration}) would come from {weights.path} ({why}); --min_transfer "
        f"asks for {100 * least:.0f} %. Make a plan that fits with nnssl_plan_like, see nnssl_doctor, or lower "
        f"--min_transfer."
    )


def _plan(network: nn.Module, weights: Weights, target: TargetPlan, channels: Sequence[int] | None) -> dict[str, Any]:
    """The target's architecture and patch; what was learned at stays the pretraining's, channel by channel."""
    ((name, learned),) = weights.plans["configurations"].items()
    chosen = deepcopy(dict(learned))
    if not is_primus(weights):
        chosen["architecture"] = deepcopy(target.chosen["architecture"])
    chosen["patch_size"] = list(target.chosen["patch_size"])
    plans = {**deepcopy(dict(weights.plans)), "configurations": {name: chosen}}
    origins = _origins(weights, target, channels)
    for key in _PER_CHANNEL:
        if key in chosen:
            chosen[key] = [chosen[key][origin] for origin in origins]
    if _INTENSITIES in plans:
        found = plans[_INTENSITIES]
        plans[_INTENSITIES] = {str(index): found[str(origin)] for index, origin in enumerate(origins)}
    if is_primus(weights):
        keys = {key: getattr(network, key) for key in KEYS}
        return primus_plan(f"primus_{size_of(weights)}", keys, plans, name, chosen, target.channels)
    return adaptation_plan(network, plans, name, target.channels)


def _about(
    weights: Weights, target: TargetPlan, fitted: Fit, *, channels: Sequence[int] | None, seed: int, decoder: bool
) -> dict[str, Any]:
    """The source's provenance, with what was done to it; `decoder`: whether the file holds one at all."""
    counts = {"encoder": fitted.count(*fitted.encoder), "decoder": fitted.count(*fitted.decoder)}
    done = {part: count.exact + count.adapted for part, count in counts.items()}
    origins = _origins(weights, target, channels)
    names = weights.provenance.get("channel_names", {})
    about: dict[str, Any] = plain(
        {
            **weights.provenance,
            "transferred": done if decoder else {**done, "decoder": 0},
            "channel_names": {str(index): names[str(one)] for index, one in enumerate(origins) if str(one) in names},
            "fitted_to": {
                "dataset": target.plans["dataset_name"],
                "plans_name": target.plans["plans_name"],
                "configuration": target.configuration,
                "counts": counts,
                "channels": origins,
                "seed": seed,
                "source": weights.path.name,
            },
        },
        where="provenance",
    )
    return about


def _origins(weights: Weights, target: TargetPlan, channels: Sequence[int] | None) -> list[int]:
    """For every target channel the source channel that describes it: the first it takes most from."""
    origins: list[int] = channel_mixing(weights.channels, target.channels, channels).argmax(dim=1).tolist()
    return origins


def _prove_encoder(path: Path, fitted: Fit) -> int:
    from safetensors.torch import load_file

    found = load_file(path)
    wanted = {one.aliases[0]: one for one in fitted.moved if one.how != "fresh" and one.name.startswith(ENCODER)}
    differing = [n for n in wanted if n not in found or not torch.equal(found[n], fitted.tensors[n])]
    if differing:
        path.unlink()
        raise ExportError(f"{path} did not bring back {differing[0]} as it was written; it was removed.")
    return len(wanted)


def _prove_parts(path: Path, target: TargetPlan, fitted: Fit) -> int:
    """Read as nnU-Net's nnssl flow does: by `key_to_encoder` and `key_to_stem`, strictly, into a fresh network."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    network = fresh_network(target.chosen["architecture"], channels=target.channels, classes=3, seed=1)
    plan, weights = content["nnssl_adaptation_plan"], content["network_weights"]
    for key in dict.fromkeys((plan["key_to_encoder"], plan["key_to_stem"])):
        part = {name.removeprefix(f"{key}."): value for name, value in weights.items() if name.startswith(f"{key}.")}
        network.get_submodule(key).load_state_dict(part, strict=True)
    loaded = network.state_dict()
    wanted = [name for name in fitted.tensors if name.startswith(ENCODER)]
    differing = [name for name in wanted if not torch.equal(loaded[name], fitted.tensors[name])]
    if differing:
        raise ExportError(f"The nnssl flow would not get {differing[0]} as it was fitted. Nothing was written.")
    return len(wanted)
