"""Every intensity operation against a float64 reference written from its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnssl.engine.randomness import numpy_generator, torch_generator
from nnssl.errors import RecipeError
from nnssl.views.intensity import (
    BrightnessAdd,
    BrightnessMultiply,
    Clip,
    Contrast,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    HistogramShift,
    IntensityOp,
    OneOf,
    PercentileWindow,
    Sharpen,
    Window,
)
from nnssl.views.intensity.apply import apply_chain, draw_chain
from nnssl.views.intensity.base import draw_about_one
from nnssl.views.spec import Intensity

SHAPE = (6, 9, 11)


def rows(count: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=dtype) * 50 + 7


def run(op: IntensityOp, image: torch.Tensor, key: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    drawn = op.draw(numpy_generator(0, key), len(image))
    params = {name: torch.from_numpy(value).to(image) for name, value in drawn.items()}
    return op.apply(image.clone(), params, torch.ones_like).numpy(), drawn


def blur(x: np.ndarray, sigma: float | list[float]) -> np.ndarray:
    return ndimage.gaussian_filter(x, sigma, mode="reflect", truncate=4.0)


def contrast(x: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(x.mean() + factor * (x - x.mean()), x.min(), x.max())


def gamma(x: np.ndarray, power: float) -> np.ndarray:
    span = x.max() - x.min()
    y = span * ((x - x.min()) / span) ** power + x.min()
    return (y - y.mean()) / y.std() * x.std() + x.mean()


def histogram(x: np.ndarray, heights: np.ndarray) -> np.ndarray:
    place = (x - x.min()) / (x.max() - x.min())
    return x.min() + (x.max() - x.min()) * np.interp(place, np.linspace(0, 1, len(heights)), heights)


def sharpen(x: np.ndarray, sigma: float, alpha: float) -> np.ndarray:
    once = blur(x, sigma)
    return once + alpha * (once - blur(once, 0.5))


def percentile_window(x: np.ndarray, low: float, high: float) -> np.ndarray:
    ends = np.percentile(x, [0.5, 99.5], method="nearest")
    moved = ends + np.array([low, high]) * np.ptp(ends)
    return np.clip((x - moved[0]) / np.ptp(moved), 0, 1)


def one_of(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    return blur(x, p["0.sigma"][0]) if p["choice"] == 0 else sharpen(x, p["1.sigma"], p["1.alpha"])


REFERENCES = [
    (GaussianNoise((0.0, 0.1)), lambda x, p: x + p["std"]),
    (GaussianBlur((0.1, 2.0)), lambda x, p: blur(x, p["sigma"][0])),
    (GaussianBlur((0.1, 2.0), per_axis=True), lambda x, p: blur(x, p["sigma"])),
    (GaussianBlur((0.1, 2.0), in_plane=True), lambda x, p: blur(x, [0, p["sigma"][0], p["sigma"][0]])),
    (BrightnessMultiply((0.75, 1.25)), lambda x, p: x * p["factor"]),
    (BrightnessAdd(0.4), lambda x, p: x + p["offset"]),
    (Contrast((0.75, 1.25)), lambda x, p: contrast(x, p["factor"])),
    (Gamma((0.7, 1.5)), lambda x, p: gamma(x, p["gamma"])),
    (Window((-60, -50), (90, 100), (-55, 95)), lambda x, p: np.clip((x - p["low"]) / (p["high"] - p["low"]), 0, 1)),
    (PercentileWindow((0.5, 99.5), jitter=0.15), lambda x, p: percentile_window(x, p["low"], p["high"])),
    (OneOf((GaussianBlur((0.25, 1.5)), Sharpen((0.5, 1.0), (1, 3)))), one_of),
    (Clip(-20, 30), lambda x, p: np.clip(x, -20, 30)),
    (Sharpen((0.5, 1.0), (10, 30)), lambda x, p: sharpen(x, p["sigma"], p["alpha"])),
    (HistogramShift(10), lambda x, p: histogram(x, p["heights"])),
]


@pytest.mark.parametrize(("op", "reference"), REFERENCES)
def test_every_operation_equals_its_definition(op, reference) -> None:  # type: ignore[no-untyped-def]
    image = rows()
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 2e-5)):
        got, drawn = run(op, image.to(dtype))
        for row, x in enumerate(image.numpy()):
            want = reference(x, {name: value[row] for name, value in drawn.items()})
            np.testing.assert_allclose(got[row], want, atol=tolerance * 50 * (30 if isinstance(op, Sharpen) else 1))


@pytest.mark.parametrize("op", [op for op, _ in REFERENCES])
def test_a_constant_row_stays_finite(op: IntensityOp) -> None:
    got, _ = run(op, torch.full((2, *SHAPE), 3.0))
    assert np.isfinite(got).all()


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 12)] * 3), sigma=st.floats(0, 3), key=st.integers(0, 99))
def test_blur_equals_scipy_for_any_shape(shape: tuple[int, int, int], sigma: float, key: int) -> None:
    x = np.random.default_rng(key).standard_normal((1, *shape))
    op = GaussianBlur((sigma, sigma))
    got, _ = run(op, torch.from_numpy(x))
    np.testing.assert_allclose(got[0], blur(x[0], sigma) if sigma > 0.125 else x[0], atol=1e-8)


@pytest.mark.parametrize("shape", [(80, 3, 5), (3, 80, 5), (3, 5, 80), (1, 70, 1)])
def test_blur_of_long_axes_equals_scipy(shape: tuple[int, int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, *shape))
    got, drawn = run(GaussianBlur((0.5, 2.0)), torch.from_numpy(x))
    for row in range(2):
        np.testing.assert_allclose(got[row], blur(x[row], drawn["sigma"][row, 0]), atol=1e-8)


def test_half_of_the_factors_lie_below_one() -> None:
    drawn = draw_about_one(numpy_generator(0, 0), (0.7, 1.5), 4000)
    assert abs((drawn < 1).mean() - 0.5) < 0.03
    assert drawn.min() >= 0.7 and drawn.max() <= 1.5
    assert abs(drawn[drawn > 1].mean() - 1.25) < 0.02
    assert draw_about_one(numpy_generator(0, 0), (1.2, 1.4), 100).min() >= 1.2


def test_noise_range_is_a_standard_deviation() -> None:
    intensity = Intensity(ops=(GaussianNoise((0.1, 0.1)),))
    image = torch.zeros(2, 1, 16, 16, 16)
    apply_chain(
        image, intensity, [draw_chain(intensity, 1, 16, 0, key) for key in (0, 1)], 0, [(0, "v", 0), (1, "v", 0)]
    )
    assert float(image.std()) == pytest.approx(0.1, rel=0.03)
    assert not torch.equal(image[0], image[1])


def test_noise_is_the_keyed_field_of_its_view() -> None:
    intensity = Intensity(ops=(GaussianNoise((1.0, 1.0)),))
    image = torch.zeros(1, 2, 4, 4, 4, dtype=torch.float64)
    apply_chain(image, intensity, [draw_chain(intensity, 2, 4, 9, 5)], 9, [(5, "v", 1)])
    field = torch.randn(2, 4, 4, 4, generator=torch_generator(9, 5, "v", 1, 0, "noise"))
    assert torch.equal(image[0], field.double())


@pytest.mark.parametrize(("probability", "channel_probability"), [(0.3, 1.0), (1.0, 0.4), (0.8, 0.5)])
def test_views_and_channels_are_changed_as_often_as_asked(probability: float, channel_probability: float) -> None:
    op = BrightnessAdd(1.0, probability=probability, channel_probability=channel_probability)
    drawn = [op.draw_view(numpy_generator(0, key), 4) for key in range(800)]
    changed = np.array([one.rows if one is not None else np.zeros(4, bool) for one in drawn])
    assert changed.mean() == pytest.approx(probability * channel_probability, abs=0.04)


def test_slicewise_treats_every_slice_as_a_channel_in_2d() -> None:
    ops = (BrightnessAdd(0.4), GaussianBlur((1.0, 2.0)))
    whole, sliced = Intensity(ops=ops[:1]), Intensity(ops=ops[:1], slicewise=True)
    for intensity, distinct in ((whole, 2), (sliced, 12)):
        image = torch.zeros(1, 2, 6, 5, 5)
        apply_chain(image, intensity, [draw_chain(intensity, 2, 6, 0, 0)], 0, [(0, "v", 0)])
        assert len(image.unique()) == distinct
    blurred = Intensity(ops=ops[1:], slicewise=True)
    image = torch.zeros(1, 1, 6, 9, 9)
    image[0, 0, 2, 4, 4] = 1
    apply_chain(image, blurred, [draw_chain(blurred, 1, 6, 0, 0)], 0, [(0, "v", 0)])
    assert float(image[0, 0, 2].sum()) == pytest.approx(1, abs=1e-5)
    assert (image[0, 0, [0, 1, 3, 4, 5]] == 0).all()


@pytest.mark.parametrize("slicewise", [False, True])
def test_one_view_of_several_is_changed_in_place_however_many_are_taken_at_once(
    slicewise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    intensity = Intensity(ops=(BrightnessAdd(1.0), GaussianBlur((1.0, 2.0))), slicewise=slicewise)
    chains = [draw_chain(intensity, 2, SHAPE[0], 0, key) for key in range(3)]
    names = [(key, "v", 1) for key in range(3)]
    views = torch.randn(3, 2, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    one_by_one, together = views.clone(), views.clone()
    apply_chain(one_by_one[:, 1], intensity, chains, 0, names)
    monkeypatch.setattr("nnssl.views.intensity.apply._at_once", len)  # as on a GPU
    apply_chain(together[:, 1], intensity, chains, 0, names)
    assert not torch.equal(together[:, 1], views[:, 1]) and torch.equal(together[:, 0], views[:, 0])
    torch.testing.assert_close(together, one_by_one)


def test_only_the_drawn_channels_change_and_a_batch_equals_its_elements() -> None:
    ops = tuple(replace(op, channel_probability=0.5) for op, _ in REFERENCES if not isinstance(op, Sharpen))
    intensity = Intensity(ops=ops)
    views = torch.randn(3, 4, *SHAPE, generator=torch.Generator().manual_seed(0))
    names = [(key, "v", 0) for key in range(3)]
    chains = [draw_chain(intensity, 4, SHAPE[0], 0, key) for key in range(3)]
    together = views.clone()
    apply_chain(together, intensity, chains, 0, names)
    for number in range(3):
        alone = views[number : number + 1].clone()
        apply_chain(alone, intensity, chains[number : number + 1], 0, names[number : number + 1])
        assert torch.equal(alone[0], together[number])
    single = Intensity(ops=(Contrast((0.5, 2.0), channel_probability=0.5),))
    changed = views.clone()
    drawn = [draw_chain(single, 4, SHAPE[0], 0, key) for key in range(3)]
    apply_chain(changed, single, drawn, 0, names)
    for view, chain in enumerate(drawn):
        picked = chain[0].rows if chain[0] is not None else np.zeros(4, bool)
        same = (changed[view] == views[view]).flatten(1).all(1).numpy()
        np.testing.assert_array_equal(same, ~picked)


def test_the_window_is_usual_where_it_is_not_drawn() -> None:
    op = Window((-1350, -1000), (300, 1000), (-1350, 1000), jitter_probability=0.8)
    lows = np.array([op.draw(numpy_generator(0, key), 1)["low"][0] for key in range(400)])
    assert abs((lows == -1350).mean() - 0.2) < 0.06
    assert lows.min() >= -1350 and lows.max() <= -1000


def test_each_operation_of_a_choice_has_its_turn_and_the_others_draws_stay() -> None:
    op = OneOf((GaussianBlur((0.25, 1.5)), Sharpen()), probability=0.5)
    drawn = [op.draw_view(numpy_generator(0, key), 2) for key in range(800)]
    changed = [one.params for one in drawn if one is not None]
    assert len(changed) / 800 == pytest.approx(0.5, abs=0.06)
    choices = np.array([params["choice"] for params in changed])
    assert (choices[:, 0] == choices[:, 1]).all() and choices.mean() == pytest.approx(0.5, abs=0.07)
    # a range of no width elsewhere changes nothing of the second operation
    other = OneOf((GaussianBlur((1.0, 1.0)), Sharpen()), probability=0.5)
    again = [one.params for key in range(800) if (one := other.draw_view(numpy_generator(0, key), 2)) is not None]
    for name in ("choice", "1.sigma", "1.alpha"):
        np.testing.assert_array_equal([p[name] for p in changed], [p[name] for p in again])


def test_a_batch_of_choices_equals_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    intensity = Intensity(ops=(OneOf((GaussianBlur((0.25, 1.5), in_plane=True), GaussianNoise((1.0, 2.0)))),))
    chains = [draw_chain(intensity, 1, SHAPE[0], 0, key) for key in range(6)]
    names = [(key, "v", 0) for key in range(6)]
    views = torch.randn(6, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    one_by_one, together = views.clone(), views.clone()
    apply_chain(one_by_one, intensity, chains, 0, names)
    monkeypatch.setattr("nnssl.views.intensity.apply._at_once", len)  # as on a GPU
    apply_chain(together, intensity, chains, 0, names)
    assert {chain[0].params["choice"][0] for chain in chains if chain[0] is not None} == {0.0, 1.0}
    assert not torch.equal(together, views)
    torch.testing.assert_close(together, one_by_one)


def test_percentile_windows_give_zero_to_one_whatever_the_unit() -> None:
    op = PercentileWindow(jitter=0.15)
    drawn = [op.draw(numpy_generator(0, key), 1) for key in range(300)]
    for end in ("low", "high"):
        moves = np.array([params[end][0] for params in drawn])
        assert np.abs(moves).max() <= 0.15 and moves.min() < -0.13 and moves.max() > 0.13
    image = rows(1)
    small, params = run(op, image)
    large, _ = run(op, image * 1000 + 77)
    np.testing.assert_allclose(small, large, atol=1e-9)
    assert small.min() == 0 and small.max() <= 1 and params["low"] != params["high"]
    assert (run(op, torch.full((1, *SHAPE), 3.0))[0] == 0).all()


def test_histogram_heights_never_fall() -> None:
    heights = HistogramShift(10).draw(numpy_generator(0, 3), 50)["heights"]
    assert (np.diff(heights, axis=1) >= 0).all() and (heights[:, 0] == 0).all() and (heights[:, -1] == 1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise((0.2, 0.1)), "GaussianNoise needs std"),
        (lambda: GaussianBlur((-1.0, 1.0)), "GaussianBlur needs sigma"),
        (lambda: Window((-100, 50), (0, 100), (-50, 50)), "every low end below every high end"),
        (lambda: HistogramShift(2), "at least 3 points"),
        (lambda: PercentileWindow((60, 40)), "0 <= low < high <= 100"),
        (lambda: PercentileWindow(jitter=0.6), r"jitter in \[0, 0.5\)"),
        (lambda: OneOf((Sharpen(probability=0.5),)), "OneOf needs operations with probability"),
    ],
)
def test_senseless_ranges_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RecipeError, match=message):
        make()
