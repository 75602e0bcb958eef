"""A command in a process of its own, which prints the seconds that each of its phases took.

    STARTED=<time.time()> python -m benchmarks.harness.startup_child predict RUN FILE
    STARTED=<time.time()> python -m benchmarks.harness.startup_child train --data DIR --output DIR

`train` ends after its first step. At the top it imports almost nothing, since the time of imports is what it measures.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

MODULES = {
    "predict": ("weights.model_file", "evaluation.predict"),
    "evaluate": ("weights.model_file", "data.cache_build", "evaluation.scoring", "evaluation.results"),
    "train": ("training.launch",),
}
"""What each command imports besides the parser of its options and torch."""

HEAVY = ("matplotlib", "pandas", "scipy", "sklearn", "sympy", "torch._dynamo", "torchvision", "onnx")
"""Packages and modules that take a third of a second or more to import."""


class Phases:
    """Seconds by phase, in order."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = started
        self._inside = 0.0  # seconds of phases inside the one that `end` ends

    def end(self, name: str) -> None:
        """Ends a phase, which began when the one before it ended."""
        now = time.time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last - self._inside
        self._last, self._inside = now, 0.0

    def count(self, name: str, module: Any, function: str) -> None:
        """Counts the time of a function's calls, from one thread at a time, as a phase of its own."""
        inner: Callable[..., Any] = getattr(module, function)

        def counted(*given: Any, **named: Any) -> Any:
            start, inside = time.time(), self._inside
            result = inner(*given, **named)
            elapsed = time.time() - start - (self._inside - inside)
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
            self._inside += elapsed
            return result

        setattr(module, function, counted)

    def finish(self) -> None:
        """Prints the phases, and which of HEAVY were imported, as one line of JSON at the end of stdout."""
        self.end("the rest")
        heavy = [name for name in HEAVY if name in sys.modules]
        print(json.dumps({"phases": self.seconds, "heavy": heavy}), flush=True)


def main(command: str, options: list[str]) -> None:
    """Runs a command with its options and prints its phases."""
    phases = Phases(float(os.environ["STARTED"]))
    phases.end("Python")
    program = import_module("train" if command == "train" else "alexnet_torch.cli")
    phases.end("import the options' parser")
    import_module("torch")
    phases.end("import torch")
    first, *_ = [import_module(f"alexnet_torch.{name}") for name in MODULES[command]]
    phases.end("import the rest")
    if command == "train":
        trainer = import_module("alexnet_torch.training.trainer").Trainer
        phases.count("decode, or find decoded images", first, "_prepare")
        phases.count("network", first, "AlexNet")
        phases.count("first step", trainer, "train_batch")
        first_step = trainer.train_batch

        def end_after_it(*given: Any) -> None:
            first_step(*given)
            phases.finish()
            os._exit(0)

        trainer.train_batch = end_after_it
        sys.argv = ["train.py", *options]
        sys.exit(program.main())  # an error: no step was made
    phases.count("load the model", first, "load_model")
    if command == "predict":
        phases.count("decode", import_module("alexnet_torch.data.loader"), "decode_bytes")
    phases.count("compute", first.AlexNet, "forward")
    if status := program.main([command, *options]):
        sys.exit(status)
    phases.finish()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
