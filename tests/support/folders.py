"""Folders that tests make: images of a few classes, and a run as training leaves it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_torch.weights.model_file import TrainedModel, save_model
from tests.support.nets import narrow_net


def make_images(
    root: Path, classes: int = 3, train: int = 8, val: int = 4, size: tuple[int, int] = (40, 30), seed: int = 0
) -> Path:
    """Makes PNG images of noise around one colour for each class, which are easy to learn; returns the folder."""
    random = np.random.default_rng(seed)
    for k in range(classes):
        colour = 255 * np.array([k & 1, (k >> 1) & 1, (k >> 2) & 1])
        for split, count in (("train", train), ("val", val)):
            folder = root / split / f"class{k}"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise = random.integers(0, 256, (size[1], size[0], 3))
                Image.fromarray(((noise + colour) // 2).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


def make_run(folder: Path) -> Path:
    """Makes FOLDER/run as training leaves it, of a narrow untrained network, and its images in FOLDER/images."""
    images, run = make_images(folder / "images"), folder / "run"
    run.mkdir()
    mean = np.random.default_rng(1).uniform(100, 150, (73, 73, 3)).astype(np.float32)
    save_model(run, TrainedModel(narrow_net(), ("class0", "class1", "class2"), mean))
    settings = {"data": str(images), "cache": str(folder / "cache"), "skip_bad": False}
    (run / "config.json").write_text(json.dumps({"settings": settings}))
    reports = [
        {"split": split, "step": step, "epoch": step / 3, "loss": 3 / step, "top1_error": 0.9 / step}
        for step in (1, 2, 3)
        for split in ("train", "val")
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    return run
