"""A tiny world for methods: a small plan, its networks, batches of noise for any view specification, a step.

Used by `nnssl.testing` and by tests of plugins. Nothing here reads a file: what the loader makes of real cases is the
loader's own business; a method sees the same types, shapes and ranges here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.blocks.deferred import Commit
from nnssl.encoders.factory import PlanNetworks
from nnssl.encoders.pyramid import cumulative_strides
from nnssl.engine import randomness
from nnssl.engine.step import KeyedStep
from nnssl.method import Batch, DataInfo, PlanInfo, SourceInfo, View
from nnssl.needs import Needs, RawCase, Sidecar
from nnssl.views.spec import IntegerCrop, Size, ViewGroup, ViewSpec

SEED = 20


def small_architecture(
    *, residual: bool = False, anisotropic: bool = False, features: Sequence[int] = (4, 8, 12, 16)
) -> dict[str, Any]:
    """An `architecture` block as a plans file holds it, of a small U-Net with one stage for each of `features`."""
    stages = len(features)
    kernels = [[3, 3, 3]] * stages
    strides = [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1)
    if anisotropic:  # as nnU-Net plans thick slices: flat kernels and strides first
        kernels = [[1, 3, 3], *kernels[1:]]
        strides = [[1, 1, 1], [1, 2, 2], *strides[2:]]
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": kernels,
            "strides": strides,
            "n_blocks_per_stage" if residual else "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def small_networks(
    *,
    channels: int = 1,
    batch_size: int = 4,
    patch_size: Size = (16, 16, 32),
    case_shape: Size = (40, 40, 64),
    modality: str = "ct",
    seed: int = 0,
    **architecture: Any,
) -> PlanNetworks:
    """Networks of a small plan; seeds torch, so that two calls build equal weights.

    Args:
        channels: input channels.
        batch_size: samples per step, as the method will be told.
        patch_size: the plan's, D H W.
        case_shape: shape of every case, D H W.
        modality: of every channel.
        seed: of the initial weights.
        architecture: of `small_architecture`.
    """
    torch.manual_seed(seed)
    block = small_architecture(**architecture)
    arguments = block["arch_kwargs"]
    plan = PlanInfo(
        patch_size=patch_size,
        spacing_mm=(1.0, 1.0, 1.0),
        strides=cumulative_strides(arguments["strides"]),
        features=tuple(arguments["features_per_stage"]),
        channels=channels,
    )
    data = DataInfo(
        modality=(modality,) * channels,
        cases=64,
        shape_quantiles={percent: case_shape for percent in (0, 10, 50, 90, 100)},
        batch_size=batch_size,
        steps_per_epoch=10,
    )
    return PlanNetworks(block, plan, data)


def local_step(*, index: int = 0, total: int = 100, epochs: int = 10, dtype: torch.dtype = torch.float32) -> KeyedStep:
    """The engine's `Step` for one process: keyed randomness, nothing to gather."""
    return KeyedStep(
        index=index,
        total=total,
        epoch=index * epochs // total,
        epochs=epochs,
        micro=0,
        micros=1,
        seed=SEED,
        device=torch.device("cpu"),
        dtype=dtype,
    )


def commit(*, index: int = 0, total: int = 100, applied: bool = True) -> Commit:
    """What the engine hands to deferred modules, for one process."""
    return Commit(index=index, total=total, applied=torch.tensor(applied), sum_over_ranks=lambda x: x)


def noise_batch(
    spec: ViewSpec,
    networks: PlanNetworks,
    *,
    needs: Needs | None = None,
    keys: Sequence[int] = (0, 1, 2, 3),
    dtype: torch.dtype = torch.float32,
    invalid_slices: int = 0,
) -> Batch:
    """A batch of smooth noise that fits `spec`; row i depends on `keys[i]` alone.

    Args:
        spec: the method's views.
        networks: for channels and modality.
        needs: the method's; its sidecars are computed on noise.
        keys: of the samples.
        dtype: of the images.
        invalid_slices: first slices of every view that lie outside of the case.
    """
    keyed = torch.tensor(list(keys), dtype=torch.int64)
    modality = networks.data.modality
    return Batch(
        views={group.name: _view(group, keyed, len(modality), dtype, invalid_slices) for group in spec.groups},
        sources={
            source.name: _source(source.name, keyed, modality, (needs or Needs()).sidecars) for source in spec.sources
        },
        keys=keyed,
    )


