"""Fine-tuning for classification on tiny volumes: it learns, it does not touch what it was given, crops are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnssl.errors import RecipeError
from nnssl.evaluate.classify.finetune import Classifier, Images, crop_size, finetune, predict, random_crop
from nnssl.evaluate.classify.settings import FinetuneSettings
from nnssl.evaluate.features import embed
from nnssl.evaluate.settings import changed


class Small(nn.Module):
    """Two levels of one convolution each."""

    channels = (4, 4)
    strides = ((1, 1, 1), (2, 2, 2))
    patch_size = (8, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 1, D, H, W) to two maps."""
        first = self.first(image).relu()
        return [first, self.second(first).relu()]


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Smooth and rough volumes of the same mean and spread, which pooled random features tell apart poorly."""
    rng = np.random.default_rng(0)
    files, labels = [], np.arange(24) % 2
    for number, label in enumerate(labels):
        volume = rng.standard_normal((8, 10, 9)).astype(np.float32)
        if label:
            volume = (volume + np.roll(volume, 1, axis=1)) / np.sqrt(2).astype(np.float32)
        files.append(tmp_path / f"{number}.npy")
        np.save(files[-1], volume[None])
    return Images(files=files, labels=labels, crop=(8, 8, 8), window=(8, 8, 8))


def test_it_learns_and_leaves_the_network_as_it_was(images: Images) -> None:
    network = Small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loaded = [torch.from_numpy(np.load(file)) for file in images.files]
    vectors = np.stack([embed(network, image).vector.numpy() for image in loaded])
    train, validation, wanted = np.arange(12), np.arange(12, 18), np.arange(18, 24)
    settings = FinetuneSettings(epochs=8, batch_size=4, lr=(1e-6, 1e-2))
    said: list[str] = []
    model, about = finetune(
        network, images, vectors, train, validation, settings=settings, device="cpu", progress=said.append
    )
    assert about["lr"] == 1e-2, "the useless learning rate loses on the validation images"
    assert about["validation_loss"] == min(loss for curve in about["curves"].values() for loss in curve)
    probabilities = predict(model, images, wanted, device="cpu")
    assert probabilities.sum(axis=1) == pytest.approx(1)
    assert (probabilities.argmax(axis=1) == images.labels[wanted]).mean() >= 5 / 6
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert said[0] == "learning rate 1e-06, epoch 1/8"


def test_the_classifier_is_one_linear_layer_on_the_standardised_means() -> None:
    vectors = np.random.default_rng(0).normal(3, 2, (20, 8))
    vectors[:, 0] = 1.0  # says nothing
    model = Classifier(Small(), vectors, 3, seed=0)
    image = torch.randn(2, 1, 8, 8, 8)
    pooled = torch.cat([level.mean(dim=(2, 3, 4)) for level in model.network(image)], dim=1)
    standard = (pooled - torch.from_numpy(vectors.mean(0)).float()) / torch.from_numpy(vectors.std(0)).float()
    standard[:, 0] = 0
    torch.testing.assert_close(model(image), model.head(standard))


def test_crops_are_parts_of_large_images_and_hold_all_of_small_ones() -> None:
    image = torch.arange(6.0 * 4 * 5).reshape(1, 6, 4, 5)
    starts, places = set(), set()
    for seed in range(40):
        crop = random_crop(image, (4, 4, 8), np.random.default_rng(seed))
        assert crop.shape == (1, 4, 4, 8)
        start = int(crop[0, 0, 0].min()) // 20
        place = int((crop[0, 0, 0] == crop[0, 0, 0, 0]).sum()) - 1
        assert torch.equal(crop[..., place : place + 5], image[:, start : start + 4])
        starts.add(start)
        places.add(place)
    assert (starts, places) == ({0, 1, 2}, {0, 1, 2, 3})


def test_a_crop_is_no_larger_than_the_largest_image_needs() -> None:
    assert crop_size([(30, 90, 3), (33, 20, 5)], (8, 8, 8), (64, 64, 64)) == (40, 64, 16)


def test_settings_are_read_and_refused_in_words() -> None:
    assert changed(FinetuneSettings(), {"epochs": "3", "lr": "0.1"}) == FinetuneSettings(epochs=3, lr=0.1)
    assert changed(FinetuneSettings(), {"lr": "1e-4,1e-3"}).lrs == (1e-4, 1e-3)
    with pytest.raises(RecipeError, match="Did you mean epochs"):
        changed(FinetuneSettings(), {"epoch": "3"})
    with pytest.raises(RecipeError, match="lr must be over 0"):
        changed(FinetuneSettings(), {"lr": "0,1"})
