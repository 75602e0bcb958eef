"""Training's loss, error and speed since the last report, and whether the network learns at all."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from alexnet_torch.training.checkpoints import RunState

T = TypeVar("T")


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
        return (
            f"the loss has been within 1% of ln(classes), that of guessing, for {steps} steps: the initial weights are "
            "too small or too large, or the learning rate is too high; try --recipe paper, another --lr, or check "
            "the labels"
        )
