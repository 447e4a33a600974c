"""Networks for methods, built from a plan by nnU-Net's own builder. Implements `nnssl.method.Networks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nnssl.blocks.ema import EMATeacher, Momentum
from nnssl.encoders.other import OtherNetwork, build_other
from nnssl.encoders.pyramid import PlanEncoder, PlanUNet
from nnssl.errors import PlanError
from nnssl.method import DataInfo, PlanInfo
from nnssl.nnunet import build_network

SUPPORTED = ("PlainConvUNet", "ResidualEncoderUNet")


class PlanNetworks:
    """Builds what a method asks for. Initial weights come from torch's global generator: seed it before.

    Segmentation layers and the deep-supervision heads are not part of what is handed out: they would be parameters
    that never get a gradient, which distributed training refuses.
    """

    def __init__(
        self, architecture: Mapping[str, Any], plan: PlanInfo, data: DataInfo, *, compile: bool = False
    ) -> None:
        """Networks of the plan's `architecture` block.

        Args:
            architecture: with `network_class_name`, `arch_kwargs`, `_kw_requires_import`.
            plan: the plan, for methods.
            data: the data, for methods.
            compile: compile encoders and U-Nets (never whole methods), in place: names stay as they are.

        Raises:
            PlanError: an architecture that is not one of nnU-Net's convolutional U-Nets.
        """
        name = str(architecture["network_class_name"])
        if name.rsplit(".", 1)[-1] not in SUPPORTED:
            raise PlanError(
                f"The plan's network is {name}; pretraining needs one of {', '.join(SUPPORTED)}. "
                "Plan with nnU-Net's default planner or a ResEnc one (-pl nnUNetPlannerResEncM)."
            )
        self.architecture = architecture
        self.plan = plan
        self.data = data
        self.compile = compile

    def _network(self) -> nn.Module:
        """nnU-Net's whole network; one class, since its segmentation layers are dropped."""
        return build_network(self.architecture, channels=self.plan.channels, classes=1)

    def _finished(self, module: nn.Module) -> nn.Module:
        """`module`, its pyramids compiled in place where that was asked for."""
        if self.compile:
            if isinstance(module, PlanEncoder | PlanUNet | OtherNetwork):
                module.compile()
            else:
                for child in module.children():
                    self._finished(child)
        return module

    def encoder(self) -> Any:
        """nnU-Net's encoder, freshly initialised."""
        return self._finished(PlanEncoder(self._network().get_submodule("encoder")))

    def unet(self) -> Any:
        """nnU-Net's U-Net without segmentation layers, freshly initialised."""
        return self._finished(PlanUNet(self._network()))

    def teacher(self, student: nn.Module, *, momentum: Momentum) -> Any:
        """An exponential moving average of `student`, starting as its copy."""
        return self._finished(EMATeacher(student, momentum=momentum))

    def other(self, name: str, **options: Any) -> Any:
        """A network that is not the plan's, by name: "fpn3d" (width, levels), "primus_s", "primus_b", "primus_m" or
        "primus_l" (patch_size); see `nnssl.encoders.other`.

        Raises:
            PluginError: no such name, or options it does not take.
        """
        return self._finished(build_other(name, channels=self.plan.channels, options=options))
