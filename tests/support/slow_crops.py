"""Crops that take long to decode, in a module of its own, which decoding processes import."""

import time

import numpy as np

from alexnet_torch.data.crop_reader import FileCrops


class SlowCrops(FileCrops):
    """Takes 1.5 s for each image."""

    def read(self, indices: np.ndarray) -> np.ndarray | str:
        time.sleep(1.5 * len(indices))
        return super().read(indices)
