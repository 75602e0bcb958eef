"""Exchanges between ranks give the outputs and gradients of a concatenation in one process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.distributed.parameters import wrap_data_parallel
from alexnet_torch.distributed.placement import choose_placement
from alexnet_torch.distributed.ranks import Ranks
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


def random_tensors(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Returns the same random numbers on all ranks; maps are channels last, as ours are."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in tensors]


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
    (images,) = random_tensors(1, (rows, 3, size, size))
    images, labels = images * 50, torch.arange(rows) % classes
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


# the tests


def run_on_ranks(rank_pool: RankPool, ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    return returned_values(rank_pool.run(function, *arguments, ranks=ranks, double=True))


NETS = {
    "paper": (narrow().architecture, 64),
    "Caffe's norm across towers": (narrow_caffe(CAFFE), SIZE),
    "towers that never meet": (never_meet(narrow().architecture), 64),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("ranks", "split"), [(2, "ranks"), (4, "ranks"), (2, "hybrid"), (4, "hybrid"), (4, "none")])
def test_several_ranks_compute_what_one_process_does(rank_pool: RankPool, name: str, ranks: int, split: str) -> None:
    architecture, size = NETS[name]
    run_on_ranks(rank_pool, ranks, compare_with_one_process, architecture, size, 5, 6, split)


@pytest.mark.parametrize(
    ("ranks", "split", "classes", "rows"), [(4, "ranks", 5, 1), (4, "hybrid", 5, 3), (4, "none", 5, 2)]
)
def test_ranks_without_a_row_take_part(rank_pool: RankPool, ranks: int, split: str, classes: int, rows: int) -> None:
    run_on_ranks(rank_pool, ranks, compare_with_one_process, narrow().architecture, 64, classes, rows, split)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("init", [Init(0.01, 0.0), Init(1.0, None, "uniform", by_fan_in=True)])
def test_ranks_without_a_class_take_part(rank_pool: RankPool, classes: int, init: Init) -> None:
    net = narrow().architecture.with_init(fc8=init)
    run_on_ranks(rank_pool, 4, compare_with_one_process, net, 64, classes, 5, "hybrid")


def test_hybrid_cuts_one_tower_into_any_number_of_pieces(rank_pool: RankPool) -> None:
    run_on_ranks(rank_pool, 3, compare_with_one_process, one_tower(narrow().architecture), 64, 5, 7, "hybrid")


def test_four_towers_in_four_ranks(rank_pool: RankPool) -> None:
    *hidden, last = narrow().architecture.linears
    wider = (*(replace(linear, width=56) for linear in hidden), last)
    four = replace(narrow().architecture, towers=4, linears=wider)
    run_on_ranks(rank_pool, 4, compare_with_one_process, four, 64, 5, 3, "ranks")


def test_a_lost_rank_names_the_exchange(rank_pool: RankPool) -> None:
    what, _ = run_on_ranks(rank_pool, 2, wait_for_a_missing_partner)
    assert what == "the exchange before fc6, forward"
