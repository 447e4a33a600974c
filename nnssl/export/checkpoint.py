"""Writes weights that stock nnU-Net takes as they are, and publishes only what its own loader took back.

One file serves three readers: `nnUNetv2_train -pretrained_weights` (needs the whole network with every alias),
nnU-Net's nnssl flow (needs `nnssl_adaptation_plan`), and anybody with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnssl.atomic import whole_file, write_tensors
from nnssl.encoders.other import OtherNetwork
from nnssl.encoders.tokens import TokenEncoder
from nnssl.errors import ExportError
from nnssl.export.adaptation import adaptation_plan, resolved_configuration
from nnssl.export.card import model_card
from nnssl.export.other import NOTE, compare, finite, load_other, other_content, windowed
from nnssl.export.plain import plain
from nnssl.export.primus import NOTE as PRIMUS_NOTE
from nnssl.export.primus import load_primus, primus_content
from nnssl.export.proof import fresh_network, prove
from nnssl.export.provenance import complete_provenance
from nnssl.export.tensors import DECODER, ENCODER, decoder_names, encoder_names, take
from nnssl.method import Exported

CLASSES = 2  # of the segmentation layers in the file; no reader copies them
ENCODER_FILE, CARD_FILE = "encoder.safetensors", "MODEL_CARD.md"


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was published.

    Attributes:
        path: the weights file.
        encoder_tensors: encoder tensors it promises (nnU-Net's names, aliases included).
        decoder_tensors: decoder tensors it promises; 0 where the decoder is freshly initialised.
        compared: tensors that nnU-Net's loader brought back, each equal to the trained one.
        other: the network's name where it is not the plan's; our own loader compared then.
        note: what to do with such a file.
    """

    path: Path
    encoder_tensors: int
    decoder_tensors: int
    compared: int
    other: str | None = None
    note: str = NOTE

    def __str__(self) -> str:
        """One sentence for the log."""
        if self.other is not None:
            return (
                f"{self.path.name}: {self.compared} tensors of the network {self.other!r}, read back equal; "
                f"{self.note}."
            )
        decoder = f"{self.decoder_tensors} decoder tensors" if self.decoder_tensors else "a fresh decoder"
        return (
            f"{self.path.name}: {self.encoder_tensors} encoder tensors and {decoder}; nnU-Net's own loader brought "
            f"{self.compared} of {self.compared} promised tensors back equal."
        )


def publish(
    path: str | Path,
    *,
    exported: Exported,
    plans: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    channels: int,
    provenance: Mapping[str, Any],
    citations: Sequence[Mapping[str, Any]],
    seed: int,
    final: bool,
    which: str = "default",
) -> ExportReport:
    """Write `path`, `encoder.safetensors` and `MODEL_CARD.md` beside it, after proof through nnU-Net's own loader.

    Args:
        path: the weights file; an older one stays in place until the new one is proven.
        exported: the method's networks.
        plans: the pretraining plans file.
        configuration: the trained configuration.
        dataset_json: of the pretraining data set; its channel names are kept.
        channels: input channels.
        provenance: what the run knows of itself: recipe, steps, fingerprint and source hashes. Anything plain-able.
        citations: nnU-Net's form, [{"type", "name", "apa_citations": [..]}].
        seed: of the initial values of a decoder that does not transfer.
        final: whether this is the end of the run; said in the card.
        which: "default", or one of `exported.variants`.

    Raises:
        ExportError: a tensor is missing, misshapen or not finite, or nnU-Net's loader does not bring all of them back;
            nothing is written then.
    """
    path = Path(path)
    encoder, decoder = _chosen(exported, which)
    run = {"seed": seed, "final": final, "which": which, "raw_window": exported.raw_window}
    cited = plain(list(citations), where="citations")
    about_of = partial(complete_provenance, provenance, configuration=configuration, dataset_json=dataset_json)
    if isinstance(encoder, OtherNetwork):
        run |= {
            "transferred": {"encoder": len(encoder.state_dict()), "decoder": 0},
            "network": {"name": encoder.name, **encoder.options},
        }
        plans = windowed(plans, exported.raw_window)
        if isinstance(encoder, TokenEncoder):
            content = primus_content(encoder, plans, configuration, channels)
        else:
            content = other_content(encoder, plans, configuration, channels)
        content |= {"citations": cited, "provenance": about_of(plans=plans, run=run)}
        variants = [(name, found) for name, (found, _) in exported.variants.items() if isinstance(found, OtherNetwork)]
        if variants:  # what is published already takes no room again
            own = content["network_weights"]
            content["variants"] = {name: own if found is encoder else finite(found) for name, found in variants}
        return _publish_other(path, encoder, content)
    architecture = resolved_configuration(plans, configuration)["architecture"]
    network = fresh_network(architecture, channels=channels, classes=CLASSES, seed=seed)
    promised = _fill(network, encoder, decoder)
    counts = {"encoder": len(encoder_names(promised)), "decoder": len(decoder_names(promised))}
    about = about_of(plans=plans, run={**run, "transferred": counts})
    content = {
        "network_weights": network.state_dict(),
        "nnssl_adaptation_plan": adaptation_plan(network, plans, configuration, channels),
        "citations": cited,
        "provenance": about,
    }
    if exported.variants:
        content["variants"] = _variants(exported, network, which)
    if exported.heads is not None:
        content["heads"] = {name: value.detach().cpu() for name, value in exported.heads.state_dict().items()}
    with whole_file(path) as temporary:
        write_tensors(temporary, content)
        compared = prove(temporary, promised, architecture=architecture, channels=channels)
        report = ExportReport(
            path=path, encoder_tensors=counts["encoder"], decoder_tensors=counts["decoder"], compared=compared
        )
        # the weights take their name last: where they are, everything is
        write_encoder(path.with_name(ENCODER_FILE), network.state_dict(), about, content["nnssl_adaptation_plan"])
        with whole_file(path.with_name(CARD_FILE)) as card:
            card.write_text(model_card(path.name, about, content["citations"], str(report)), encoding="utf-8")
    return report


