"""Photographs to measure on: a folder that the user names, or JPEGs made here, and the usual way to load them."""

from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


def photographs(data: str | None, temporary: Path) -> Path:
    """Returns the folder that --data names; without --data, makes photographs in a temporary folder."""
    return Path(data) if data else make_photographs(temporary / "photographs")


def make_photographs(root: Path, number: int = 240, seed: int = 0) -> Path:
    """Makes JPEGs of 500x375 with detail at all scales, in two classes, and a tenth as many for validation."""
    random = np.random.default_rng(seed)
    for split, count in (("train", number), ("val", number // 10)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((375, 500, 3), 128.0)
            for cells, contrast in ((4, 60), (16, 30), (64, 15), (250, 10)):
                noise = random.normal(0, contrast, (cells * 3 // 4, cells, 3)) + random.normal(0, contrast / 4)
                planes = torch.from_numpy(noise).permute(2, 0, 1)[None]  # (1, 3, H, W)
                pixels += F.interpolate(planes, (375, 500), mode="bicubic")[0].permute(1, 2, 0).numpy()
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / split / "ab"[i % 2] / f"{i:04}.jpg", quality=90)
    return root


def repeated(data: Path, root: Path, images: int) -> Path:
    """Makes a folder of this many training images, links to a data set's again and again; returns it."""
    for index, file in zip(range(images), cycle(sorted((data / "train").glob("*/*"))), strict=False):
        link = root / "train" / file.parent.name / f"{index:08}{file.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    (root / "val").symlink_to((data / "val").resolve())
    return root


def usual_images(data: Path) -> ImageFolder:
    """Returns a folder's training images as people usually load them: float crops (3, 224, 224), normalised."""
    transforms = [
        *(v2.Resize(256), v2.RandomCrop(224), v2.RandomHorizontalFlip(), v2.ToImage()),
        *(v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])),
    ]
    return ImageFolder(str(data / "train"), v2.Compose(transforms))
