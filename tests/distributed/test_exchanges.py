"""Exchanges between ranks give the outputs and gradients of a concatenation in one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.distributed.placement import choose_placement
from alexnet_torch.distributed.ranks import Ranks, wrap_data_parallel
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import RankLost
from alexnet_torch.model.architecture import Architecture, Init
from alexnet_torch.model.presets import CAFFE
from alexnet_torch.recipes.recipe import never_meet, one_tower
from tests.support.caffe_files import SIZE
from tests.support.caffe_files import narrow as narrow_caffe
from tests.support.narrow_train import narrow
from tests.support.rank_pool import RankPool, returned_values


@contextmanager
def connected(towers: int, split: str) -> Iterator[tuple[Ranks, Any]]:
    """Yields the connected ranks of a placement, and this rank's exchange."""
    ranks = Ranks(World.from_environment())
    try:
        yield ranks, ranks.connect(choose_placement(["cpu"], towers, split, ranks.world), 30)
    finally:
        ranks.close()


# the functions from here to the tests run on each rank


def wait_for_a_missing_partner() -> str:
    """Rank 1 ends before rank 0 sends; returns what rank 0 waited for."""
    with connected(2, "ranks") as (ranks, exchange):
        if ranks.world.rank == 1:
            return ""
        try:
            exchange.concat_towers([torch.zeros(1, 2)], 4, "fc6")
        except RankLost as lost:
            return lost.what
        raise AssertionError("the missing partner was not noticed")


def compare_with_one_process(architecture: Architecture, size: int, classes: int, rows: int, split: str) -> None:
    """Compares logits and gradients of a training step, and logits of an evaluation, with one process."""
    images = 50 * torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(rows) % classes
    single_net = AlexNet(architecture, classes, size, seed=3)
    single_logits = single_net(images, DropoutKey(5, 7))
    F.cross_entropy(single_logits, labels).backward()
    gradients = {name: p.grad for name, p in single_net.named_parameters() if p.grad is not None}
    with connected(architecture.towers, split) as (ranks, exchange):
        index, slices = ranks.placement.slices
        loaded = torch.arange(rows).tensor_split(slices)[index]
        scored = torch.arange(rows) if ranks.placement.shards_linear_stages else loaded
        net = AlexNet(architecture, classes, size, seed=3, exchange=exchange)
        first_row = int(loaded[0]) if len(loaded) else rows
        parallel_net = wrap_data_parallel(net, ranks)
        logits = parallel_net(images[loaded], DropoutKey(5, 7, first_row))
        torch.testing.assert_close(logits, single_logits[scored])
        (F.cross_entropy(logits, labels[scored], reduction="sum") / rows).backward()
        for name, parameter in net.named_parameters():
            expected = gradients[name][net.local_rows(name)]
            torch.testing.assert_close({name: parameter.grad}, {name: expected}, rtol=1e-9, atol=1e-12)
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(images[loaded]), single_net.eval()(images)[scored])


def differentiate_twice() -> None:
    """Refused on every rank before one sends anything, so that none waits."""
    with connected(2, "ranks") as (_, exchange):
        part = torch.ones(1, 2).requires_grad_()
        (joined,) = exchange.concat_towers([part], 4, "fc6")
        with pytest.raises(NotImplementedError, match="second derivatives, as by create_graph=True, are not supported"):
            torch.autograd.grad(joined.sum(), part, create_graph=True)
        with pytest.raises(NotImplementedError, match=r"torch.func's transforms .* not supported between processes"):
            torch.func.grad(lambda x: exchange.concat_towers([x], 4, "fc6")[0].sum())(torch.ones(1, 2))
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode derivatives are not"):
            exchange.concat_towers([forward_ad.make_dual(part.detach(), part.detach())], 4, "fc6")


# the tests

NET = narrow().architecture
FOUR_LINEARS = (*(replace(fc, width=56) for fc in NET.linears[:-1]), NET.linears[-1])
NETS = {
    "paper": (NET, 64),
    "Caffe's norm across towers": (narrow_caffe(CAFFE), SIZE),
    "towers that never meet": (never_meet(NET), 64),
    "small fc8": (NET.with_init(fc8=Init(0.01, 0.0)), 64),
    "uniform fc8": (NET.with_init(fc8=Init(1.0, None, "uniform", by_fan_in=True)), 64),
    "one tower": (one_tower(NET), 64),
    "four towers": (
        replace(NET, towers=4, linears=(*(replace(fc, width=56) for fc in NET.linears[:-1]), NET.linears[-1])),
        64,
    ),
}
FIVE = [(2, "ranks"), (4, "ranks"), (2, "hybrid"), (4, "hybrid"), (4, "none")]
CASES = [(name, ranks, split, 5, 6) for name in list(NETS)[:3] for ranks, split in FIVE]
CASES += [("paper", 4, split, 5, rows) for split, rows in (("ranks", 1), ("hybrid", 3), ("none", 2))]
CASES += [(name, 4, "hybrid", classes, 5) for name in ("small fc8", "uniform fc8") for classes in (2, 3)]
CASES += [("one tower", 3, "hybrid", 5, 7), ("four towers", 4, "ranks", 5, 3)]


@pytest.mark.parametrize(("name", "ranks", "split", "classes", "rows"), CASES)
def test_several_ranks_compute_what_one_process_does(
    rank_pool: RankPool, name: str, ranks: int, split: str, classes: int, rows: int
) -> None:
    """Also ranks without a row or without a class, and any number of shards."""
    architecture, size = NETS[name]
    given = (architecture, size, classes, rows, split)
    returned_values(rank_pool.run(compare_with_one_process, *given, ranks=ranks, double=True))


def test_a_lost_rank_names_the_exchange(rank_pool: RankPool) -> None:
    what, _ = returned_values(rank_pool.run(wait_for_a_missing_partner, ranks=2))
    assert what == "the exchange before fc6, forward"


def test_second_derivatives_between_ranks_are_refused(rank_pool: RankPool) -> None:
    returned_values(rank_pool.run(differentiate_twice, ranks=2))
