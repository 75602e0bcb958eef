"""A placement that the package does not have, made of a Placement's answers only."""

from pathlib import Path

import pytest
import torch

from alexnet_torch.distributed.placement import Placement
from alexnet_torch.distributed.world import World
from alexnet_torch.training import launch
from tests.support.narrow_train import train
from tests.support.placement_runs import Run, options, trained
from tests.support.rank_pool import RankPool


def mirrored(world: World, towers: int) -> Placement:
    """All towers in each of two ranks, which load the same full batch: nothing is exchanged, or added up."""
    each_alone = [range(rank, rank + 1) for rank in range(world.size)]
    return Placement(
        split="mirrored",
        devices=[torch.device("cpu")] * towers,
        world=world,
        towers=towers,
        reason="a test",
        each_holds="all towers",
        networks=each_alone,
        gradient_groups=each_alone,
        slice_of_rank=[0] * world.size,
    )


def train_mirrored(arguments: list[str]) -> int:
    """As `train`, in the mirrored placement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "choose_placement", lambda *arguments: mirrored(arguments[3], towers=arguments[1]))
        return train(arguments)


def test_a_mirrored_run_equals_a_run_of_one_process(images: Path, rank_pool: RankPool, tmp_path: Path) -> None:
    """To the bit, but for the test of the best weights, which divides the images among all ranks."""
    single, both = (options(images, tmp_path / name, "--max-steps", "7") for name in ("single", "both"))
    trained(rank_pool.run(train, single, ranks=1))
    first, second = trained(rank_pool.run(train_mirrored, both, ranks=2))
    assert "2 processes, all towers in each, 1 slice(s) of each batch (a test)" in first.stdout
    assert mirrored(World(rank=1, size=2), towers=2).describe_rank(1) == "rank 1 (batch slice 0)"
    assert second.stdout + second.stderr == ""
    runs = [Run.of(tmp_path / name) for name in ("both", "single")]
    assert [run.reports.pop()["crops"] for run in runs] == [10, 10]
    runs[0].require_equal(runs[1])
