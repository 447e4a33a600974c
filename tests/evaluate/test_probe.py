"""The frozen linear probe: a linear layer on voxel vectors, no more and no less."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnssl.blocks.sampling import sample_map
from nnssl.errors import DataError
from nnssl.evaluate.probe.linear import LabelledCase, LinearProbe, ProbeConfig, fit_probe, predict, probe_dice

SMALL = ProbeConfig(voxels_per_class=200, iterations=50)


class Maps(nn.Module):
    """A pyramid of given functions of the image, pooled to their strides."""

    def __init__(self, kind: str, strides: tuple[tuple[int, int, int], ...] = ((1, 1, 1), (2, 4, 2))) -> None:
        super().__init__()
        self.kind, self.strides = kind, strides
        self.channels = (2,) * len(strides)
        self.scale = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm3d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        values = (
            torch.cat((image, image.square()), dim=1)
            if self.kind == "image"
            else torch.zeros_like(image).repeat(1, 2, 1, 1, 1)
        )
        return [F.avg_pool3d(self.norm(values * self.scale), stride) for stride in self.strides]


def case(seed: int, *, size: tuple[int, int, int] = (20, 24, 18), noise: float = 0.0) -> LabelledCase:
    """Blocks of 0, 1 and 2; the image holds a value a class, class 1 between the others."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 3, tuple(side // 2 for side in size), generator=generator)
    labels = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    image = torch.tensor([0.0, 3.0, -2.0])[labels]
    return LabelledCase(f"case_{seed}", (image + noise * torch.randn(size, generator=generator))[None], labels)


def test_separable_features_give_a_dice_of_one() -> None:
    scores = probe_dice(Maps("image", ((1, 1, 1),)), [case(0), case(1)], [case(2)], classes=(0, 1, 2), config=SMALL)
    assert scores == {"case_2": {1: 1.0, 2: 1.0}}


def test_informative_features_beat_features_that_say_nothing() -> None:
    train, test = [case(0, noise=0.7), case(1, noise=0.7)], [case(2, noise=0.7)]
    (good,) = probe_dice(Maps("image"), train, test, classes=(0, 1, 2), config=SMALL).values()
    (none,) = probe_dice(Maps("nothing"), train, test, classes=(0, 1, 2), config=SMALL).values()
    assert good[1] > none[1] + 0.2
    assert good[2] > none[2] + 0.2


def test_the_probe_is_one_linear_layer_on_the_voxel_vector() -> None:
    generator = torch.Generator().manual_seed(0)
    size = (8, 12, 10)
    maps = [torch.randn(3, *size, generator=generator), torch.randn(5, 4, 3, 5, generator=generator)]
    layer = nn.Linear(8, 4)
    probe = LinearProbe(layer.weight.detach(), layer.bias.detach(), (0, 1, 2, 3))
    points = torch.stack(torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij"), -1).reshape(-1, 3)
    vectors = torch.cat([sample_map(level, points.float(), size) for level in maps], dim=1)
    expected = layer(vectors).T.reshape(4, *size)
    torch.testing.assert_close(probe.logits(maps, size), expected, rtol=1e-4, atol=1e-5)


def test_tiles_change_nothing_where_the_features_are_local() -> None:
    network, train, image = Maps("image", ((1, 1, 1),)), [case(0)], case(3, size=(20, 40, 18)).image
    probe = fit_probe(network, train, classes=(0, 1, 2), config=SMALL)
    whole = predict(network, probe, image, config=SMALL)
    tiled = predict(network, probe, image, config=ProbeConfig(tile=8))
    assert torch.equal(whole, tiled)


def test_sides_that_are_no_multiple_of_the_stride_are_predicted_whole() -> None:
    odd = case(4, size=(18, 22, 14))
    network = Maps("image", ((1, 1, 1), (4, 8, 4)))
    probe = fit_probe(network, [odd], classes=(0, 1, 2), config=SMALL)
    assert predict(network, probe, odd.image).shape == odd.labels.shape


def test_the_same_seed_gives_the_same_probe_and_the_network_stays_as_it_was() -> None:
    network = Maps("image").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cases = [case(0, noise=0.5)]
    first, again = (fit_probe(network, cases, classes=(0, 1, 2), config=SMALL) for _ in range(2))
    other = fit_probe(network, cases, classes=(0, 1, 2), config=ProbeConfig(voxels_per_class=200, seed=1))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert network.training
    assert network.scale.grad is None
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_unknown_voxels_are_neither_learnt_from_nor_scored() -> None:
    known = case(0)
    labels = known.labels.clone()
    labels[:6] = -1
    hidden = LabelledCase("hidden", torch.where(labels < 0, torch.tensor(50.0), known.image[0])[None], labels)
    scores = probe_dice(Maps("image", ((1, 1, 1),)), [hidden], [hidden], classes=(0, 1, 2), config=SMALL)
    assert scores["hidden"] == {1: 1.0, 2: 1.0}


def test_a_rare_class_is_not_overrated() -> None:
    """Balanced classes alone would call every doubtful voxel foreground."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(24, 24, 24, dtype=torch.int64)
    labels[10:14, 10:14, 10:14] = 1
    image = labels * 2.0 + torch.randn(labels.shape, generator=generator)
    rare = LabelledCase("rare", image[None], labels)
    network = Maps("image", ((1, 1, 1),))
    found = predict(network, fit_probe(network, [rare], classes=(0, 1)), rare.image)
    assert int((found == 1).sum()) < 5 * int(labels.sum())


def test_a_class_without_voxels_is_named() -> None:
    with pytest.raises(DataError, match=r"case_0 have none of \[7\]"):
        fit_probe(Maps("image"), [case(0)], classes=(0, 1, 7), config=SMALL)
