"""What training has come to since the last report: its loss and errors, its speed, whether it learns at all."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from alexnet_torch.training.run_state import State, Window


class TrainMetrics:
    """Counts steps between reports. Its sums are part of the run's state, so that reports resume too.

    Args:
        state: of the run.
        device: of the losses.
        classes: of the images.
        batches: steps in an epoch.
    """

    def __init__(self, state: State, device: torch.device, classes: int, batches: int) -> None:
        self._state, self._chance, self._batches = state, math.log(classes), batches
        w = state.window
        self._sums = torch.tensor([w.loss, w.wrong], dtype=torch.float64, device=device)  # read when reported
        self.start()

    def start(self) -> None:
        """Starts the stop-watch, which runs in training alone, not in validation."""
        self._started, self._waited, self._images = time.perf_counter(), 0.0, 0

    def wait(self, seconds: float) -> None:
        """Adds time that went by without a batch to train on."""
        self._waited += seconds

    def add(self, sums: Tensor, rows: int) -> None:
        """Adds a step: its losses' sum and its top-1 errors, (2,) float64 on the device, of so many rows."""
        self._sums += sums
        w = self._state.window
        w.images, w.steps = w.images + rows, w.steps + 1
        self._images += rows

    def window(self) -> Window:
        """The sums since the last report, read back from the device: here alone does training wait for it."""
        loss, wrong = self._sums.tolist()
        self._state.window.loss, self._state.window.wrong = loss, int(wrong)
        return self._state.window

    def report(self, rate: float) -> dict[str, Any]:
        """A line for metrics.jsonl, and begins anew."""
        s, w, elapsed = self._state, self.window(), time.perf_counter() - self._started
        loss = w.loss / w.images
        s.at_chance = s.at_chance + w.steps if abs(loss - self._chance) < 0.01 * self._chance else 0
        s.window = Window()
        self._sums.zero_()
        return {
            "split": "train",
            "step": s.step,
            "epoch": s.step / self._batches,
            "loss": loss,
            "top1_error": w.wrong / w.images,
            "lr": rate,
            "images_per_second": self._images / elapsed,
            "data_wait": self._waited / elapsed,
        }

    def stuck(self) -> str | None:
        """What to tell a user whose network does not learn; None if it may.

        That it has been at chance for longer than networks that do learn stay there: 2,000 steps, or 10 epochs of
        a small folder.
        """
        steps = self._state.at_chance
        if steps < min(2000, max(100, 10 * self._batches)):
            return None
        return (
            f"the loss has been within 1% of ln(classes), that of guessing, for {steps} steps: weights too small or "
            "too large to carry the images through, or a rate too high; try --recipe paper, another --lr, or check "
            "the labels"
        )
