"""The paper's Figure 4: images with their most probable labels, and their nearest training images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from alexnet_torch.data.cache import PreparedImages, Samples
from alexnet_torch.data.loader import Loader, decode_ahead
from alexnet_torch.data.sources.source import SourceSplit
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.features import stage_outputs
from alexnet_torch.evaluation.figures.style import BLUE, ORANGE, SKY, VERMILLION, Axes, Figure, printable_name, styled
from alexnet_torch.evaluation.predict import Prediction, predict
from alexnet_torch.randomness import random_generator
from alexnet_torch.weights.model_file import TrainedModel

NUM_EXAMPLES, NUM_NEIGHBOURS = 8, 6  # as in the paper
CHECK_MARK = "✓"


@dataclass
class Picture:
    """An image; one that is named or chosen has predictions and nearest training images."""

    file: str
    label: str | None  # its class; None if it is unknown
    pixels: np.ndarray  # (224, 224, 3) uint8, whatever the network reads
    distance: float = 0.0  # of a training image
    predictions: Sequence[Prediction] = ()
    neighbours: Sequence["Picture"] = ()

    def show(self, axes: Axes, title: str, **font: Any) -> Axes:
        axes.imshow(self.pixels)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="0.6")
        axes.set_title(title, loc="center", **font)
        return axes


def find_examples(
    model: TrainedModel, prepared: PreparedImages | None, files: Sequence[Path], seed: int, batch_size: int = 64
) -> list[Picture]:
    """Returns files, or else random validation images, with predictions and nearest training images."""
    images: Sequence[Any] = files
    if files:
        classes = dict(zip(model.classes, model.labels, strict=True))  # a file's class is its folder's name
        crops, pixels = _decode(model, files)
        pictures = [Picture(str(f), classes.get(f.parent.name), each) for f, each in zip(files, pixels, strict=True)]
    elif prepared:
        order = random_generator(seed, "examples").permutation(len(prepared.val.labels))
        chosen = order[:NUM_EXAMPLES].tolist()
        crops, pictures = _samples(model, prepared.val, chosen)
        images = [Image.open(BytesIO(prepared.val.split.read(index))) for index in chosen]
    else:
        return []
    for picture, (_, predictions) in zip(pictures, predict(model, images), strict=True):
        picture.predictions = predictions
    if prepared:
        stage = model.net.architecture.stage_names[-2]
        queries = torch.from_numpy(stage_outputs(model, [stage], crops)[stage])
        # as a validation split: the loader then reads images in order and cuts the centre
        loader = Loader(replace(prepared, val=prepared.train), "val", model.net.image_size, batch_size)
        shown = tqdm(loader.epoch(0), f"{stage} of training images", loader.batches_per_epoch, disable=None)
        outputs = (stage_outputs(model, [stage], batch.images.numpy())[stage] for batch in shown)
        nearest = nearest_vectors(queries, (torch.from_numpy(block).flatten(1) for block in outputs), NUM_NEIGHBOURS)
        for picture, indices, distances in zip(pictures, *nearest, strict=True):
            _, found = _samples(model, prepared.train, indices.tolist())
            picture.neighbours = [replace(p, distance=d) for p, d in zip(found, distances.tolist(), strict=True)]
    return pictures


def _decode(model: TrainedModel, images: Sequence[Path] | SourceSplit) -> tuple[np.ndarray, ...]:
    (batch,) = decode_ahead(images, [(len(model.mean), model.net.image_size), (256, 224)], len(images))
    if batch.bad:
        raise UserError(f"{batch.bad[0][1]}; name image files")
    return batch.crops


def _samples(model: TrainedModel, samples: Samples, indices: Sequence[int]) -> tuple[np.ndarray, list[Picture]]:
    split = samples.split.take(np.array(indices))
    paths, (crops, pixels) = map(split.reader.location, range(len(indices))), _decode(model, split)
    # an archive's location is no path of a file
    files = [path if path.endswith(key) else key for path, key in zip(paths, split.keys, strict=True)]
    labels = [model.labels[label] for label in split.labels]
    return crops, [Picture(*each) for each in zip(files, labels, pixels, strict=True)]


def nearest_vectors(queries: Tensor, blocks: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Returns indices and distances (q, k) of the k vectors of blocks (n, d) nearest to queries (q, d)."""
    queries, seen = queries.flatten(1).double(), 0
    distances, indices = queries[:, :0], torch.empty(len(queries), 0, dtype=torch.long)
    for block in blocks:
        # from differences: |q|^2 + |x|^2 - 2 q.x would not order almost equal distances
        new = torch.cdist(queries, block.double(), compute_mode="donot_use_mm_for_euclid_dist")
        positions = torch.arange(seen, seen + len(block)).expand(len(queries), -1)
        distances, order = torch.cat([distances, new], 1).sort(stable=True)
        distances, indices = distances[:, :k], torch.cat([indices, positions], 1).gather(1, order[:, :k])
        seen += len(block)
    return indices, distances


