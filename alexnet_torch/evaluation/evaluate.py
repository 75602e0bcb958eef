"""Error on a split: every image once, by the centre crop or the paper's ten, by one network or several averaged."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Batch, Loader
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.weights.model_file import TrainedModel

ShouldStop = Callable[[], bool]
Total = Callable[[Tensor], Tensor]
"""Adds up what processes have counted, each in its slices of the batches: see `Ranks.total`."""


@dataclass(frozen=True)
class Errors:
    """What an evaluation found: mean cross-entropy in nats, errors as fractions."""

    loss: float
    top1_error: float
    top5_error: float


class _Tally:
    """Sums of losses and errors over batches."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._wrong1 = self._wrong5 = self._images = 0

    def add(self, log_probabilities: Tensor, labels: Tensor) -> None:
        """Counts a batch: (N, classes) and (N,), on one device."""
        self._losses.append(F.nll_loss(log_probabilities, labels, reduction="sum").item())
        self._wrong1 += int(count_wrong(log_probabilities, labels, 1))
        self._wrong5 += int(count_wrong(log_probabilities, labels, 5))
        self._images += len(labels)

    def errors(self, total: Total) -> Errors:
        """The means over the images so far of all processes, each image counted once."""
        counted = [math.fsum(self._losses), self._wrong1, self._wrong5, self._images]
        loss, wrong1, wrong5, images = total(torch.tensor(counted, dtype=torch.float64)).tolist()
        return Errors(loss / images, wrong1 / images, wrong5 / images)


