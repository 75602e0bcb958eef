"""The input path beside the usual one, on one core: the first pass over files, and the epochs after it.

Then the reading of crops from the memory map, on two cores: warm and cold, and what it leaves for the training thread;
beside the way before, one Python thread that copied a crop at a time with NumPy.

    python -m benchmarks.speed.input --data ../shared/data/hymenoptera
    python -m benchmarks.speed.input

The usual path is ImageFolder with Resize(256), RandomCrop(224), RandomHorizontalFlip, float and Normalize. Without
--data, photographs are made: noise at all scales, 500x375 JPEGs of quality 90.
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
import tyro
from PIL import Image
from torch.utils.data import DataLoader, Subset

from alexnet_torch.data import decode
from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import Chunk, decode_chunk, prepare
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.sources.listing import FileReader
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.native import reuse_freed_memory
from benchmarks.harness.map_tables import map_tables
from benchmarks.harness.measure import median_times, time_call
from benchmarks.harness.photographs import photographs, usual_images
from benchmarks.harness.report import markdown_table, save_result

SIDE, SIZE, BATCH = 256, 224, 128
DECODED_IMAGES = 192  # in a round of work that decodes
CACHED_IMAGES = 2560  # in a round of work that does not
USUAL, PIL_BICUBIC = "usual: ImageFolder, PIL, float", "PIL, full decode, bicubic"

DECODER_CHOICE = """\
Most photographs are smaller than 768 pixels, where scaled decoding cannot help (Pillow scales by 1/2, 1/4 and 1/8),
and Pillow's bicubic resize then takes as long as its decoding. torch's gives the same pixels in a third of that time.
Tried and not used: Pillow's reducing_gap helps only large images, as scaled decoding already does; its bilinear and
Hamming filters are faster, but differ by more than a grey level; torchvision.io.decode_jpeg gives the same pixels bit
for bit and made decode_file() 5% faster: too little for a second decoder with errors of its own. torchcodec was not
tried."""


@dataclass(frozen=True)
class Options:
    """What to measure on."""

    data: str | None = None
    """A folder of photographs, in ImageFolder's layout; made by default."""
    rounds: int = 7
    """Measured rounds."""
    map_images: int = 4096
    """Images of 197 kB each in the map that crops are read from: more than the processor's caches hold."""


def usual_time(data: Path) -> Callable[[], float]:
    """Returns a function that measures the usual path's seconds for an image."""
    images = usual_images(data)
    repeated = Subset(images, list(islice(cycle(range(len(images))), DECODED_IMAGES)))
    return lambda: time_call(lambda: [None for _ in DataLoader(repeated, BATCH, shuffle=True)]) / DECODED_IMAGES


