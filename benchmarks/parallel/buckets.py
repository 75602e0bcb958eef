"""How DistributedDataParallel adds up the gradients of two batch slices: its settings compared.

    python -m benchmarks.parallel.buckets

Ours is `gradient_as_bucket_view` only. The settings' steps alternate; each has two processes of one thread.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import tyro
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_torch.distributed import parameters
from benchmarks.harness.measure import median_times, peak_memory
from benchmarks.harness.ranks import RankGroup, rank_functions
from benchmarks.harness.report import markdown_table, save_result

OURS = "as ours: gradient_as_bucket_view"
SETTINGS: dict[str, dict[str, Any]] = {
    OURS: {},
    "without it": {"gradient_as_bucket_view": False},
    "and static_graph": {"static_graph": True},
    "and buckets of 5 MB, not 25": {"bucket_cap_mb": 5},
    "and buckets of 100 MB": {"bucket_cap_mb": 100},
}


def slice_functions(settings: dict[str, Any], batch: int, *rank: int) -> dict[str, Callable[[], Any]]:
    """Starts one of two processes with half of the batch each, with these settings of DistributedDataParallel."""

    def wrap(net: nn.Module, **ours: Any) -> nn.Module:
        return DistributedDataParallel(net, **(ours | settings))

    setattr(parameters, DistributedDataParallel.__name__, wrap)
    return {**rank_functions("none", batch, *rank), "peak": peak_memory}


def main(batch_size: int = 128, rounds: int = 5) -> None:
    """Measures and writes the result page.

    Args:
        batch_size: Images of 224 pixels in a step, of both processes together.
        rounds: Measured rounds.
    """
    groups = {name: RankGroup(partial(slice_functions, chosen, batch_size), 2) for name, chosen in SETTINGS.items()}
    times = median_times({name: group.second_step for name, group in groups.items()}, rounds)
    rows = []
    for name, group in groups.items():
        peak = group.largest("peak")
        group.close()
        rows.append((name, f"{batch_size / times[name]:.1f}", f"{times[name] / times[OURS]:.3f}", f"{peak:.2f} GiB"))
    save_result(1, markdown_table(("settings", "images/s", "time against ours", "peak memory"), rows))


if __name__ == "__main__":
    tyro.cli(main)
