"""Training the heads: informative features are read, the network stays as it was, each head chooses its own step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnssl.errors import RecipeError
from nnssl.evaluate.probe.cases import Case, Label, Labels, read_case
from nnssl.evaluate.probe.settings import ProbeSettings
from nnssl.evaluate.probe.train import HEADS, FittedHead, fit_heads, make_heads, predict, score
from nnssl.evaluate.settings import changed
from tests.evaluate.labelled import Values, blocks, write_case

LABELS = Labels(classes=(Label("a", (1,)), Label("b", (2,))), ignore=None)
QUICK = ProbeSettings(steps=60, patches=3, lr=3e-2, validate_every=20)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("cases")
    for index in range(4):
        write_case(folder, f"c{index}", *blocks(index))
    return [read_case(folder, f"c{index}", LABELS, seed=0) for index in range(4)]


def fitted(
    network: nn.Module, cases: list[Case], settings: ProbeSettings = QUICK
) -> tuple[nn.ModuleDict, dict[str, FittedHead]]:
    return fit_heads(network, cases[:2], cases[2:3], LABELS, settings=settings, patch_size=(8, 8, 8), fold=0)


@pytest.fixture(scope="module")
def seen(cases: list[Case]) -> tuple[nn.ModuleDict, dict[str, FittedHead]]:
    """Heads on features that tell the classes."""
    return fitted(Values(), cases)


def test_heads_read_what_the_features_hold_and_nothing_else(
    cases: list[Case], seen: tuple[nn.ModuleDict, dict[str, FittedHead]]
) -> None:
    blind = Values(blind=True)
    good = score(Values(), seen[0], cases[3], LABELS, patch_size=(8, 8, 8))
    heads, _ = fitted(blind, cases, ProbeSettings(steps=20, patches=2, lr=3e-2, validate_every=10))
    none = score(blind, heads, cases[3], LABELS, patch_size=(8, 8, 8))
    assert set(good) == set(HEADS)
    assert min(good["non_linear"].values()) > 0.9
    assert good["linear"][0] > 0.9
    assert max(max(row.values()) for row in none.values()) < 0.6


def test_the_network_stays_as_it_was_and_the_same_seed_gives_the_same_heads(cases: list[Case]) -> None:
    network = Values().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    short = ProbeSettings(steps=3, patches=2, validate_every=3)
    state = torch.get_rng_state()
    first, again = fitted(network, cases, short)[0], fitted(network, cases, short)[0]
    other = fitted(network, cases, ProbeSettings(steps=3, patches=2, validate_every=3, seed=1))[0]
    assert torch.equal(state, torch.get_rng_state())
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first["linear"].levels[0].weight, other["linear"].levels[0].weight)


def test_each_head_is_kept_where_its_own_validation_was_best() -> None:
    head, kept = nn.Linear(1, 1), FittedHead()
    for step, dice in ((10, 0.2), (20, 0.5), (30, 0.5), (40, 0.1)):
        with torch.no_grad():
            head.weight.fill_(step)
        kept.look(head, step, dice)
    assert (kept.step, kept.dice) == (20, 0.5)
    assert float(kept.state["weight"]) == 20
    assert kept.curve == [(10, 0.2), (20, 0.5), (30, 0.5), (40, 0.1)]


def test_the_heads_curves_are_their_own_and_the_returned_heads_are_the_kept_ones(
    seen: tuple[nn.ModuleDict, dict[str, FittedHead]],
) -> None:
    heads, found = seen
    assert [step for step, _ in found["linear"].curve] == [20, 40, 60]
    assert found["linear"].curve != found["non_linear"].curve
    for name in HEADS:
        assert found[name].dice == max(dice for _, dice in found[name].curve)
        assert all(torch.equal(value, heads[name].state_dict()[key]) for key, value in found[name].state.items())


def test_windows_change_nothing_where_features_are_local(cases: list[Case]) -> None:
    network = Values()
    heads = make_heads(network, 2, seed=0)
    image, _ = cases[0].whole()
    whole = predict(network, heads, image, patch_size=(16, 16, 16))
    windows = predict(network, heads, image, patch_size=(4, 8, 4))
    for name in HEADS:
        assert whole[name].shape == (2, 12, 16, 10)
        assert torch.equal(whole[name], windows[name])


def test_settings_are_read_and_refused_in_words() -> None:
    read = changed(ProbeSettings(), {"steps": "7", "patch_size": "8,8,16"})
    assert read == ProbeSettings(steps=7, patch_size=(8, 8, 16))
    with pytest.raises(RecipeError, match=r"Unknown key step\. Did you mean steps"):
        changed(ProbeSettings(), {"step": "7"})
    with pytest.raises(RecipeError, match="validation_share between 0 and 1"):
        changed(ProbeSettings(), {"validation_share": "1"})
    with pytest.raises(RecipeError, match="must be at least 1"):
        changed(ProbeSettings(), {"patches": "0"})
