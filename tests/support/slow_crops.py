"""Crops that take long to decode, in a module of its own, which decoding processes import."""

import time

import numpy as np

from alexnet_torch.data import loader

decode_crops = loader.decode_crops


def slow_crops(task: loader.CropTask) -> np.ndarray:
    """Takes 1.5 s for each image."""
    time.sleep(1.5 * len(task[0]))
    return decode_crops(task)
