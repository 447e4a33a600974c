"""Fitting the probe: the bottom of its loss, an honest estimate of Dice, no learning by heart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nnssl.evaluate.probe.fit import WEIGHT_DECAYS, Drawn, choose, estimated_dice, fit, fit_layer, log_prior
from nnssl.evaluate.statistics import dice_per_class, mean_dice


def case(seed: int, *, width: int = 4, useless: int = 0, counts: tuple[int, ...] = (100, 100, 100)) -> Drawn:
    """Overlapping classes, and `useless` features that name the case and say nothing of other cases."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(3).repeat_interleave(60)
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])[targets]
    vectors = torch.cat((centres, torch.zeros(180, width - 2)), dim=1) + torch.randn(180, width, generator=generator)
    signature = torch.randn(3, useless, generator=generator)[targets] * 5
    return Drawn(torch.cat((vectors, signature), dim=1), targets, torch.tensor(counts))


def test_the_layer_is_the_bottom_of_the_class_balanced_loss() -> None:
    drawn = [case(0), case(1)]
    weight, bias = fit(drawn, weight_decay=1e-2, iterations=200)
    vectors, targets = torch.cat([c.vectors for c in drawn]), torch.cat([c.targets for c in drawn])
    mean, std = vectors.mean(0), vectors.std(0)
    standard, offset = (weight * std).requires_grad_(), (bias + weight @ mean).requires_grad_()
    logits = F.linear((vectors - mean) / std, standard, offset)
    # equally many voxels a class: the balanced loss is the plain one
    loss = F.cross_entropy(logits, targets) + 0.5e-2 * standard.square().sum()
    for slope in torch.autograd.grad(loss, (standard, offset)):
        assert slope.abs().max() < 1e-3


def test_every_class_weighs_the_same_however_often_it_was_drawn() -> None:
    whole = case(0)
    doubled = torch.cat((torch.arange(180), torch.arange(60)))  # class 0 twice
    twice = Drawn(whole.vectors[doubled], whole.targets[doubled], whole.counts)
    weight, bias = fit([whole], weight_decay=1e-2, iterations=200)
    again, offset = fit([twice], weight_decay=1e-2, iterations=200)
    probabilities = torch.softmax(F.linear(whole.vectors, weight, bias), -1)
    # not equal, because standardisation sees the doubled voxels; but class 0 is not preferred
    assert torch.softmax(F.linear(whole.vectors, again, offset), -1).mean(0)[0] == pytest.approx(
        float(probabilities.mean(0)[0]), abs=0.01
    )


def test_a_constant_feature_gets_no_weight() -> None:
    drawn = case(0)
    vectors = torch.cat((drawn.vectors, torch.full((180, 1), 7.0)), dim=1)
    weight, _ = fit([Drawn(vectors, drawn.targets, drawn.counts)], weight_decay=1e-2, iterations=50)
    assert (weight[:, -1] == 0).all()
    assert weight.isfinite().all()


def test_the_estimate_is_the_dice_of_the_whole_case() -> None:
    """Draw every third voxel of class 0 and all others: the estimate must be near the Dice over all voxels."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.cat((torch.zeros(9000), torch.ones(300), torch.full((200,), 2.0))).long()
    logits = F.one_hot(truth, 3).float() + 0.7 * torch.randn(9500, 3, generator=generator)
    drawn = torch.cat((torch.arange(0, 9000, 3), torch.arange(9000, 9500)))
    counts = torch.bincount(truth)
    estimate = estimated_dice(Drawn(torch.empty(len(drawn), 0), truth[drawn], counts), logits[drawn])
    expected = mean_dice(dice_per_class(logits.argmax(1).numpy(), truth.numpy(), [1, 2]))
    assert estimate == pytest.approx(expected, abs=0.02)


def test_a_class_that_a_case_lacks_does_not_count() -> None:
    drawn = Drawn(torch.empty(2, 0), torch.tensor([0, 1]), torch.tensor([5, 5, 0]))
    assert estimated_dice(drawn, torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])) == 1.0


def test_features_that_name_the_case_are_not_learnt_by_heart() -> None:
    cases, unseen = [case(seed, useless=30) for seed in range(4)], [case(seed, useless=30) for seed in range(10, 16)]
    chosen, _ = choose(cases, iterations=50)

    def dice(weight_decay: float) -> float:
        weight, bias = fit(cases, weight_decay=weight_decay, iterations=50)
        return sum(estimated_dice(c, F.linear(c.vectors, weight, bias)) for c in unseen) / len(unseen)

    assert chosen > min(WEIGHT_DECAYS)
    assert dice(chosen) > dice(min(WEIGHT_DECAYS)) + 0.01


def test_the_prior_follows_the_counts() -> None:
    rare = case(0, counts=(98, 0, 0))
    prior = log_prior([rare, case(1, counts=(1, 0, 0))]).exp()
    torch.testing.assert_close(prior, torch.tensor([100.0, 1.0, 1.0]) / 102)


def test_rare_classes_are_called_less_often() -> None:
    def share_of_background(counts: tuple[int, ...]) -> Tensor:
        drawn = [case(seed, counts=counts) for seed in range(3)]
        weight, bias = fit_layer(drawn, iterations=50)
        return (F.linear(drawn[0].vectors, weight, bias).argmax(1) == 0).float().mean()

    assert share_of_background((10_000, 60, 60)) > share_of_background((60, 60, 60)) + 0.05


def test_one_case_is_enough() -> None:
    weight, bias = fit_layer([case(0)], iterations=50)
    assert weight.shape == (3, 4)
    assert bias.isfinite().all()
