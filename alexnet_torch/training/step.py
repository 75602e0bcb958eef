"""The training step: what it reads from the host, forward and backward pass, update; its sums until a report."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Batch, sent
from alexnet_torch.evaluation.metrics import count_wrong
from alexnet_torch.model.dropout import DropoutKey
from alexnet_torch.training.checkpoints import RunState

T = TypeVar("T")
StepResult = tuple[Tensor, Tensor]
Images = Tensor | list[Tensor]  # (n, 3, H, W) less the mean; where towers are on several devices, one for each tower
Step = Callable[[Images, Tensor, DropoutKey, int], StepResult]  # of images, labels, dropout and batch size
WARM_UP = 3  # steps at the same rates before one is captured


class Precision:
    """The number formats of `--precision` on these devices; and on GPUs the same bits in every run."""

    def __init__(self, name: str, *devices: torch.device) -> None:
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name)
        self._kinds = list(dict.fromkeys(device.type for device in devices))
        # against small gradients that vanish in fp16
        self.scaler = torch.amp.GradScaler(self._kinds[0], enabled=name == "fp16")
        if "cuda" in self._kinds:
            # all else in a step has no atomics; cudnn.benchmark would choose other kernels, and bits, in another run
            torch.backends.cudnn.deterministic = True
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        contexts = ExitStack()
        for kind in self._kinds:  # a context of one type leaves the other types in 32 bits
            contexts.enter_context(torch.autocast(kind, dtype=self.dtype, enabled=self.dtype is not None))
        return contexts


def train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    images: Images,
    labels: Tensor,
    dropout: DropoutKey,
    batch_size: int,
    label_smoothing: float = 0.0,
    parts: int = 1,
) -> StepResult:
    """One step, at the optimizer's present rates, of images from a batch of `batch_size`. Never waits for a GPU.

    Returns their part of the batch's mean loss in nats, and their top-1 errors: both 0-d, on the device.
    """
    results, row = list[StepResult](), dropout.first_row
    several = images if isinstance(images, list) else [images]
    for *some, those in zip(*(tensor.chunk(parts) for tensor in (*several, labels)), strict=True):
        is_last = row + len(some[0]) == dropout.first_row + len(several[0])
        # ranks add up their gradients in the last backward pass
        with nullcontext() if is_last else getattr(net, "no_sync", nullcontext)():
            with precision.autocast():
                given = some if isinstance(images, list) else some[0]
                logits = net(given, replace(dropout, first_row=row))  # (n, classes)
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                loss = F.cross_entropy(logits, those, reduction="sum", label_smoothing=label_smoothing) / batch_size
            precision.scaler.scale(loss).backward()
        results.append((loss.detach(), count_wrong(logits.detach(), those, 1)))
        row += len(some[0])
    precision.scaler.step(optimizer)
    precision.scaler.update()
    optimizer.zero_grad()  # here, not before the next backward pass: 244 MB less during the forward pass
    if len(results) == 1:
        return results[0]
    losses, wrong = zip(*results, strict=True)
    return torch.stack(losses).sum(), torch.stack(wrong).sum()


class CapturedStep:
    """A step, captured as a CUDA graph that one GPU replays in one launch: `--compile`.

    Each new learning rate is captured again; one that always changes never is. Batches of another size than `rows` run
    without the graph. The next step overwrites the results.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, rows: int) -> None:
        self._step, self._optimizer, self._rows = step, optimizer, rows
        self._rates, self._steps = list[float](), 0
        self._replay: Callable[[], object] | None = None
        self._inputs: list[Tensor]
        self._results: StepResult

    def __call__(self, images: Images, labels: Tensor, dropout: DropoutKey, batch_size: int) -> StepResult:
        assert isinstance(images, Tensor)
        assert dropout.values is not None
        rates = [group["lr"] for group in self._optimizer.param_groups]
        if rates != self._rates:
            self._rates, self._steps, self._replay = rates, 0, None
        if len(images) != self._rows or self._steps < WARM_UP:  # the first steps compile kernels and allocate
            self._steps += len(images) == self._rows
            return self._step(images, labels, dropout, batch_size)
        given = (images, labels, dropout.values)
        if self._replay is None:
            own = self._inputs = [tensor.clone() for tensor in given]
            for group in self._optimizer.param_groups:
                group["capturable"] = True  # Adam asks for it
            key = DropoutKey(0, 0, 0, own[2])
            self._replay, self._results = capture(partial(self._step, own[0], own[1], key, batch_size))
        for own_tensor, tensor in zip(self._inputs, given, strict=True):
            own_tensor.copy_(tensor)
        self._replay()
        return self._results


