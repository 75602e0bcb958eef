"""How DistributedDataParallel adds up the gradients of two batch slices: its settings compared.

    python -m benchmarks.parallel.buckets

Ours is `gradient_as_bucket_view` only. The settings' steps alternate; each has two processes of one thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import tyro
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_torch.distributed import data_parallel
from benchmarks.harness.measure import median_times, peak_memory
from benchmarks.harness.placements import rank_functions
from benchmarks.harness.processes import RankGroup
from benchmarks.harness.report import markdown_table, save_result

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
    """Images of 224 pixels in a step, of both processes together."""
    rounds: int = 5
    """Measured rounds."""


def slice_functions(
    settings: dict[str, Any], rank: int, world_size: int, port: int, batch: int
) -> dict[str, Callable[[], Any]]:
    """Starts one of two processes with half of the batch each, with these settings of DistributedDataParallel."""

    def wrap(net: nn.Module, **ours: Any) -> nn.Module:
        return DistributedDataParallel(net, **(ours | settings))

    setattr(data_parallel, DistributedDataParallel.__name__, wrap)
    return {**rank_functions("none", rank, world_size, port, batch), "peak": peak_memory}


def main(options: Options) -> None:
    """Measures and writes the result page."""
    groups = {
        name: RankGroup(partial(slice_functions, settings), 2, options.batch_size)
        for name, settings in SETTINGS.items()
    }
    times = median_times({name: group.second_step for name, group in groups.items()}, options.rounds)
    rows: list[tuple[object, ...]] = []
    for name, group in groups.items():
        peak = group.max_over_ranks("peak")
        group.close()
        rate, ratio = options.batch_size / times[name], times[name] / times[OURS]
        rows.append((name, f"{rate:.1f}", f"{ratio:.3f}", f"{peak:.2f} GiB"))
    columns = ("settings", "images/s", "time against ours", "peak memory")
    command = f"python -m benchmarks.parallel.buckets --batch-size {options.batch_size}"
    save_result("buckets", command, 1, markdown_table(columns, rows))


if __name__ == "__main__":
    main(tyro.cli(Options))
