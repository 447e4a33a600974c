"""An adapted tensor gives the answer of the original wherever both can be asked."""

from __future__ import annotations

import doctest

import pytest
import torch
import torch.nn.functional as F

from nnssl.errors import UsageError
from nnssl.export import rules
from nnssl.export.rules import channel_mixing, mix_channels, refit_kernel, refit_upsampling


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_a_flat_kernel_made_thick_gives_the_same_on_every_slice() -> None:
    weight, image = torch.randn(5, 2, 1, 3, 3), torch.randn(1, 2, 6, 7, 8)
    thick = refit_kernel(weight, (3, 3, 3))
    assert thick is not None
    before = F.conv3d(image, weight, padding=(0, 1, 1))
    assert torch.allclose(F.conv3d(image, thick, padding=1), before, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 3, 3), (3, 1, 3), (1, 1, 1)])
def test_a_thick_kernel_made_flat_gives_the_same_where_nothing_changes_along_the_axis(
    size: tuple[int, int, int],
) -> None:
    weight, image = torch.randn(5, 2, 3, 3, 3), torch.randn(1, 2, 9, 9, 9)
    for axis, side in enumerate(size):
        if side == 1:
            image = image.narrow(axis + 2, 0, 1).expand(*(9 if d == axis + 2 else s for d, s in enumerate(image.shape)))
    flat = refit_kernel(weight, size)
    assert flat is not None
    before = F.conv3d(image, weight)
    starts = [0 if side == 3 else 1 for side in size]  # a flat kernel loses no rim: its inner part is compared
    after = F.conv3d(image, flat)[:, :, *(slice(start, start + 7) for start in starts)]
    assert torch.allclose(after, before, atol=1e-4)


def test_a_large_kernel_folds_its_rim_into_the_nearest_tap() -> None:
    weight = torch.tensor([1.0, 2, 4, 8, 16]).view(1, 1, 5, 1, 1)
    folded = refit_kernel(weight, (3, 1, 1))
    assert folded is not None
    assert folded.flatten().tolist() == [3, 4, 24]


def test_there_is_no_centre_to_an_even_kernel() -> None:
    assert refit_kernel(torch.randn(1, 1, 2, 3, 3), (3, 3, 3)) is None


@pytest.mark.parametrize(("before", "after"), [((2, 2, 2), (1, 2, 2)), ((1, 2, 2), (2, 2, 2)), ((2, 2, 2), (4, 2, 2))])
def test_upsampling_with_another_stride_has_the_same_mean_map(
    before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    weight, cells = torch.randn(3, 2, *before), torch.randn(1, 3, 4, 4, 4)
    old = F.conv_transpose3d(cells, weight, stride=before)
    new = F.conv_transpose3d(cells, refit_upsampling(weight, after), stride=after)
    assert torch.allclose(F.avg_pool3d(old, before), F.avg_pool3d(new, after), atol=1e-5)
    if after == (2, 2, 2):
        assert torch.equal(new[:, :, 0::2], new[:, :, 1::2])


@pytest.mark.parametrize(("source", "target"), [(1, 2), (1, 4), (2, 4), (2, 3)])
def test_repeated_channels_give_the_same_on_a_repeated_input(source: int, target: int) -> None:
    weight, image = torch.randn(5, source, 3, 3, 3), torch.randn(1, source, 5, 5, 5)
    repeated = image[:, [channel % source for channel in range(target)]]
    mixed = mix_channels(weight, channel_mixing(source, target))
    assert torch.allclose(F.conv3d(repeated, mixed), F.conv3d(image, weight), atol=1e-5)


def test_fewer_channels_add_up() -> None:
    weight, image = torch.randn(5, 4, 3, 3, 3), torch.randn(1, 2, 5, 5, 5)
    mixed = mix_channels(weight, channel_mixing(4, 2))
    assert torch.allclose(F.conv3d(image, mixed), F.conv3d(image[:, [0, 1, 0, 1]], weight), atol=1e-5)


def test_channels_can_be_chosen() -> None:
    weight = torch.randn(5, 3, 1, 1, 1)
    assert torch.equal(mix_channels(weight, channel_mixing(3, 1, [2])), weight[:, 2:])
    assert channel_mixing(2, 3, [1, 1, 0]).tolist() == [[0, 0.5], [0, 0.5], [1, 0]]


@pytest.mark.parametrize("keep", [[0], [0, 2], [0, -1], [0, 1, 1]])
def test_a_wrong_choice_of_channels_is_refused(keep: list[int]) -> None:
    with pytest.raises(UsageError, match=r"0 to 1.*for each of the data set's 2"):
        channel_mixing(2, 2, keep)


def test_the_examples_are_true() -> None:
    assert doctest.testmod(rules, extraglobs={"torch": torch}).failed == 0