def our_time(prepared: PreparedImages, floats: bool) -> Callable[[], float]:
    """Returns a function that measures our seconds for an image, up to the uint8 batch or up to the float one."""
    loader, mean = Loader(prepared, "train", SIZE, BATCH), torch.from_numpy(prepared.mean)
    count = len(prepared.train.labels)
    epochs = -(-CACHED_IMAGES // count)

    def load() -> None:
        for epoch in range(epochs):
            for batch in loader.epoch(epoch):
                if floats:
                    subtract_mean(batch.images, batch.crops, mean)

    return lambda: time_call(load) / (epochs * count)


def full_decode(path: Path, resample: Image.Resampling) -> np.ndarray:
    """Returns the centre (256, 256, 3) of PIL's full decode, resized to 256 pixels on the shorter side."""
    with Image.open(path) as image:
        scale = SIDE / min(image.size)
        size = round(image.width * scale), round(image.height * scale)
        scaled = image.convert("RGB").resize(size, resample)
    left, top = (scaled.width - SIDE) // 2, (scaled.height - SIDE) // 2
    return np.asarray(scaled.crop((left, top, left + SIDE, top + SIDE)))


def first_pass(files: list[Path], folder: Path) -> dict[str, Callable[[], float]]:
    """Returns functions that measure the seconds for an image of PIL's full decode, and of our decoding pass.

    Our pass also writes the map and the training sums.
    """
    repeated = tuple(islice(cycle(files), DECODED_IMAGES))

    def pil(resample: Image.Resampling) -> float:
        return time_call(lambda: [full_decode(path, resample) for path in repeated]) / DECODED_IMAGES

    paths = list(map(str, repeated))
    samples = SourceSplit("train", paths, np.zeros(DECODED_IMAGES, np.int64), FileReader(Path(), paths))
    chunk = Chunk(0, samples, np.arange(len(samples)), SIDE, folder / "map.u8")
    (folder / "map.u8").write_bytes(bytes(DECODED_IMAGES * SIDE * SIDE * 3))
    return {
        "PIL, full decode, bilinear": partial(pil, Image.Resampling.BILINEAR),
        PIL_BICUBIC: partial(pil, Image.Resampling.BICUBIC),
        "our pass: bicubic, map and sums written": lambda: time_call(lambda: decode_chunk(chunk)) / DECODED_IMAGES,
    }


def scaled_decoding(file: Path) -> str:
    """Returns a table of one photograph at several sizes: scaled against full decoding, in grey levels and time."""
    with Image.open(file) as opened:
        source = opened.convert("RGB")
    rows: list[tuple[object, ...]] = []
    ours = decode.JPEG_MARGIN
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jpg"
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
            decode.JPEG_MARGIN = ours
            cells = [f"{np.abs(pixels[m] - pixels[100.0]).mean():.2f}, {1e3 * times[m]:.1f} ms" for m in (1, 1.5, 2)]
            rows.append((f"{size[0]}x{size[1]}", f"{1e3 * times[100.0]:.1f} ms", *cells))
    columns = ("photograph", "full decode", "1 x 256 left", "1.5 x 256 left (ours)", "2 x 256 left")
    return markdown_table(columns, rows)


def measure(data: Path, rounds: int, folder: Path) -> str:
    """Returns all tables, with a temporary folder for the cache."""
    prepared = prepare(data, SIDE, str(folder / "cache"))
    files = [data / path for path in prepared.train.keys]
    epochs = {
        USUAL: usual_time(data),
        "ours, uint8 batch": our_time(prepared, False),
        "ours, float batch": our_time(prepared, True),
    }
    passes = first_pass(files, folder)
    times = median_times({**epochs, **passes}, rounds)

    def rates(names: list[str], rival: str) -> list[tuple[object, ...]]:
        return [(name, f"{1 / times[name]:,.0f}", f"{times[rival] / times[name]:.1f}x") for name in names]

    largest = max(files, key=lambda path: path.stat().st_size)
    return "\n\n".join(
        [
            "From the second epoch on, batches of 128 crops of 224 pixels:",
            markdown_table(("path", "images/s", "of the usual"), rates(list(epochs), USUAL)),
            "The first pass, to squares of 256 pixels:",
            markdown_table(("pass", "images/s", "of PIL's bicubic"), rates(list(passes), PIL_BICUBIC)),
            f"Scaled decoding of {largest.name} at several sizes, mean grey levels off full decoding and time:",
            scaled_decoding(largest),
            DECODER_CHOICE,
        ]
    )


def main(options: Options) -> None:
    """Measures and writes the result page."""
    reuse_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on a disk: /tmp may be in memory
        crops = map_tables(options.map_images, options.rounds, Path(folder))
        if hasattr(os, "sched_setaffinity"):  # the threads that make batches run on the same core, too
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        text = measure(photographs(options.data, Path(folder)), options.rounds, Path(folder))
    given = f" --data {options.data}" if options.data else ""
    save_result("input", f"python -m benchmarks.speed.input{given}", 1, f"{text}\n\n{crops}")


if __name__ == "__main__":
    main(tyro.cli(Options))
