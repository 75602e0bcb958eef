"""PCA noise: along the principal components of the training pixels' RGB (paper, section 4.1). Needs no torch."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from alexnet_torch.randomness import random_generator

Convention = Literal["paper", "source"]


@dataclass(frozen=True)
class PCANoise:
    """PCA noise for training images: each time an image is used, one vector is added to all its pixels.

    The vector is [p1 p2 p3] [a1 l1, a2 l2, a3 l3], with p_i the eigenvectors of the pixels' covariance,
    a_i ~ N(0, std), and l_i by convention:

    - "paper": the eigenvalues. They have the unit of a squared pixel, so the text makes sense only for pixels
      in [0, 1]. For ImageNet these eigenvalues are 0.2175, 0.0188 and 0.0045, the constants of
      fb.resnet.torch that many use; in 0..255 they would be 65,025 times larger, and the noise 255 times
      too strong. In our 0..255 the vector is a_i times the eigenvalue in 0..255, over 255.
    - "source": their square roots, the standard deviations, equal in any range; on ImageNet 2, 7 and 15
      times the noise of "paper". The noisy image is then divided by 1 + std, 1.1, only in training and while
      the noise is on: "so that the overall scale of the training data doesn't become too different from the
      test data" (its data provider, convdata_jpeg.py). Test images are not divided.

    Attributes:
        std: standard deviation of the a_i; 0.1 in both.
        until: first epoch, from 0, without noise; None for noise in all epochs.
    """

    convention: Convention = "paper"
    std: float = 0.1
    until: int | None = None

    def __post_init__(self) -> None:
        if self.convention not in get_args(Convention):
            raise ValueError(f"PCANoise.convention must be one of {get_args(Convention)}, not {self.convention!r}")
        if not self.std > 0:
            raise ValueError(f"PCANoise.std must be positive, not {self.std}")

    def is_active(self, epoch: int) -> bool:
        return self.until is None or epoch < self.until

    @property
    def scale(self) -> float:
        return 1 / (1 + self.std) if self.convention == "source" else 1.0

    def draw(self, n: int, covariance: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """Returns the noise of n samples in an epoch, (n, 3) float32: a function of (seed, epoch, sample).

        The noise, and the covariance (3, 3) of the training pixels' RGB, are for pixels in 0..255.
        """
        factors = random_generator(seed, "colour", epoch).normal(0, self.std, (n, 3))
        noise: np.ndarray = factors @ self.components(covariance).T
        return noise.astype(np.float32)

    def components(self, covariance: np.ndarray) -> np.ndarray:
        """Returns (3, 3): column i is the noise for a_i = 1, the strongest component last."""
        values, vectors = np.linalg.eigh(covariance)
        values = values.clip(min=0)  # grey images have two of 0, up to rounding
        # an eigenvector's sign is arbitrary: make its largest entry positive
        largest = vectors[np.abs(vectors).argmax(axis=0), range(3)]
        strengths = values / 255 if self.convention == "paper" else np.sqrt(values)
        return np.asarray(vectors * np.sign(largest) * strengths)
