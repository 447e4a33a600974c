"""The conformance kit: does a method keep the promises of `nnssl.method`? Every plugin's test calls `check_method`.

    from nnssl.testing import check_method
    from my_plugin import MyTrainer

    def test_my_method_keeps_the_contract() -> None:
        check_method(MyTrainer)

It runs on the CPU in a second or two, on a tiny plan with noise for images, and reads no file but the method's source.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nnssl.blocks.collectives import BatchNorm
from nnssl.blocks.deferred import Deferred, commit_all
from nnssl.encoders.factory import PlanNetworks
from nnssl.encoders.other import OtherNetwork
from nnssl.encoders.tokens import TokenEncoder
from nnssl.engine.plan import check_views
from nnssl.errors import NnsslError, PluginError
from nnssl.method import Batch, Exported, Losses, Method, View
from nnssl.nnunet import build_network
from nnssl.testing_source import check_source
from nnssl.testing_world import commit, local_step, noise_batch, small_networks

TOLERANCE = 1e-5  # relative, between two float32 ways to the same number


def check_method(
    trainer_or_method: type[Any],
    config: Any = None,
    *,
    networks: Callable[[], PlanNetworks] = small_networks,
    ignores_invalid: bool = False,
    without_gradient: tuple[str, ...] = (),
) -> None:
    """Check every promise of the method contract that can be checked without a data set.

    Args:
        trainer_or_method: an `SSLTrainer` class or a `Method` class.
        config: the method's configuration; None: the recipe's, else its defaults. Make it small: it runs some twenty
            times.
        networks: makes the networks; called several times and must build equal weights each time.
        ignores_invalid: the method claims that no voxel outside the case reaches its losses in any way. (What every
            method must do, leave such voxels out of sums, cannot be told from outside where convolutions mix voxels.)
        without_gradient: beginnings of parameter names that get no gradient in the first step, on purpose.

    Raises:
        PluginError: naming the promise that is broken and where.
    """
    method_class: type[Method] = getattr(trainer_or_method, "method", trainer_or_method)
    if config is None:
        recipe = getattr(trainer_or_method, "recipe", None)
        config = getattr(recipe, "method", None) or method_class.Config()
    kit = _Kit(method_class, config, networks, without_gradient)
    check_source(method_class)
    kit.declares()
    kit.gives_finite_losses()
    kit.repeats_itself()
    kit.computes_in_any_precision()
    kit.trains_what_it_registers()
    kit.moves_deferred_state_by_commit_alone()
    kit.keeps_all_state_in_its_state_dict()
    if not kit.needs.batch_coupled:
        kit.is_linear_in_the_batch()
    if ignores_invalid:
        kit.ignores_invalid_voxels()
    kit.gives_features()
    kit.exports_networks_of_the_plan()


@dataclass
class _Kit:
    """One method under test. Each check makes a fresh method, so that none sees another's traces."""

    method_class: type[Method]
    config: Any
    make_networks: Callable[[], PlanNetworks]
    without_gradient: tuple[str, ...]

    def __post_init__(self) -> None:
        self.name = self.method_class.__name__
        self.networks = self.make_networks()
        self.needs = self.method_class.needs(self.config)
        self.spec = self.method_class.views(self.config, self.networks.plan, self.networks.data)

    def broken(self, sentence: str) -> PluginError:
        """The error that names the method and the promise."""
        return PluginError(f"{self.name} breaks the method contract: {sentence}")

    def fresh(self, dtype: torch.dtype = torch.float32) -> Method:
        """A new method in training mode, with the same weights every time."""
        method = self.method_class(self.config, self.make_networks()).to(dtype)
        return method.train()

    def batch(self, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Batch:
        """Noise for the method's views; see `noise_batch`."""
        return noise_batch(self.spec, self.networks, needs=self.needs, dtype=dtype, **kwargs)

    def losses(self, method: Method, batch: Batch, dtype: torch.dtype = torch.float32, index: int = 0) -> Losses:
        """What `forward` says at optimizer step `index`."""
        torch.manual_seed(0)  # dropout; the engine seeds every micro-batch as well
        losses: Losses = method(batch, local_step(index=index, dtype=dtype))
        return losses

    # ---------------------------------------------------------------------------------------------- declarations

    def declares(self) -> None:
        """PAPER, Config, pure needs and views, legal views."""
        if not isinstance(getattr(self.method_class, "PAPER", None), str):
            raise self.broken("PAPER must be one line of text naming the paper.")
        again = self.method_class.views(self.config, self.networks.plan, self.networks.data)
        if again != self.spec or self.method_class.needs(self.config) != self.needs:
            raise self.broken("needs() and views() must be pure; two calls with the same arguments gave two answers.")
        try:
            check_views(self.spec, self.networks.plan, self.needs)
        except NnsslError as error:
            raise self.broken(f"views() gave an illegal view. {error}") from error

    # ---------------------------------------------------------------------------------------------- losses

    def gives_finite_losses(self) -> None:
        """A scalar with gradient, finite; parts and watch detached."""
        losses = self.losses(self.fresh(), self.batch())
        if losses.total.ndim != 0 or not losses.total.requires_grad:
            raise self.broken(
                f"Losses.total must be a scalar with a gradient; its shape is {tuple(losses.total.shape)}."
            )
        if not torch.isfinite(losses.total):
            raise self.broken(f"Losses.total is {losses.total.item()} on standard normal images.")
        for kind, tensors in (("parts", losses.parts), ("watch", losses.watch)):
            for name, tensor in tensors.items():
                if tensor.requires_grad:
                    raise self.broken(f"Losses.{kind}[{name!r}] must be detached; it would keep the graph alive.")
        for name, part in losses.parts.items():
            if part.ndim != 0:
                raise self.broken(f"Losses.parts[{name!r}] must be a scalar; its shape is {tuple(part.shape)}.")

    def repeats_itself(self) -> None:
        """The same batch and step give the same loss: every draw is keyed, nothing is kept between calls."""
        method, batch = self.fresh(), self.batch()
        first = self.losses(method, batch).total
        torch.manual_seed(12345)
        second = method(batch, local_step()).total
        if not torch.equal(first, second):
            raise self.broken(
                f"forward gave {first.item():.6g} and then {second.item():.6g} for the same batch and step. Draw "
                "random numbers by step.uniform, step.normal or step.permutation, and change state in commit() alone."
            )

    def computes_in_any_precision(self) -> None:
        """float64 as a whole (so nothing is cast or moved by hand), and float32 losses inside bfloat16 autocast."""
        exact = self._in_float64()
        if exact.dtype != torch.float64:
            raise self.broken(f"a float64 method on float64 images must give a float64 loss; it gave {exact.dtype}.")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse = self.losses(self.fresh(), self.batch()).total
        if coarse.dtype != torch.float32 or not torch.isfinite(coarse):
            raise self.broken(
                f"losses must be finite float32 inside bfloat16 autocast; it gave {coarse.item()} as {coarse.dtype}. "
                "Use nnssl.blocks.losses.wide on what enters a loss."
            )

    def _in_float64(self) -> Tensor:
        double = torch.float64
        try:
            return self.losses(self.fresh(double), self.batch(double), double).total
        except RuntimeError as error:
            raise self.broken(
                "it fails in float64, so a tensor is made or cast with a fixed type or device; use new_zeros, "
                f"zeros_like or buffers, never .to(device). torch says: {error}"
            ) from error

    # ---------------------------------------------------------------------------------------------- parameters, state

    def trains_what_it_registers(self) -> None:
        """Gradients reach every trainable parameter, no deferred one; parameter groups hold each once."""
        method = self.fresh()
        deferred = {id(p) for module in deferred_modules(method) for p in module.parameters()}
        torch.autograd.backward(self.losses(method, self.batch()).total)
        for name, parameter in method.named_parameters():
            if id(parameter) in deferred:
                if parameter.requires_grad or parameter.grad is not None:
                    raise self.broken(f"{name} belongs to a Deferred module and must have no gradient.")
            elif (
                parameter.requires_grad
                and parameter.grad is None
                and not name.startswith(self.without_gradient or "\0")
            ):
                raise self.broken(
                    f"{name} is trainable but got no gradient; freeze it, drop it, or declare it (without_gradient)."
                )
        grouped = [id(p) for group in method.parameter_groups() for p in group["params"]]
        trainable = {id(p) for p in method.parameters() if p.requires_grad}
        if len(grouped) != len(set(grouped)) or set(grouped) != trainable:
            raise self.broken("parameter_groups() must hold every trainable parameter exactly once and no other.")

    def moves_deferred_state_by_commit_alone(self) -> None:
        """Forward and a dropped step leave deferred state alone; an applied step is allowed to move it."""
        method = self.fresh()
        before = copy.deepcopy(method.state_dict())
        torch.autograd.backward(self.losses(method, self.batch()).total)
        self._same(
            before, method, "forward changed {name}; deferred state moves in commit() alone.", deferred_only=True
        )
        with torch.no_grad():
            for parameter in method.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        moved = copy.deepcopy(method.state_dict())
        commit_all(method, commit(applied=False))
        self._same(moved, method, "a dropped step (Commit.applied false) changed {name}; gate it with torch.where.")
        self.losses(method, self.batch())
        commit_all(method, commit())
        for name, value in method.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self.broken(f"commit() left values that are not finite in {name}.")

    def _same(
        self, before: Mapping[str, Tensor], method: Method, sentence: str, *, deferred_only: bool = False
    ) -> None:
        owners = {f"{name}." for name, module in method.named_modules() if isinstance(module, Deferred)}
        for name, value in method.state_dict().items():
            if (not deferred_only or name.startswith(tuple(owners) or "\0")) and not torch.equal(before[name], value):
                raise self.broken(sentence.format(name=name))

    def keeps_all_state_in_its_state_dict(self) -> None:
        """A method restored from a state dict goes on with the same losses."""
        method, batch = self.fresh(), self.batch(keys=(4, 5, 6, 7))
        _take_step(self, method)
        torch.manual_seed(99)
        restored = self.method_class(self.config, self.networks).train()
        restored.load_state_dict(copy.deepcopy(method.state_dict()))
        a, b = (self.losses(m, batch, index=1).total for m in (method, restored))
        if not torch.equal(a, b):
            raise self.broken(
                f"restored from its state dict it gives {b.item():.6g} instead of {a.item():.6g}; all state must be in "
                "parameters and registered buffers (no attributes, no module globals)."
            )

    # ---------------------------------------------------------------------------------------------- batches

    def is_linear_in_the_batch(self) -> None:
        """Without `batch_coupled` the loss is a mean over samples, so accumulation and ranks change nothing."""
        method, double = self.fresh(torch.float64), torch.float64
        whole = self.losses(method, self.batch(double), double).total
        halves = [self.losses(method, self.batch(double, keys=keys), double).total for keys in ((0, 1), (2, 3))]
        mean = torch.stack(halves).mean()
        if not torch.allclose(whole, mean, rtol=1e-9, atol=1e-12):
            raise self.broken(
                f"the loss of four samples is {whole.item():.9g} but the mean over two and two is {mean.item():.9g}. "
                "Return a mean over samples, or say Needs(batch_coupled=True)."
            )

    def ignores_invalid_voxels(self) -> None:
        """Other values outside the case give the same loss."""
        batch = self.batch(invalid_slices=2)
        views = {name: _with_other_invalid_values(view) for name, view in batch.views.items()}
        a, b = (self.losses(self.fresh(), one).total for one in (batch, replace(batch, views=views)))
        if not torch.allclose(a, b, rtol=TOLERANCE):
            raise self.broken(
                f"other values in voxels outside the case (View.valid false) change the loss from {a.item():.6g} to "
                f"{b.item():.6g}."
            )

    # ---------------------------------------------------------------------------------------------- what comes out

    def gives_features(self) -> None:
        """A pyramid finest first and one vector an image, without a trace in the method."""
        method = self.fresh().eval()
        before = copy.deepcopy(method.state_dict())
        for module in method.modules():
            if isinstance(module, BatchNorm):
                module.register_forward_pre_hook(self._joint_features)
        image = torch.randn(2, self.networks.plan.channels, *self.networks.plan.patch_size)
        with torch.no_grad():
            features = method.features(image)
        if features.vector.ndim != 2 or len(features.vector) != 2:
            raise self.broken(f"features().vector must be (N, d); two images gave {tuple(features.vector.shape)}.")
        cells = [feature_map[0, 0].numel() for feature_map in features.pyramid]
        if not cells or cells != sorted(cells, reverse=True) or any(len(m) != 2 for m in features.pyramid):
            raise self.broken(f"features().pyramid must hold (N, C, D, H, W) maps, finest first; cells are {cells}.")
        self._same(before, method, "features() changed {name}; it is called for health checks and must leave no trace.")

    def _joint_features(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise self.broken(
            "features() uses BatchNorm, which asks all ranks for statistics; health is measured on rank 0 alone and "
            "would wait for the others for ever. Leave the head away."
        )

    def exports_networks_of_the_plan(self) -> None:
        """Every promised tensor has its place in a fresh network of nnU-Net."""
        exported = self.fresh().export_network()
        if isinstance(exported.encoder, TokenEncoder):
            self._exports_primus(exported.encoder, exported)
            return
        if isinstance(exported.encoder, OtherNetwork):
            if exported.decoder is not None or exported.variants:
                raise self.broken("export_network() with a network of networks.other() must hold nothing besides it.")
            return
        choices = {"encoder and decoder": (exported.encoder, exported.decoder), **exported.variants}
        for choice, (encoder, unet) in choices.items():
            theirs = build_network(self.networks.architecture, channels=self.networks.plan.channels, classes=2)
            try:
                theirs.get_submodule("encoder").load_state_dict(encoder.state_dict(), strict=True)
                unexpected = theirs.load_state_dict(unet.state_dict(), strict=False).unexpected_keys if unet else []
            except RuntimeError as error:
                raise self.broken(f"export_network() ({choice}) does not fit nnU-Net's network: {error}") from error
            if unexpected:
                raise self.broken(f"export_network() ({choice}) holds tensors nnU-Net does not know: {unexpected[:3]}.")

    def _exports_primus(self, encoder: TokenEncoder, exported: Exported) -> None:
        """Every variant fits a fresh network of the same name."""
        choices = {"encoder": (exported.encoder, exported.decoder), **exported.variants}
        for choice, (one, decoder) in choices.items():
            if decoder is not None or not isinstance(one, TokenEncoder):
                raise self.broken(f"export_network() ({choice}) must hold a Primus of networks.other() and no decoder.")
            theirs = self.networks.other(encoder.name, **encoder.options)
            try:
                theirs.load_state_dict(one.state_dict(), strict=True)
            except RuntimeError as error:
                raise self.broken(f"export_network() ({choice}) does not fit nnU-Net's Primus: {error}") from error


def deferred_modules(method: nn.Module) -> Iterator[Deferred]:
    """All deferred modules inside `method`."""
    return (module for module in method.modules() if isinstance(module, Deferred))


def _take_step(kit: _Kit, method: Method) -> None:
    """One step of plain gradient descent with its commit, as the engine would take it."""
    torch.autograd.backward(kit.losses(method, kit.batch()).total)
    method.edit_gradients(local_step())
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.01 * parameter.grad)
                parameter.grad = None
    commit_all(method, commit())


def _with_other_invalid_values(view: View) -> View:
    image = torch.where(view.valid, view.image, view.image + 3.0)
    clean = None if view.clean is None else torch.where(view.valid, view.clean, view.clean + 3.0)
    return replace(view, image=image, clean=clean)
