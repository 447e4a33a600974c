"""Fine-tunes network and linear head for classification, end to end, on crops of the pretraining's size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.engine.randomness import numpy_generator
from nnssl.evaluate.classify.metrics import Floats, Ints
from nnssl.evaluate.classify.settings import FinetuneSettings
from nnssl.evaluate.features import embed

_HEAD_STD = 0.01  # of the head's initial weights, as in 3DMedDINO


class Classifier(nn.Module):
    """A pyramid, the mean of each of its maps, and one linear layer on these, standardised.

    Pooled features of a network with instance norm hardly differ between images (standard deviation 0.05 of isotropic):
    they are standardised by what the network gave for the training images before its first step, and stay so.
    """

    def __init__(self, network: nn.Module, vectors: Floats, classes: int, *, seed: int) -> None:
        """Copy the network; take the standardisation from (n, d) training vectors."""
        super().__init__()
        self.network = copy.deepcopy(network)
        self.mean: Tensor
        self.scale: Tensor
        std = vectors.std(axis=0)
        scale = np.where(std > 1e-6 * (np.abs(vectors.mean(axis=0)) + 1e-6), 1 / np.maximum(std, 1e-12), 0)
        self.register_buffer("mean", torch.from_numpy(vectors.mean(axis=0)).float())
        self.register_buffer("scale", torch.from_numpy(scale).float())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(vectors.shape[1], classes)
            nn.init.normal_(self.head.weight, std=_HEAD_STD)
            nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """(N, K) logits of (N, C, D, H, W)."""
        return self.of_vector(torch.cat([level.mean(dim=(2, 3, 4)) for level in self.network(image)], dim=1))

    def of_vector(self, vector: Tensor) -> Tensor:
        """(N, K) logits of (N, d) pooled features."""
        logits: Tensor = self.head((vector - self.mean) * self.scale)
        return logits


@dataclass(frozen=True, kw_only=True)
class Images:
    """Prepared images on the disk.

    Attributes:
        files: (n) of (C, D, H, W) float32.
        labels: (n,) index of the class.
        crop: D H W of a training crop, multiples of the network's strides.
        window: D H W of a window in tests.
    """

    files: Sequence[Path]
    labels: Ints
    crop: tuple[int, ...]
    window: tuple[int, ...]


def crop_size(shapes: Sequence[Sequence[int]], stride: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """The pretraining's patch, or less where no image is as large, in whole cells of the deepest stage, two at least.

    Args:
        shapes: D H W of every image.
        stride: of the deepest stage.
        patch_size: of the pretraining.
    """
    largest = [max(shape[axis] for shape in shapes) for axis in range(3)]
    return tuple(
        max(2, min(math.ceil(side / step), patch // step)) * step
        for side, step, patch in zip(largest, stride, patch_size, strict=True)
    )


def random_crop(image: Tensor, size: Sequence[int], rng: np.random.Generator) -> Tensor:
    """(C, *size) from (C, D, H, W): anywhere inside where the image is larger, and laid anywhere where it is smaller.

    What lies beyond the image repeats its border.
    """
    padding: list[int] = []
    for axis, side in reversed(list(enumerate(size))):
        missing = side - image.shape[1 + axis]
        if missing < 0:
            image = image.narrow(1 + axis, int(rng.integers(0, -missing + 1)), side)
        before = int(rng.integers(0, max(missing, 0) + 1))
        padding += [before, max(missing, 0) - before]
    return F.pad(image[None], padding, mode="replicate")[0]


def finetune(
    network: nn.Module,
    images: Images,
    vectors: Floats,
    train: Ints,
    validation: Ints,
    *,
    settings: FinetuneSettings,
    device: str,
    progress: Callable[[str], object],
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier at the epoch and learning rate with the lowest validation loss, and what was chosen.

    Args:
        network: a module and a `Pyramid`; it is copied.
        images: all of them.
        vectors: (n, d) the network's own for them.
        train: rows to train on.
        validation: rows of other subjects.
        settings: how.
        device: where.
        progress: called with a passing line.
    """
    best: tuple[float, dict[str, Tensor]] | None = None
    about: dict[str, Any] = {"curves": {}}
    classes = int(images.labels.max()) + 1
    for lr in settings.lrs:
        model = Classifier(network, vectors[train], classes, seed=settings.seed).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=settings.weight_decay)
        steps = settings.epochs * math.ceil(len(train) / settings.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        curve = about["curves"].setdefault(str(lr), [])
        for epoch in range(settings.epochs):
            progress(f"learning rate {lr:g}, epoch {epoch + 1}/{settings.epochs}")
            _train_epoch(model, images, train, optimizer, schedule, settings, epoch, device)
            loss = _loss(predict(model, images, validation, device=device), images.labels[validation])
            curve.append(loss)
            if best is None or loss < best[0]:
                best = loss, {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
                about |= {"lr": lr, "epoch": epoch + 1, "validation_loss": loss}
    if best is not None:
        model.load_state_dict(best[1])
    return model, about


def predict(model: Classifier, images: Images, rows: Ints, *, device: str) -> Floats:
    """(m, K) probabilities of whole images: the head on the means over all their windows."""
    network: Any = model.network
    found = []
    for row in rows:
        image = torch.from_numpy(np.load(images.files[row]))
        vector = embed(network, image, largest=images.window, device=device).vector.to(device)
        with torch.no_grad():
            found.append(torch.softmax(model.of_vector(vector[None])[0].cpu().double(), dim=0).numpy())
    return np.stack(found)


def _train_epoch(
    model: Classifier,
    images: Images,
    train: Ints,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    settings: FinetuneSettings,
    epoch: int,
    device: str,
) -> None:
    rng = numpy_generator(settings.seed, epoch, "classification crops")
    counts = np.bincount(images.labels[train], minlength=int(images.labels.max()) + 1)
    weight = torch.from_numpy(len(train) / (len(counts) * np.maximum(counts, 1))).float().to(device)
    order = rng.permutation(train)
    model.train()
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        crops = [random_crop(torch.from_numpy(np.load(images.files[row])), images.crop, rng) for row in rows]
        logits = model(torch.stack(crops).to(device))
        targets = torch.from_numpy(images.labels[rows]).to(device)
        loss = F.cross_entropy(logits, targets, weight=weight, reduction="none").mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _loss(probabilities: Floats, labels: Ints) -> float:
    """Cross-entropy, every class of the same weight."""
    picked = np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12))
    return float(np.mean([-picked[labels == k].mean() for k in np.unique(labels)]))
