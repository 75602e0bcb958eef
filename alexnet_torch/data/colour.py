"""PCA colour noise: along the principal components of the training pixels' RGB (paper, section 4.1)."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from alexnet_torch.randomness import stream

Convention = Literal["paper", "source"]


@dataclass(frozen=True)
class ColourNoise:
    """Colour noise for training images: each time one is used, one vector is added to all its pixels.

    The vector is [p1 p2 p3] [a1 l1, a2 l2, a3 l3], with p_i the eigenvectors of the pixels' covariance,
    a_i ~ N(0, std), and l_i by convention:

    - "paper": the eigenvalues. They have the unit of a squared pixel, so the text means something in one
      range alone: of pixels in [0, 1]. For ImageNet these are 0.2175, 0.0188 and 0.0045, the constants of
      fb.resnet.torch that many use; in 0..255 they would be 65,025 times larger, and the noise 255 times
      too strong. In our 0..255 the vector is a_i times the eigenvalue in 0..255, over 255.
    - "source": their square roots, the standard deviations, the same in any range; on ImageNet 2, 7 and 15
      times the noise of "paper". The noisy image is then divided by 1 + std, 1.1, in training alone while
      the noise is on: "so that the overall scale of the training data doesn't become too different from the
      test data" (its data provider, convdata_jpeg.py). Test images are not divided.

    Attributes:
        std: of the a_i; 0.1 in both.
        until: epoch, from 0, from which on there is no noise; None for noise to the end.
    """

    convention: Convention = "paper"
    std: float = 0.1
    until: int | None = None

    def __post_init__(self) -> None:
        if self.convention not in get_args(Convention):
            raise ValueError(f"ColourNoise.convention must be one of {get_args(Convention)}, not {self.convention!r}")
        if not self.std > 0:
            raise ValueError(f"ColourNoise.std must be positive, not {self.std}")

    def is_active(self, epoch: int) -> bool:
        """Whether images of an epoch, from 0, get noise."""
        return self.until is None or epoch < self.until

    @property
    def scale(self) -> float:
        """What images with noise are multiplied by."""
        return 1 / (1 + self.std) if self.convention == "source" else 1.0

    def shifts(self, n: int, covariance: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """What to add to every sample's RGB in an epoch: a function of (seed, epoch, sample).

        Args:
            n: samples.
            covariance: (3, 3) of the training pixels' RGB in 0..255.
            seed: of the run.
            epoch: from 0.

        Returns:
            (n, 3) float32, in 0..255's scale.
        """
        draws = stream(seed, "colour", epoch).normal(0, self.std, (n, 3))
        shifts: np.ndarray = draws @ self.axes(covariance).T
        return shifts.astype(np.float32)

    def axes(self, covariance: np.ndarray) -> np.ndarray:
        """(3, 3): column i is the shift in 0..255 for a_i = 1, the strongest component last.

        Args:
            covariance: (3, 3) of the training pixels' RGB in 0..255.
        """
        values, vectors = np.linalg.eigh(covariance)
        values = values.clip(min=0)  # grey images have two of 0, up to rounding
        # an eigenvector's sign is the library's whim: the largest component is made positive
        largest = vectors[np.abs(vectors).argmax(axis=0), range(3)]
        strengths = values / 255 if self.convention == "paper" else np.sqrt(values)
        return np.asarray(vectors * np.sign(largest) * strengths)