def _view(group: ViewGroup, keys: Tensor, channels: int, dtype: torch.dtype, invalid_slices: int) -> View:
    samples, views = len(keys), group.count
    lead = (samples, views)
    image = _smooth(keys, f"{group.name}.image", (views, channels, *group.size))
    valid = torch.ones(*lead, 1, *group.size, dtype=torch.bool)
    valid[..., :invalid_slices, :, :] = False
    # the same pattern as the image, so that a clean view is worth predicting
    clean = (image * 0.8 + 0.1).to(dtype) if group.keep_clean else None
    to_source = torch.eye(4, dtype=torch.float64).repeat(*lead, 1, 1)
    origin = randomness.uniform(SEED, keys, f"{group.name}.origin", (views, 3), dtype=torch.float64) * 8
    if isinstance(group.geometry, IntegerCrop):
        origin = origin.floor()
    to_source[..., :3, 3] = origin
    return View(
        image=image.to(dtype),
        clean=clean,
        valid=valid,
        mask=_mask(group, keys),
        draws={
            "flip": randomness.uniform(SEED, keys, f"{group.name}.flip", (views, 3)) < 0.5,
            "rot90": (randomness.uniform(SEED, keys, f"{group.name}.rot90", (views,)) * 4).long(),
            "scale": torch.ones(*lead, 3),
            "rotation_deg": torch.zeros(*lead, 3),
            "origin": origin,
        },
        source=group.source,
        to_source=to_source,
    )


def _smooth(keys: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) noise of unit variance with structure of about 4 voxels; `shape` is (V, C, D, H, W)."""
    noise = randomness.normal(SEED, keys, name, shape).flatten(0, 2)
    coarse = F.avg_pool3d(noise[:, None], 4, stride=1, padding=2, count_include_pad=False)[:, 0]
    coarse = coarse[:, : shape[2], : shape[3], : shape[4]]
    # per row: a row must not depend on the other samples of the batch
    blended = coarse / coarse.std((1, 2, 3), keepdim=True) + 0.3 * noise
    return blended.reshape(len(keys), *shape)


def _mask(group: ViewGroup, keys: Tensor) -> Tensor | None:
    """(B, V, 1, D, H, W) hidden blocks, exactly round(ratio * blocks) a view."""
    if group.mask is None:
        return None
    cells = [side // block for side, block in zip(group.size, group.mask.block, strict=True)]
    count = cells[0] * cells[1] * cells[2]
    low, high = group.mask.ratio
    rows = []
    for view in range(group.count):
        ratio = low + (high - low) * randomness.uniform(SEED, keys, f"{group.name}.ratio.{view}", (1,))
        order = randomness.permutation(SEED, keys, f"{group.name}.mask.{view}", count)
        rows.append(order < (ratio * count).round())
    grid = torch.stack(rows, dim=1).reshape(len(keys), group.count, 1, *cells)
    for axis, block in enumerate(group.mask.block):
        grid = grid.repeat_interleave(block, dim=3 + axis)
    return grid


def _source(name: str, keys: Tensor, modality: tuple[str, ...], sidecars: tuple[type[Sidecar], ...]) -> SourceInfo:
    samples = len(keys)
    ids = tuple(f"{name}_{key}" for key in keys.tolist())
    box = torch.tensor([[0, 0, 0], [40, 64, 64]]).repeat(samples, 1, 1)
    return SourceInfo(
        case_ids=ids,
        subjects=ids,
        to_world=torch.eye(4, dtype=torch.float64).repeat(samples, 1, 1),
        spacing_mm=torch.ones(samples, 3),
        box=box,
        anchor_mm=torch.full((samples, 3), 20.0, dtype=torch.float64),
        sidecars={kind.name: [_sidecar(kind, key, modality) for key in keys.tolist()] for kind in sidecars},
    )


def _sidecar(kind: type[Sidecar], key: int, modality: tuple[str, ...]) -> Mapping[str, Tensor]:
    values = randomness.numpy_generator(SEED, key, "raw").normal(40.0, 200.0, (len(modality), 40, 64, 64))
    image = values.astype(np.float32)
    case = RawCase(
        case_id=str(key),
        modality=modality,
        image=image,
        to_world=np.eye(4),
        original=image,
        original_to_world=np.eye(4),
    )
    return {name: torch.from_numpy(np.array(array)) for name, array in kind.compute(case).items()}
