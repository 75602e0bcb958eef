"""The built-in data set: real images that need no download."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_torch.files import cache_home, naming

VALIDATION_EVERY = 5


def data_folder(data: str) -> Path:
    """Returns the folder that `--data` names: "digits" or a path."""
    return digits_folder() if data == "digits" else Path(data).expanduser()


def digits_folder(root: Path | None = None) -> Path:
    """Writes scikit-learn's 1,797 handwritten digits (UCI optdigits, 8x8) as a folder of image files, once.

    Every fifth image of each class goes to val/, the others to train/. Returns the folder, by default in the cache.
    """
    root = root or cache_home() / "digits"
    if root.is_dir():
        return root
    from sklearn.datasets import load_digits  # takes a second, which other data sets need not wait for

    images, labels = load_digits(return_X_y=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        with naming(temporary):
            _write_images(temporary, images, labels)
        temporary.rename(root)
    except BaseException as error:  # also a signal
        shutil.rmtree(temporary)
        if not (isinstance(error, OSError) and root.is_dir()):  # otherwise another process was faster
            raise
    return root


def _write_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    counts = [0] * 10
    for image, label in zip(images, labels, strict=True):
        split = "val" if counts[label] % VALIDATION_EVERY == VALIDATION_EVERY - 1 else "train"
        counts[label] += 1
        class_folder = folder / split / str(label)
        class_folder.mkdir(parents=True, exist_ok=True)
        grey = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(class_folder / f"{counts[label]:04d}.png")