def count_wrong(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """How many images' labels are not among the k most probable classes: a 0-d integer tensor.

    Args:
        logits: (N, classes), or anything that grows with them; with k classes or fewer, nothing can be wrong.
        labels: (N,) int64.
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices  # (N, k)
    return (best != labels[:, None]).all(dim=1).sum()


@torch.no_grad()
def evaluate(
    net: AlexNet,
    loader: Loader,
    mean: Tensor,
    stopped: ShouldStop = lambda: False,
    total: Total = lambda counts: counts,
) -> Errors | None:
    """Loss and errors of a network over a split, in evaluation mode, with the centre crop.

    Args:
        net: left in the mode that it was in.
        loader: of the split.
        mean: (S, S, 3) float32 mean image, on the network's first device.
        stopped: asked before each batch; when it says True the evaluation is given up.
        total: adds up the counts of processes that have a slice of each batch.

    Returns:
        the errors, or None when it was given up.
    """
    training = net.training
    net.eval()
    tally = _Tally()
    try:
        for batch in loader.epoch(0):
            if stopped():
                return None
            logits = net(subtract_mean(batch.images.to(mean.device), batch.crops, mean))  # (N, classes)
            labels = batch.full_batch_labels if net.exchange.whole_batch else batch.labels
            tally.add(logits.log_softmax(dim=1), labels.to(mean.device))
    finally:
        net.train(training)
    return tally.errors(total)


def views(squares: Tensor, size: int, crops: int) -> Iterator[Tensor]:
    """The crops that a test takes of each image (paper, section 4.1): the centre first.

    Args:
        squares: (N, 3, S, S): whole images, their mean subtracted, so that it is cut as they are.
        size: of the crops, in pixels.
        crops: 1, the centre; 5, the centre and the four corners; or 10, these five and their mirror images.

    Yields:
        (N, 3, size, size), one crop of every image.
    """
    last = squares.shape[-1] - size
    corners = [(0, 0), (0, last), (last, 0), (last, last)] if crops > 1 else []
    for top, left in [(last // 2, last // 2), *corners]:
        view = squares[:, :, top : top + size, left : left + size]
        yield view
        if crops == 10:
            yield view.flip(3)


@torch.no_grad()
def log_probabilities(model: TrainedModel, batch: Batch, crops: int) -> dict[int, Tensor]:
    """Each image's log-probabilities by the centre crop and, if asked for, by more.

    Args:
        model: its mean is of the batch's side.
        batch: whole images, from a loader whose crops are the squares.
        crops: 1, 5 or 10; the first is always the centre crop.

    Returns:
        by the number of crops, (N, classes) float64 on the CPU: the logarithm of the crops' mean softmax.
    """
    device = model.net.exchange.devices[0]
    mean = torch.from_numpy(model.mean).to(device, torch.get_default_dtype())
    squares = subtract_mean(batch.images.to(device), batch.crops, mean)  # (N, 3, S, S)
    each = [model.net(view).cpu().double().log_softmax(dim=1) for view in views(squares, model.net.image_size, crops)]
    return {1: each[0]} if crops == 1 else {1: each[0], crops: _mean(each)}


def _mean(log_probabilities: list[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities: the paper averages these, not the logits."""
    return torch.stack(log_probabilities).logsumexp(dim=0) - math.log(len(log_probabilities))


def most_crops(models: Sequence[TrainedModel]) -> int:
    """The paper's 10, or 5 where mirror images would be strange to a model, as those of digits are."""
    return 10 if all(model.mirror for model in models) else 5


@dataclass(frozen=True)
class Tested:
    """What a test with some crops found of each model and of their average, in the models' order."""

    single: tuple[Errors, ...]
    averaged: Errors


def evaluate_models(
    models: Sequence[TrainedModel],
    prepared: Mapping[int, PreparedImages],
    crops: int,
    batch_size: int = 64,
    stopped: ShouldStop = lambda: False,
    slices: tuple[int, int] = (0, 1),
    total: Total = lambda counts: counts,
    workers: int | None = None,
) -> dict[int, Tested] | None:
    """Tests models on the validation images, every image once, each alone and all averaged.

    The models, of any architecture and image size, go through the images together: an image is read once for
    all models of a side, and its probabilities are kept no longer than its batch's.

    Args:
        models: of the same classes.
        prepared: the images by the side that the models' means have.
        crops: 1; or 5 or 10, for these and the centre crop.
        batch_size: images read together; each crop of them is a batch for a network.
        stopped: asked before each batch; when it says True the evaluation is given up.
        slices: which slice of each batch this process tests, and of how many.
        total: adds up the counts of these processes.
        workers: processes that decode images; one for each core by default.

    Returns:
        by the number of crops; None when it was given up.
    """
    loaders = {
        side: Loader(data, "val", side, batch_size, workers=workers, slices=slices) for side, data in prepared.items()
    }
    tallies = {c: [_Tally() for _ in range(len(models) + 1)] for c in sorted({1, crops})}
    steps = next(iter(loaders.values())).batches_per_epoch
    epochs = zip(*(loader.epoch(0) for loader in loaders.values()), strict=True)
    for batches in tqdm(epochs, total=steps, unit="batch", disable=slices[0] > 0 or None, leave=False):
        if stopped():
            return None
        at = dict(zip(loaders, batches, strict=True))
        found = [log_probabilities(model, at[model.mean.shape[0]], crops) for model in models]
        for c, counted in tallies.items():
            every = [f[c] for f in found]
            for tally, values in zip(counted, [*every, _mean(every)], strict=True):
                tally.add(values, batches[0].labels)
    return {c: Tested(tuple(t.errors(total) for t in ts[:-1]), ts[-1].errors(total)) for c, ts in tallies.items()}


def require_same_classes(named: Mapping[str, Sequence[str]]) -> None:
    """Refuses to compare what has not the same classes in the same order.

    Args:
        named: class names by the run or folder whose they are.

    Raises:
        UserError: they differ; the message names two and a difference.
    """
    (first, classes), *others = named.items()
    for other, theirs in others:
        if list(theirs) == list(classes):
            continue
        for here, there, only in (
            (first, other, set(classes) - set(theirs)),
            (other, first, set(theirs) - set(classes)),
        ):
            if only:
                raise UserError(f"{other}: not the classes of {first}: {here} has {min(only)!r}, {there} has not")
        raise UserError(f"{other}: the classes of {first} in another order")


def table(names: Sequence[str], tested: Mapping[int, Tested]) -> str:
    """Errors in %, a row for each model and, for several, one for their average."""
    rows = list(names)
    columns: dict[str, list[float]] = {}
    for crops, found in tested.items():
        errors = [*found.single, found.averaged] if len(names) > 1 else list(found.single)
        what = "centre crop" if crops == 1 else f"{crops} crops"
        columns[f"{what}, top-1"] = [e.top1_error for e in errors]
        columns[f"{what}, top-5"] = [e.top5_error for e in errors]
    if len(names) > 1:
        rows.append(f"average of {len(names)}")
    width = max(map(len, ["error", *rows]))
    lines = [f"{'error':{width}}  " + "  ".join(columns)]
    for i, row in enumerate(rows):
        cells = (f"{values[i]:{len(heading)}.2%}" for heading, values in columns.items())
        lines.append(f"{row:{width}}  " + "  ".join(cells))
    return "\n".join(lines)
