"""The input path beside the usual one, on one core: the first pass over files, and the epochs after it.

    python -m benchmarks.speed.input --data hymenoptera

The usual path is ImageFolder with Resize(256), RandomCrop(224), RandomHorizontalFlip, float and Normalize. Without
--data, photographs are made: noise at all scales, 500x375 JPEGs of quality 90.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch.utils.data import DataLoader

from alexnet_torch.data import decode
from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.loader import Loader
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.photographs import photographs, repeated, usual_images
from benchmarks.harness.report import markdown_table, save_result

SIDE, SIZE, BATCH = 256, 224, 128
DECODED_IMAGES = 192  # in a round of work that decodes
CACHED_IMAGES = 2560  # in a round of work that does not
USUAL, PIL_BICUBIC = "usual: ImageFolder, PIL, float", "PIL, full decode, bicubic"


def our_time(prepared: PreparedImages, floats: bool) -> float:
    """Returns our seconds for an image, up to the uint8 batch or up to the float one."""
    loader, mean = Loader(prepared, "train", SIZE, BATCH), torch.from_numpy(prepared.mean)
    images = len(prepared.train.labels)
    epochs = -(-CACHED_IMAGES // images)

    def load() -> None:
        for epoch in range(epochs):
            for batch in loader.epoch(epoch):
                if floats:
                    subtract_mean(batch.images, batch.crops, mean)

    return time_call(load) / (epochs * images)


def full_decode(path: Path, resample: Image.Resampling) -> np.ndarray:
    """Returns the centre (256, 256, 3) of PIL's full decode, resized to 256 pixels on the shorter side."""
    with Image.open(path) as image:
        scale = SIDE / min(image.size)
        scaled = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)), resample)
    left, top = (scaled.width - SIDE) // 2, (scaled.height - SIDE) // 2
    return np.asarray(scaled.crop((left, top, left + SIDE, top + SIDE)))


def scaled_decoding(file: Path, path: Path) -> str:
    """Returns a table of one photograph at several sizes, saved at `path`: scaled against full decoding."""
    with Image.open(file) as opened:
        source = opened.convert("RGB")
    rows, ours = list[tuple[str, ...]](), decode.JPEG_MARGIN
    for short in (520, 640, 768, 900, 1200, 1440):
        scale = short / min(source.size)
        # multiples of 16, so that both decode the same square
        size = round(source.width * scale / 16) * 16, round(source.height * scale / 16) * 16
        source.resize(size, Image.Resampling.LANCZOS).save(path, quality=90)
        pixels, times = {}, {}
        for margin in (1.0, 1.5, 2.0, 100.0):
            decode.JPEG_MARGIN = margin
            pixels[margin] = decode.decode_file(path, SIDE).astype(np.float64)
            times[margin] = min(time_call(lambda: decode.decode_file(path, SIDE)) for _ in range(5))
        cells = [f"{np.abs(pixels[m] - pixels[100.0]).mean():.2f}, {1e3 * times[m]:.1f} ms" for m in (1, 1.5, 2)]
        rows.append((f"{size[0]}x{size[1]}", f"{1e3 * times[100.0]:.1f} ms", *cells))
    decode.JPEG_MARGIN = ours
    columns = ("photograph", "full decode", "1 x 256 left", "1.5 x 256 left (ours)", "2 x 256 left")
    return markdown_table(columns, rows)


def measure(data: Path, rounds: int, folder: Path) -> str:
    """Returns all tables, with a temporary folder for the caches."""
    root = repeated(data, folder / "repeated", DECODED_IMAGES)
    prepared, usual = prepare(data, SIDE, str(folder / "cache")), usual_images(root)
    files, caches = sorted(root.glob("train/*/*")), (str(folder / f"pass{i}") for i in count())

    def pil(resample: Image.Resampling) -> float:
        return time_call(lambda: [full_decode(path, resample) for path in files]) / DECODED_IMAGES

    epochs: dict[str, Callable[[], float]] = {
        USUAL: lambda: time_call(lambda: list(DataLoader(usual, BATCH, shuffle=True))) / DECODED_IMAGES,
        "ours, uint8 batch": partial(our_time, prepared, False),
        "ours, float batch": partial(our_time, prepared, True),
    }
    passes: dict[str, Callable[[], float]] = {
        "PIL, full decode, bilinear": partial(pil, Image.Resampling.BILINEAR),
        PIL_BICUBIC: partial(pil, Image.Resampling.BICUBIC),
        "our pass: bicubic, map and sums written": lambda: (
            time_call(lambda: prepare(root, SIDE, next(caches), workers=1)) / (DECODED_IMAGES + len(prepared.val.rows))
        ),
    }
    times = median_times({**epochs, **passes}, rounds)

    def rates(names: Sequence[str], rival: str) -> list[tuple[str, ...]]:
        return [(name, f"{1 / times[name]:,.0f}", f"{times[rival] / times[name]:.1f}x") for name in names]

    largest = max(files, key=lambda path: path.stat().st_size)
    text = [
        "From the second epoch on, batches of 128 crops of 224 pixels:",
        markdown_table(("path", "images/s", "of the usual"), rates(list(epochs), USUAL)),
        "The first pass, to squares of 256 pixels:",
        markdown_table(("pass", "images/s", "of PIL's bicubic"), rates(list(passes), PIL_BICUBIC)),
        f"Scaled decoding of {largest.name} at several sizes, mean grey levels off full decoding and time:",
        scaled_decoding(largest, folder / "x.jpg"),
    ]
    return "\n\n".join(text)


def main(data: str | None = None, rounds: int = 7) -> None:
    """Measures a folder of photographs, in ImageFolder's layout, made by default; writes the result page."""
    reuse_freed_memory()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the threads that make batches, too
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on a disk: /tmp may be in memory
        text = measure(photographs(data, Path(folder)), rounds, Path(folder))
    save_result(1, text)


if __name__ == "__main__":
    tyro.cli(main)
