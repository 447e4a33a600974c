"""The conformance kit passes honest methods and names the promise that a broken one breaks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "methods"))
from grid_group import GridGroup
from keep_clean import KeepClean
from two_sources import TwoSources

from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.deferred import Commit, Deferred
from nnssl.blocks.losses import wide
from nnssl.errors import PluginError
from nnssl.method import Batch, Exported, Features, Losses, Needs, Networks, Step, ViewSpec
from nnssl.testing import check_method
from nnssl.testing_world import small_networks
from nnssl.views.spec import Source, ViewGroup

CALLS: list[int] = []
OWN = "from keep_clean import KeepClean\n\n\nclass Own(KeepClean):\n"


@pytest.mark.parametrize("method", [TwoSources, GridGroup, KeepClean])
def test_methods_that_press_on_the_seam_pass(method: type[Any]) -> None:
    check_method(method)


@pytest.mark.parametrize("kind", [{"residual": True}, {"anisotropic": True}, {"channels": 2}])
def test_a_method_passes_on_other_plans(kind: dict[str, Any]) -> None:
    check_method(KeepClean, networks=lambda: small_networks(**kind))


class MovesBuffer(Deferred):
    """Moves in forward and, if told so, in dropped steps."""

    value: Tensor

    def __init__(self, *, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.register_buffer("value", torch.zeros(1))

    def commit(self, commit: Commit) -> None:
        self.value += commit.applied if self.gated else 1


class ImpureViews(KeepClean):
    @classmethod
    def views(cls, config: Any, plan: Any, data: Any) -> ViewSpec:
        CALLS.append(1)
        size = plan.fit_view(limit=data.shape_quantiles[10])
        box = ((size[0], size[0] + len(CALLS)), (size[1],) * 2, (size[2],) * 2)
        return ViewSpec(sources=(Source(size=box),), groups=(ViewGroup(name="crop", size=size, keep_clean=True),))


class OddViews(KeepClean):
    @classmethod
    def views(cls, config: Any, plan: Any, data: Any) -> ViewSpec:
        group = ViewGroup(name="crop", size=(16, 30, 32), keep_clean=True)
        return ViewSpec(sources=(Source(size=((16, 16), (30, 30), (32, 32))),), groups=(group,))


class NoPaper(KeepClean):
    PAPER = None  # type: ignore[assignment]


class VectorLoss(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        return Losses(total=super().forward(batch, step).total.expand(2))


class AttachedParts(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        total = super().forward(batch, step).total
        return Losses(total=total, parts={"mse": total})


class NotFinite(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        return Losses(total=super().forward(batch, step).total / 0)


class UnkeyedNoise(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        return Losses(total=super().forward(batch, step).total * (1 + torch.rand(())))


class FixedType(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        return Losses(total=super().forward(batch, step).total.float())


class FixedInput(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        extra = self.to_voxels(torch.zeros(1, self.unet.channels[0], 1, 1, 1)).sum()
        return Losses(total=super().forward(batch, step).total + extra)


class CoarseLoss(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        view = batch.views["crop"]
        maps = self.to_voxels(self.unet(view.image[:, 0])[0])
        return Losses(total=(maps - view.clean[:, 0].to(maps)).square().mean())


class DeadParameter(KeepClean):
    def __init__(self, config: Any, networks: Any) -> None:
        super().__init__(config, networks)
        self.forgotten = nn.Linear(2, 2)


class TrainableTeacher(KeepClean):
    def __init__(self, config: Any, networks: Any) -> None:
        super().__init__(config, networks)
        self.teacher = networks.teacher(self.to_voxels, momentum=lambda index, total: 0.9)
        self.teacher.requires_grad_(True)


class PartialGroups(KeepClean):
    def parameter_groups(self) -> list[dict[str, Any]]:
        return super().parameter_groups()[:1]


class EagerState(KeepClean):
    def __init__(self, config: Any, networks: Any) -> None:
        super().__init__(config, networks)
        self.queue = MovesBuffer(gated=True)

    def forward(self, batch: Batch, step: Step) -> Losses:
        self.queue.value += 1
        return super().forward(batch, step)


class UngatedState(KeepClean):
    def __init__(self, config: Any, networks: Any) -> None:
        super().__init__(config, networks)
        self.queue = MovesBuffer(gated=False)


class HiddenState(KeepClean):
    factor = 1.0

    def edit_gradients(self, step: Step) -> None:
        self.factor = 2.0

    def forward(self, batch: Batch, step: Step) -> Losses:
        return Losses(total=super().forward(batch, step).total * self.factor)


class SumOfSamples(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        return Losses(total=super().forward(batch, step).total * len(batch.keys))


class CountsInvalid(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        view = batch.views["crop"]
        prediction = self.to_voxels(self.unet(view.image[:, 0])[0])
        return Losses(total=(wide(prediction) - view.image[:, 0]).square().mean())


class FlatFeatures(KeepClean):
    def features(self, image: Tensor) -> Features:
        return Features(pyramid=super().features(image).pyramid[::-1], vector=torch.zeros(2, 3))


class WrongVector(KeepClean):
    def features(self, image: Tensor) -> Features:
        return Features(pyramid=super().features(image).pyramid, vector=torch.zeros(3))


class JointFeatures(KeepClean):
    def __init__(self, config: Any, networks: Networks) -> None:
        super().__init__(config, networks)
        self.norm = BatchNorm(1, affine=False)

    def features(self, image: Tensor) -> Features:
        features = super().features(image)
        return Features(pyramid=features.pyramid, vector=self.norm(features.vector))


class WrongExport(KeepClean):
    def export_network(self) -> Exported:
        return Exported(encoder=self.unet)


class CallsBackward(KeepClean):
    def forward(self, batch: Batch, step: Step) -> Losses:
        losses = super().forward(batch, step)
        losses.total.backward()
        return losses


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (NoPaper, "PAPER must be one line"),
        (ImpureViews, r"must be pure"),
        (OddViews, r"illegal view.*divisible"),
        (VectorLoss, "Losses.total must be a scalar"),
        (AttachedParts, r"Losses.parts\['mse'\] must be detached"),
        (NotFinite, "Losses.total is inf"),
        (UnkeyedNoise, "for the same batch and step. Draw random numbers by step"),
        (FixedType, "must give a float64 loss; it gave torch.float32"),
        (FixedInput, "fails in float64"),
        (CoarseLoss, "float32 inside bfloat16 autocast"),
        (DeadParameter, "forgotten.weight is trainable but got no gradient"),
        (TrainableTeacher, r"teacher.network.weight belongs to a Deferred module"),
        (PartialGroups, "parameter_groups"),
        (EagerState, "forward changed queue.value"),
        (UngatedState, "a dropped step .* changed queue.value"),
        (HiddenState, "all state must be in parameters and registered buffers"),
        (SumOfSamples, r"Return a mean over samples, or say Needs\(batch_coupled=True\)"),
        (FlatFeatures, "finest first"),
        (WrongVector, r"vector must be \(N, d\)"),
        (JointFeatures, "uses BatchNorm.*rank 0 alone"),
        (WrongExport, "does not fit nnU-Net's network"),
    ],
)
def test_broken_promise_is_named(method: type[Any], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # this file holds every broken method at once, so the look at the source has tests of its own below
    monkeypatch.setattr("nnssl.testing.check_source", lambda method: None)
    with pytest.raises(PluginError, match=sentence):
        check_method(method)


def test_invalid_voxels_are_checked_where_the_method_claims_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnssl.testing.check_source", lambda method: None)
    with pytest.raises(PluginError, match="outside the case"):
        check_method(CountsInvalid, ignores_invalid=True)


def test_declared_parameters_may_lack_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnssl.testing.check_source", lambda method: None)
    check_method(DeadParameter, without_gradient=("forgotten",))


def test_coupled_methods_may_mix_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    class Coupled(SumOfSamples):
        @classmethod
        def needs(cls, config: Any) -> Needs:
            return Needs(batch_coupled=True)

    monkeypatch.setattr("nnssl.testing.check_source", lambda method: None)
    check_method(Coupled)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("loss.backward()", r"uses \.backward; the engine runs backward"),
        ("x.cuda()", r"uses \.cuda"),
        ("x.to('cuda')", r"uses \.to\(device\); the engine places"),
        ("x.to(self.device)", r"\.to\(device\)"),
        ("x.to(device=other)", r"\.to\(device\)"),
        ("loss.item()", r"uses \.item; it makes the host wait"),
        ("open('a')", "uses open; methods read no files"),
        ("torch.distributed.get_rank()", "uses torch.distributed; methods do not know ranks"),
        ("torch.manual_seed(1)", "uses torch.manual_seed; randomness is keyed"),
        ("print(x)", "uses print"),
    ],
)
def test_forbidden_call_is_named_with_its_line(line: str, what: str, tmp_path: Path, request: Any) -> None:
    name = f"method_{abs(hash(line))}"
    text = f"{OWN}    def helper(self, x, loss, other):\n        {line}\n"
    (tmp_path / f"{name}.py").write_text(text)
    sys.path.insert(0, str(tmp_path))
    request.addfinalizer(lambda: sys.path.remove(str(tmp_path)))
    own = __import__(name).Own
    with pytest.raises(PluginError, match=rf"{name}.py:6 {what}|{name}.py:6.*{what}"):
        check_method(own)


def test_casting_a_tensor_to_anothers_type_is_allowed(tmp_path: Path, request: Any) -> None:
    text = f"{OWN}    def helper(self, x, y):\n        return x.to(y)\n"
    (tmp_path / "method_casts.py").write_text(text)
    sys.path.insert(0, str(tmp_path))
    request.addfinalizer(lambda: sys.path.remove(str(tmp_path)))
    check_method(__import__("method_casts").Own)
