"""The input path beside the usual one, on one core: the first pass over files, and the epochs after it.

    python -m benchmarks.speed.input --data ../shared/data/hymenoptera
    python -m benchmarks.speed.input

The usual path is ImageFolder with Resize(256), RandomCrop(224), RandomHorizontalFlip, float and Normalize. Without
--data, photographs are made: noise of all scales, 500x375 JPEGs of quality 90.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from alexnet_torch.data import decode
from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.decode_pass import Chunk, decode_chunk
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.malloc import keep_freed
from benchmarks.harness.measure import alternate, keep, seconds, table

SIDE, SIZE, BATCH = 256, 224, 128
SLOW = 192  # images in a round of what decodes
FAST = 2560  # in a round of what does not

CHOICE = """\
Most photographs are smaller than 768 pixels, where scaled decoding cannot help (Pillow scales by 1/2, 1/4 and 1/8),
and Pillow's bicubic resize then takes as long as its decoding. torch's gives the same pixels in a third of that. Tried
and not taken: Pillow's reducing_gap helps large images alone, as scaled decoding does already; its bilinear and Hamming
filters are quicker, but more than a grey level off; torchvision.io.decode_jpeg gives Pillow's pixels bit for bit and
took 5% off decode_file(): too little for a second decoder with errors of its own. torchcodec was not tried."""


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: str | None = None
    """A folder of photographs, in ImageFolder's layout; made by default."""
    rounds: int = 7
    """Of which the medians are given."""