def capture(step: Callable[[], StepResult]) -> tuple[Callable[[], object], StepResult]:
    """Records what a step launches; returns the replay, and where it puts its results."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph.replay, results


def step_inputs(batch: Batch, dropout_keys: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sends a batch to the device of the mean image, in two transfers: images (n, 3, H, W), labels and keys."""
    pixels, noise = sent(batch.images, mean.device), batch.pca_noise  # (n, H, W, 3), (n, 3)
    if mean.device.type == "cpu":
        return subtract_mean(pixels, batch.crops, mean, noise, batch.scale), batch.labels, dropout_keys
    small = [batch.labels, dropout_keys, torch.from_numpy(batch.crops.positions()), *([] if noise is None else [noise])]
    labels, keys, positions, *noises = send_together(small, mean.device)
    images = subtract_mean(pixels, batch.crops, mean, noises[0] if noises else None, batch.scale, positions)
    return images, labels, keys


def send_together(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Sends small contiguous tensors, the widest types first, in one transfer, without waiting for it."""
    blocks = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    # a GPU copies only from page-locked memory without stopping the CPU
    packed = torch.empty(sum(map(len, blocks)), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.concatenate([block.numpy() for block in blocks], out=packed.numpy())
    parts = sent(packed, device).split([len(block) for block in blocks])
    return [part.view(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


class TrainMetrics:
    """Sums over the steps since the last report, on the losses' device; part of the run's state."""

    def __init__(self, state: RunState, device: torch.device, num_classes: int, steps_per_epoch: int) -> None:
        self._state, self._chance, self._steps_per_epoch = state, math.log(num_classes), steps_per_epoch
        self._sums = torch.tensor(state.sums, dtype=torch.float64, device=device)
        self.start_clock()

    def start_clock(self) -> None:
        """Starts the clock, which measures training only."""
        self._started, self._waited, self._images = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        asked = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()

    def add(self, sums: Tensor, rows: int) -> None:
        """Adds a step of `rows` images: the sum of their losses and their top-1 errors, (2,) float64."""
        self._sums += sums
        self._state.images, self._state.steps = self._state.images + rows, self._state.steps + 1
        self._images += rows

    def mean_loss(self) -> float:
        """Returns the mean loss since the last report: here training waits for the device."""
        self._state.sums = self._sums.tolist()
        return self._state.sums[0] / max(1, self._state.images)

    def report(self, rate: float) -> dict[str, Any]:
        state, loss, elapsed = self._state, self.mean_loss(), time.perf_counter() - self._started
        record = {
            "split": "train",
            "step": state.step,
            "epoch": state.step / self._steps_per_epoch,
            "loss": loss,
            "top1_error": state.sums[1] / state.images,
            "lr": rate,
            "images_per_second": self._images / elapsed,
            "data_wait": self._waited / elapsed,
        }
        state.at_chance = state.at_chance + state.steps if abs(loss - self._chance) < 0.01 * self._chance else 0
        state.images = state.steps = 0
        self._sums.zero_()
        return record

    def stuck_message(self) -> str | None:
        """Returns a message if the loss stays at chance longer than in networks that learn."""
        steps = self._state.at_chance
        if steps < min(2000, max(100, 10 * self._steps_per_epoch)):
            return None
        cause = "the initial weights are too small or too large, or the learning rate is too high"
        fix = "try --recipe paper, another --lr, or check the labels"
        return f"the loss has been within 1% of ln(classes), that of guessing, for {steps} steps: {cause}; {fix}"
