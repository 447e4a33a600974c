"""Every draw is a function of (seed, key, names): processes, order and batch make-up do not matter."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from nnssl.engine import randomness
from nnssl.engine.randomness import digest, normal, numpy_generator, permutation, torch_generator, uniform


def test_same_names_give_the_same_numbers_in_another_process() -> None:
    code = (
        "from nnssl.engine.randomness import numpy_generator as g; print(repr(g(3, 5, 'view', 1).random(3).tolist()))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == repr(numpy_generator(3, 5, "view", 1).random(3).tolist())


@pytest.mark.parametrize("other", [(1, 7, ("a", "b")), (0, 8, ("a", "b")), (0, 7, ("ab",)), (0, 7, ("b", "a"))])
def test_seed_key_and_names_all_matter(other: tuple[int, int, tuple[str, ...]]) -> None:
    assert digest(0, 7, ("a", "b")) != digest(*other)


def test_a_number_and_its_text_are_different_names() -> None:
    assert digest(0, 7, (1,)) != digest(0, 7, ("1",))


def test_negative_and_huge_keys_are_allowed() -> None:
    draws = {numpy_generator(0, key).random() for key in (-1, -2, 2**62, 2**70)}
    assert len(draws) == 4


def test_torch_generator_repeats_itself() -> None:
    first, second = (torch.randn(5, generator=torch_generator(1, 2, "noise")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.randn(5, generator=torch_generator(1, 3, "noise")))


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("shape", [(4,), (2, 3), (41, 41, 41)])
def test_a_row_does_not_depend_on_the_rest_of_the_batch(draw, shape) -> None:  # type: ignore[no-untyped-def]
    keys = torch.tensor([5, 9, 2])
    whole = draw(0, keys, "x", shape)
    alone = draw(0, keys[1:2], "x", shape)
    assert whole.shape == (3, *shape)
    assert torch.equal(whole[1:2], alone)
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("draw", [uniform, normal])
def test_float64_runs_see_the_same_draws(draw) -> None:  # type: ignore[no-untyped-def]
    keys = torch.arange(3)
    assert torch.equal(draw(0, keys, "x", (8,)), draw(0, keys, "x", (8,), dtype=torch.float64).float())


def test_uniform_stays_below_one_after_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Top:
        def random(self, count: int) -> np.ndarray:
            return np.full(count, np.nextafter(1.0, 0.0))

    monkeypatch.setattr(randomness, "numpy_generator", lambda *_: Top())
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert (uniform(0, torch.tensor([0]), "x", (2,), dtype=dtype) < 1).all()


def test_moments_are_those_of_the_distributions() -> None:
    keys = torch.arange(64)
    u, z = uniform(0, keys, "u", (512,)), normal(0, keys, "z", (512,))
    assert abs(float(u.mean()) - 0.5) < 0.01 and abs(float(u.var()) - 1 / 12) < 0.003
    assert abs(float(z.mean())) < 0.02 and abs(float(z.std()) - 1) < 0.02


def test_permutations_are_permutations_and_uniform() -> None:
    orders = permutation(0, torch.arange(2000), "order", 4)
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(2000, 4))
    share = (orders[:, 0] == 0).float().mean()
    assert abs(float(share) - 0.25) < 0.04


def test_an_empty_batch_has_the_right_shape() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert uniform(0, none, "x", (2, 3)).shape == (0, 2, 3)
    assert permutation(0, none, "x", 5).shape == (0, 5)
