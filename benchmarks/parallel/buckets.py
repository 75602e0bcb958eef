"""How DistributedDataParallel adds up the gradients of two batch slices: its settings compared.

    python -m benchmarks.parallel.buckets

Ours is `gradient_as_bucket_view` alone. All settings take turns; each has two processes of one thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import tyro
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.harness.measure import alternate, keep, peak_memory, table
from benchmarks.parallel.placements import Together, rank

OURS = "as ours: gradient_as_bucket_view"
SETTINGS: dict[str, dict[str, Any]] = {
    OURS: {},
    "without it": {"gradient_as_bucket_view": False},
    "and static_graph": {"static_graph": True},
    "and buckets of 5 MB, not 25": {"bucket_cap_mb": 5},
    "and buckets of 100 MB": {"bucket_cap_mb": 100},
}


@dataclass(frozen=True)
class Options:
    """How to measure."""

    batch_size: int = 128
    """Images a step in all, of 224 pixels."""
    rounds: int = 5
    """That count."""


def contender(settings: dict[str, Any], index: int, size: int, port: int, batch: int) -> dict[str, Callable[[], Any]]:
    """One of two processes with a slice each, of settings of its own."""
    from alexnet_torch.distributed import ranks

    def made(net: nn.Module, **given: Any) -> nn.Module:
        return DistributedDataParallel(net, **(given | settings))

    setattr(ranks, DistributedDataParallel.__name__, made)
    return {**rank("none", index, size, port, batch), "peak": peak_memory}


def main(options: Options) -> None:
    """Measures and prints."""
    groups = {
        name: Together(partial(contender, settings), 2, options.batch_size) for name, settings in SETTINGS.items()
    }
    times = alternate({name: group.turn for name, group in groups.items()}, options.rounds)
    rows: list[tuple[object, ...]] = []
    for name, group in groups.items():
        peak = group.largest("peak")
        group.end()
        rows.append(
            (name, f"{options.batch_size / times[name]:.1f}", f"{times[name] / times[OURS]:.3f}", f"{peak:.2f} GiB")
        )
    heads = ("settings", "images/s", "time against ours", "peak memory")
    keep("buckets", f"python -m benchmarks.parallel.buckets --batch-size {options.batch_size}", 1, table(heads, rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
