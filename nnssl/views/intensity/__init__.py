"""Intensity operations: every one a small frozen dataclass that draws parameters and applies them."""

from nnssl.views.intensity.base import IntensityOp
from nnssl.views.intensity.blur import GaussianBlur, Sharpen
from nnssl.views.intensity.brightness import BrightnessAdd, BrightnessMultiply
from nnssl.views.intensity.choice import OneOf
from nnssl.views.intensity.contrast import Contrast, Gamma
from nnssl.views.intensity.histogram import HistogramShift
from nnssl.views.intensity.noise import GaussianNoise
from nnssl.views.intensity.window import Clip, PercentileWindow, Window

__all__ = [
    "BrightnessAdd", "BrightnessMultiply", "Clip", "Contrast", "Gamma", "GaussianBlur", "GaussianNoise",
    "HistogramShift", "IntensityOp", "OneOf", "PercentileWindow", "Sharpen", "Window",
]  # fmt: skip
