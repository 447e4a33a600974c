"""What of pretrained weights fits a target's plan, what does not, what that costs, and what to do about it.

Two questions are kept apart. Shapes decide whether nnU-Net takes the file; it says so itself, if tersely. What nobody
else checks (strides, spacing, normalisation, axes) loads without a word and trains worse: those rows are why this is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnssl.export.architecture_rows import architecture_rows
from nnssl.export.fit import Count
from nnssl.export.fitted import TargetPlan, fit_to, has_decoder
from nnssl.export.input_rows import input_rows
from nnssl.export.other import is_primus
from nnssl.export.primus_fit import primus_rows
from nnssl.export.read import Weights
from nnssl.export.rows import Commands, Row, by
from nnssl.export.sources import maker
from nnssl.export.tensors import unwrapped


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The whole answer.

    Attributes:
        maker: who wrote the file.
        rows: the table.
        refused: what stock nnU-Net's loader lacks in the file as it is; "" where it takes it.
        encoder: tensors that `nnssl_export` would transfer.
        decoder: the same of the decoder.
    """

    maker: str
    rows: tuple[Row, ...]
    refused: str
    encoder: Count
    decoder: Count

    @property
    def fits(self) -> bool:
        """Whether stock nnU-Net starts from the file as it is, and nothing is at odds in silence."""
        return not self.refused and all(row.verdict != "no" for row in self.rows)


def diagnose(weights: Weights, target: TargetPlan, commands: Commands) -> Diagnosis:
    """Compare `weights` with `target`; reads and writes nothing.

    Raises:
        ExportError: the weights are of another kind of network altogether.
    """
    network, fitted = fit_to(weights, target)
    rows = [
        *(primus_rows if is_primus(weights) else architecture_rows)(weights, target, commands),
        *input_rows(weights, target, commands),
    ]
    return Diagnosis(
        maker=maker(weights),
        rows=tuple(rows),
        refused=_refusal(weights, network.state_dict()),
        encoder=fitted.count(*fitted.encoder),
        decoder=fitted.count(*fitted.decoder),
    )


def _refusal(weights: Weights, state: Mapping[str, Any]) -> str:
    """What `nnUNetv2_train -pretrained_weights` would stop at: every name must be there, in the same shape."""
    given = unwrapped(weights.tensors)
    wanted = {name: value for name, value in state.items() if ".seg_layers." not in name}
    missing = [name for name in wanted if name not in given]
    shapes = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    if missing:
        return f"{len(missing)} of {len(wanted)} names are missing, first {missing[0]}"
    if shapes:
        name = shapes[0]
        return (
            f"{len(shapes)} of {len(wanted)} tensors have another shape, first {name}: "
            f"{by(given[name].shape)}, needed {by(wanted[name].shape)}"
        )
    return ""


def decoder_note(weights: Weights) -> str:
    """A sentence about the decoder."""
    return (
        "" if has_decoder(weights) else "The weights hold no trained decoder; nnU-Net's starts fresh, as from scratch."
    )
