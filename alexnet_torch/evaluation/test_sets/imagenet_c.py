"""ImageNet-C's errors: the mean over severities of each corruption, and mCE, their mean relative to AlexNet's.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)

ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's top-1 error on each corruption, the mean over severities; mCE is over these 15.

Source: the authors' repository, hendrycks/robustness; the paper rounds them to 0.1%."""

EXTRA_CORRUPTIONS = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
"""Corruptions that the paper gives for the choice of settings: they have an error, but are no part of mCE."""


@dataclass(frozen=True)
class CorruptionErrors:
    """Top-1 errors on corrupted images, as fractions."""

    by_severity: Mapping[str, Mapping[int, float]]

    @property
    def means(self) -> dict[str, float]:
        """The mean over severities of each corruption that has all five."""
        complete = {name: errors for name, errors in self.by_severity.items() if set(errors) == set(SEVERITIES)}
        return {name: float(np.mean(list(errors.values()))) for name, errors in complete.items()}

    @property
    def missing(self) -> list[str]:
        """What mCE lacks: corruptions, or severities of one as "snow/3"."""
        missing = []
        for name in ALEXNET_ERRORS:
            absent = [f"{name}/{s}" for s in SEVERITIES if s not in self.by_severity.get(name, {})]
            missing += [name] if len(absent) == len(SEVERITIES) else absent
        return missing

    @property
    def mce(self) -> float | None:
        """The mean over the 15 corruptions of error / AlexNet's error, 1 for AlexNet; None if one is missing."""
        means = self.means
        if self.missing:
            return None
        return float(np.mean([means[name] / error for name, error in ALEXNET_ERRORS.items()]))
