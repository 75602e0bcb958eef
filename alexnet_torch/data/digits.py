"""The built-in data set: real images that need no download."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_torch.files import cache_home, writing

VALIDATION_EVERY = 5


def data_folder(data: str) -> Path:
    """Returns the folder that `--data` names: "digits" or a path."""
    return digits_folder() if data == "digits" else Path(data).expanduser()


def digits_folder(root: Path | None = None) -> Path:
    """Writes scikit-learn's 1,797 handwritten digits (UCI optdigits, 8x8) as image files, once; returns their folder.

    Every fifth image of each class goes to val/, the others to train/.
    """
    root = root or cache_home() / "digits"
    if root.is_dir():
        return root
    from sklearn.datasets import load_digits  # takes a second, which other data sets need not wait for

    root.parent.mkdir(parents=True, exist_ok=True)
    with writing(f"--data {root}"), tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as name:
        counts, made = [0] * 10, Path(name) / "digits"
        for image, label in zip(*load_digits(return_X_y=True), strict=True):
            counts[label] += 1
            folder = made / ("train" if counts[label] % VALIDATION_EVERY else "val") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            grey = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"{counts[label]:04d}.png")
        try:
            made.rename(root)
        except OSError:
            if not root.is_dir():  # otherwise another process was faster
                raise
    return root