@styled
def labels_figure(run: str, examples: Sequence[Picture]) -> Figure:
    """Draws images with bars for their most probable labels, the true one marked: Figure 4, left."""
    columns = min(4, len(examples))
    rows = -(-len(examples) // columns)
    figure = Figure(figsize=(max(2.35 * columns + 0.3, 5.2), 3.75 * rows + 0.75), layout="constrained")
    title = f"Most probable labels by {printable_name(run)} ({CHECK_MARK}: the true label)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    bars = max(len(example.predictions) for example in examples)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.2, 0.25 * bars] * rows)
    for index, example in enumerate(examples):
        row, column = divmod(index, columns)
        name = printable_name(example.label or Path(example.file).name)
        example.show(figure.add_subplot(grid[2 * row, column]), name, weight="bold")
        axes = figure.add_subplot(grid[2 * row + 1, column])
        axes.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        for y, prediction in enumerate(example.predictions):
            label, probability = prediction["label"], prediction["probability"]
            right = label == example.label
            axes.barh(y, probability, height=0.84, color=ORANGE if right else SKY, alpha=0.8 if right else 0.55)
            mark, weight = (f"{CHECK_MARK} ", "bold") if right else ("", "normal")
            axes.text(0.02, y, mark + printable_name(label, 18), va="center", weight=weight, clip_on=True)
            axes.text(1.0, y, f"{probability:.0%}", va="center", ha="right", weight=weight)
    return figure


@styled
def neighbours_figure(run: str, stage: str, examples: Sequence[Picture]) -> Figure:
    """Draws a row for each image and its nearest training images by a stage's features: Figure 4, right."""
    columns = 1 + len(examples[0].neighbours)
    figure = Figure(figsize=(max(1.38 * columns + 0.3, 7.6), 1.72 * len(examples) + 0.95), layout="constrained")
    marks = f"{CHECK_MARK} and a solid frame: the same class; a dashed frame: another class; below: distance"
    title = f"Nearest training images by Euclidean distance in {stage} of {printable_name(run)}\n({marks})"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    grid = figure.subplots(len(examples), columns, squeeze=False, width_ratios=[1.12] + [1] * (columns - 1))
    for row, example in zip(grid, examples, strict=True):
        label, name = example.label, printable_name(example.label or Path(example.file).name, 16)
        example.show(row[0], name, weight="bold", fontsize=8)
        for axes, picture in zip(row[1:], example.neighbours, strict=True):
            same = picture.label == label
            title = f"{CHECK_MARK if same else ''} {printable_name(str(picture.label), 14)}".strip()
            picture.show(axes, title, fontsize=8).set_xlabel(f"{picture.distance:.1f}", fontsize=8, labelpad=2)
            if label is not None:
                style = {"color": BLUE, "linestyle": "-"} if same else {"color": VERMILLION, "linestyle": (0, (3, 2))}
                axes.spines[:].set(linewidth=1.8, **style)
    return figure