def _publish_other(path: Path, network: OtherNetwork, content: Mapping[str, Any]) -> ExportReport:
    """The same for a network that is not the plan's: proven by our own loader, and without an encoder's file."""
    from nnssl.export.sources import read_any

    tokens = isinstance(network, TokenEncoder)
    with whole_file(path) as temporary:
        write_tensors(temporary, content)
        weights = read_any(temporary)
        compared = compare(network, load_primus(weights) if tokens else load_other(weights), weights)
        report = ExportReport(
            path=path,
            encoder_tensors=compared,
            decoder_tensors=0,
            compared=compared,
            other=network.name,
            note=PRIMUS_NOTE if tokens else NOTE,
        )
        with whole_file(path.with_name(CARD_FILE)) as card:
            words = model_card(path.name, content["provenance"], content["citations"], str(report))
            card.write_text(words, encoding="utf-8")
    return report


def _chosen(exported: Exported, which: str) -> tuple[nn.Module, nn.Module | None]:
    if which == "default":
        return exported.encoder, exported.decoder
    if which not in exported.variants:
        raise ExportError(
            f"There is no variant {which!r} to export; there are default, {', '.join(exported.variants)}."
        )
    return exported.variants[which]


def _fill(network: nn.Module, encoder: nn.Module, decoder: nn.Module | None) -> dict[str, Tensor]:
    """Load the trained parts into `network`, strictly; returns the promise: nnU-Net's name -> trained value."""
    state = network.state_dict()
    promised = take(encoder, {name: state[name] for name in encoder_names(state)}, part=ENCODER)
    if decoder is not None:
        promised |= take(decoder, {name: state[name] for name in decoder_names(state)}, part=DECODER)
    # copied in place: the state's tensors are the network's own, tied between nnU-Net's aliases
    with torch.no_grad():
        for name, value in promised.items():
            state[name].copy_(value)
    return promised


def write_encoder(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """The encoder alone, one name a tensor, for readers without nnU-Net; the metadata are two JSON texts.

    Args:
        path: the safetensors file.
        state: of a network on the CPU, whose aliases share their memory.
        about: the provenance.
        plan: the adaptation plan, without which nobody could build the network or prepare an image.
    """
    from safetensors.torch import save as as_safetensors

    tensors = {name: state[name].detach().contiguous().clone() for name in _once(state)}
    metadata = {"nnssl": json.dumps(about), "nnssl_adaptation_plan": json.dumps(plan)}
    with whole_file(path) as temporary:
        temporary.write_bytes(as_safetensors(tensors, metadata=metadata))


def _once(state: Mapping[str, Tensor]) -> list[str]:
    """The encoder's names, one a tensor."""
    unique: dict[tuple[int, ...], str] = {}
    for name in encoder_names(state):
        unique.setdefault((state[name].data_ptr(), *state[name].shape), name)
    return list(unique.values())


def _variants(exported: Exported, network: nn.Module, which: str) -> dict[str, dict[str, Tensor]]:
    """{variant: its tensors by nnU-Net's names, each once}, so that a teacher's file can also give the student.

    What equals the published networks shares their memory, and so takes no room in the file.
    """
    state = network.state_dict()
    once, upper = _once(state), decoder_names(state)
    chosen = _chosen(exported, which)
    found = {}
    values: dict[str, Tensor]
    for variant, (encoder, decoder) in exported.variants.items():
        if encoder is chosen[0] and decoder is chosen[1]:
            values = state
        else:
            # every alias is asked for, since `take` refuses what it was not told of; each tensor is kept once
            values = take(encoder, {name: state[name] for name in encoder_names(state)}, part=ENCODER)
            if decoder is not None:
                values |= take(decoder, {name: state[name] for name in upper}, part=DECODER)
        found[variant] = {name: values[name] for name in (*once, *(upper if decoder is not None else ()))}
    return found