def photographs(root: Path, number: int = 240, seed: int = 0) -> Path:
    """Makes JPEGs with detail at all scales, as photographs have, in two classes.

    Args:
        root: of the folder, in ImageFolder's layout.
        number: of training files; a tenth as many for validation.
        seed: of the noise.
    """
    random = np.random.default_rng(seed)
    for split, count in (("train", number), ("val", number // 10)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((375, 500, 3), 128.0)
            for cells, contrast in ((4, 60), (16, 30), (64, 15), (250, 10)):
                noise = random.normal(0, contrast, (cells * 3 // 4, cells, 3)) + random.normal(0, contrast / 4)
                planes = torch.from_numpy(noise).permute(2, 0, 1)[None]
                pixels += F.interpolate(planes, (375, 500), mode="bicubic")[0].permute(1, 2, 0).numpy()
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / split / "ab"[i % 2] / f"{i:04}.jpg", quality=90)
    return root


def usual(data: Path) -> Callable[[], float]:
    """The usual path's seconds an image."""
    steps = [
        v2.Resize(SIDE),
        v2.RandomCrop(SIZE),
        v2.RandomHorizontalFlip(),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    images = ImageFolder(str(data / "train"), v2.Compose(steps))
    some = Subset(images, list(islice(cycle(range(len(images))), SLOW)))
    return lambda: seconds(lambda: [None for _ in DataLoader(some, BATCH, shuffle=True)]) / SLOW


def ours(prepared: PreparedImages, floats: bool) -> Callable[[], float]:
    """Our seconds an image: up to the uint8 batch, or up to the float one."""
    loader, mean = Loader(prepared, "train", SIZE, BATCH), torch.from_numpy(prepared.mean)
    count = len(prepared.train.labels)
    epochs = -(-FAST // count)

    def run() -> None:
        for epoch in range(epochs):
            for batch in loader.epoch(epoch):
                if floats:
                    subtract_mean(batch.images, batch.crops, mean)

    return lambda: seconds(run) / (epochs * count)


def whole(path: Path, resample: Image.Resampling) -> np.ndarray:
    """PIL's full decode, resized to 256 pixels on the shorter side, and its centre."""
    with Image.open(path) as image:
        scale = SIDE / min(image.size)
        size = round(image.width * scale), round(image.height * scale)
        scaled = image.convert("RGB").resize(size, resample)
    left, top = (scaled.width - SIDE) // 2, (scaled.height - SIDE) // 2
    return np.asarray(scaled.crop((left, top, left + SIDE, top + SIDE)))


def first_pass(files: list[Path], folder: Path) -> dict[str, Callable[[], float]]:
    """Seconds an image of PIL's full decode, and of our whole pass: map and training sums are written too."""
    some = tuple(islice(cycle(files), SLOW))

    def pil(resample: Image.Resampling) -> float:
        return seconds(lambda: [whole(path, resample) for path in some]) / SLOW

    chunk = Chunk(0, "train", 0, some, SIDE, folder / "map.u8", True)
    (folder / "map.u8").write_bytes(bytes(SLOW * SIDE * SIDE * 3))
    return {
        "PIL, full decode, bilinear": partial(pil, Image.Resampling.BILINEAR),
        "PIL, full decode, bicubic": partial(pil, Image.Resampling.BICUBIC),
        "our pass: bicubic, map and sums written": lambda: seconds(lambda: decode_chunk(chunk)) / SLOW,
    }


def scaled_decoding(file: Path) -> str:
    """Grey levels between scaled and full decoding of one photograph, and times, at several sizes of it."""
    with Image.open(file) as opened:
        source = opened.convert("RGB")
    rows: list[tuple[object, ...]] = []
    spare = decode.JPEG_MARGIN
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jpg"
        for short in (520, 640, 768, 900, 1200, 1440):
            scale = short / min(source.size)
            # multiples of 16, so that both decode the same square
            size = round(source.width * scale / 16) * 16, round(source.height * scale / 16) * 16
            source.resize(size, Image.Resampling.LANCZOS).save(path, quality=90)
            pixels, times = {}, {}
            for factor in (1.0, 1.5, 2.0, 100.0):
                decode.JPEG_MARGIN = factor
                pixels[factor] = decode.decode_file(path, SIDE).astype(np.float64)
                times[factor] = min(seconds(lambda: decode.decode_file(path, SIDE)) for _ in range(5))
            decode.JPEG_MARGIN = spare
            cells = [f"{np.abs(pixels[f] - pixels[100.0]).mean():.2f}, {1e3 * times[f]:.1f} ms" for f in (1, 1.5, 2)]
            rows.append((f"{size[0]}x{size[1]}", f"{1e3 * times[100.0]:.1f} ms", *cells))
    return table(("photograph", "full decode", "1 x 256 left", "1.5 x 256 left (ours)", "2 x 256 left"), rows)


def measure(data: Path, rounds: int, folder: Path) -> str:
    """All tables."""
    prepared = prepare(data, SIDE, str(folder / "cache"))
    files = [data / path for path in prepared.train.paths]
    epochs = {
        "usual: ImageFolder, PIL, float": usual(data),
        "ours, uint8 batch": ours(prepared, False),
        "ours, float batch": ours(prepared, True),
    }
    passes = first_pass(files, folder)
    times = alternate({**epochs, **passes}, rounds)

    def rates(names: list[str], peer: str) -> list[tuple[object, ...]]:
        return [(name, f"{1 / times[name]:,.0f}", f"{times[peer] / times[name]:.1f}x") for name in names]

    largest = max(files, key=lambda path: path.stat().st_size)
    return "\n\n".join(
        [
            "From the second epoch on, batches of 128 crops of 224 pixels:",
            table(("path", "images/s", "of the usual"), rates(list(epochs), "usual: ImageFolder, PIL, float")),
            "The first pass, to squares of 256 pixels:",
            table(("pass", "images/s", "of PIL's bicubic"), rates(list(passes), "PIL, full decode, bicubic")),
            f"Scaled decoding of {largest.name} at several sizes, mean grey levels off full decoding and time:",
            scaled_decoding(largest),
            CHOICE,
        ]
    )


def main(options: Options) -> None:
    """Prints the tables and keeps them."""
    keep_freed()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # the thread that makes batches shares the core, too
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        data = Path(options.data) if options.data else photographs(Path(folder) / "photographs")
        text = measure(data, options.rounds, Path(folder))
    given = f" --data {options.data}" if options.data else ""
    keep("input", f"python -m benchmarks.speed.input{given}", 1, text)


if __name__ == "__main__":
    main(tyro.cli(Options))
