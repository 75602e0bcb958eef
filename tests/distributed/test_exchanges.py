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
from alexnet_torch.distributed.exchanges import HybridExchange, PartnerExchange, PeerGroup
from alexnet_torch.distributed.parameters import wrap_data_parallel
from alexnet_torch.distributed.placement import choose_placement
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import RankLost
from alexnet_torch.model.architecture import Architecture, Init
from alexnet_torch.model.exchange import Exchange, shard_sizes
from alexnet_torch.model.presets import CAFFE
from alexnet_torch.recipes.recipe import never_meet, one_tower
from tests.support.caffe_files import SIZE
from tests.support.caffe_files import narrow as narrow_caffe
from tests.support.narrow_train import narrow
from tests.support.rank_pool import RankPool, returned_values

CPU = torch.device("cpu")


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


def weighted_gradients(outputs: list[Tensor], weights: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Returns the gradients of a weighted sum of the outputs: different weights make all gradients different."""
    loss = torch.stack([(out * weight).sum() for out, weight in zip(outputs, weights, strict=True)]).sum()
    return list(torch.autograd.grad(loss, inputs))


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in tensors]


# the functions from here to the tests run on each rank


def gather_channels_of_partners(shape: tuple[int, ...], channels: int) -> None:
    with connected(World.from_environment().size, "ranks") as (ranks, exchange):
        assert isinstance(exchange, PartnerExchange)
        rank, size = ranks.world.rank, ranks.world.size
        sizes = shard_sizes(channels, size)
        parts = leaves(random_tensors(1, *((shape[0], c, *shape[1:]) for c in sizes)))
        weights = random_tensors(2, *[(shape[0], channels, *shape[1:])] * size)
        expected = weighted_gradients([torch.cat(parts, 1)] * size, weights, parts)[rank]
        (joined,) = exchange.concat_towers([parts[rank]], channels, "conv3")
        torch.testing.assert_close(joined, torch.cat(parts, 1), rtol=0, atol=0)
        (gradient,) = weighted_gradients([joined], [weights[rank]], [parts[rank]])
        torch.testing.assert_close(gradient, expected)
        if len(shape) == 3:
            assert joined.is_contiguous(memory_format=torch.channels_last)
            assert gradient.is_contiguous(memory_format=torch.channels_last)


def gather_logits_of_partners(rows: int, classes: int) -> None:
    """All partners compute the same loss of the gathered logits: its gradient counts once."""
    with connected(World.from_environment().size, "ranks") as (ranks, exchange):
        rank = ranks.world.rank
        parts = leaves(random_tensors(1, *((rows, c) for c in shard_sizes(classes, ranks.world.size))))
        labels = torch.arange(rows) % classes
        F.cross_entropy(torch.cat(parts, 1), labels, reduction="sum").backward()
        expected, parts[rank].grad = parts[rank].grad, None
        logits = exchange.gather_output([parts[rank]], classes, "the output")
        torch.testing.assert_close(logits, torch.cat(parts, 1), rtol=0, atol=0)
        F.cross_entropy(logits, labels, reduction="sum").backward()
        torch.testing.assert_close(parts[rank].grad, expected)


def gather_halos_of_partners(width: int) -> None:
    with connected(World.from_environment().size, "ranks") as (ranks, exchange):
        rank, size = ranks.world.rank, ranks.world.size
        parts = leaves(random_tensors(1, *[(2, 6, 3, 3)] * size))
        in_one_process = Exchange(size).channel_halo(parts, width, "conv1's norm")
        weights = random_tensors(2, *(tuple(wide.shape) for wide, _ in in_one_process))
        expected = weighted_gradients([wide for wide, _ in in_one_process], weights, parts)[rank]
        ((wide, before),) = exchange.channel_halo([parts[rank]], width, "conv1's norm")
        assert before == in_one_process[rank][1]
        torch.testing.assert_close(wide, in_one_process[rank][0], rtol=0, atol=0)
        (gradient,) = weighted_gradients([wide], [weights[rank]], [parts[rank]])
        torch.testing.assert_close(gradient, expected)


def gather_rows_of_all_ranks(rows: list[int]) -> None:
    """Some ranks have no rows; each rank computes a different loss of all rows."""
    with connected(2, "hybrid") as (ranks, exchange):
        assert isinstance(exchange, HybridExchange)
        rank, size = ranks.world.rank, ranks.world.size
        maps = [
            leaves(random_tensors(10 + r, (rows[r], 6), (rows[r], 6))) for r in range(size)
        ]  # rank by rank, tower by tower
        all_rows = torch.cat([torch.cat(towers, 1) for towers in maps])
        weights = random_tensors(2, *[tuple(all_rows.shape)] * size)
        expected = weighted_gradients([all_rows] * size, weights, maps[rank])
        (gathered,), first_row = exchange.all_gather_rows(maps[rank], sum(rows[:rank]), "fc6")
        assert first_row == 0
        torch.testing.assert_close(gathered, all_rows, rtol=0, atol=0)
        for gradient, expected_gradient in zip(
            weighted_gradients([gathered], [weights[rank]], maps[rank]), expected, strict=True
        ):
            torch.testing.assert_close(gradient, expected_gradient)


def join_pieces(channels: int, towers: int, operation: str) -> None:
    """Joins all pieces of a linear stage, or those of the rank's tower."""
    with connected(towers, "hybrid") as (ranks, exchange):
        rank, size = ranks.world.rank, ranks.world.size
        tower_sizes = shard_sizes(channels, towers)
        sizes = [piece for tower in tower_sizes for piece in shard_sizes(tower, size // towers)]
        parts = leaves(random_tensors(1, *((4, c) for c in sizes)))
        joined = [torch.cat(parts, 1)] * size
        if operation == "keep_own_channels":
            joined = [joined[r].split(tower_sizes, 1)[r // (size // towers)] for r in range(size)]
        weights = random_tensors(2, *(tuple(x.shape) for x in joined))
        expected = weighted_gradients(joined, weights, parts)[rank]
        (out,) = getattr(exchange, operation)([parts[rank]], channels, "fc7")
        torch.testing.assert_close(out, joined[rank], rtol=0, atol=0)
        (gradient,) = weighted_gradients([out], [weights[rank]], [parts[rank]])
        torch.testing.assert_close(gradient, expected)
        # `all_gather_rows` has joined it already: nothing is sent
        assert exchange.concat_towers([joined[0]], joined[0].shape[1], "fc6")[0] is joined[0]


def gather_logits_of_pieces(classes: int) -> None:
    with connected(2, "hybrid") as (ranks, exchange):
        rank, size = ranks.world.rank, ranks.world.size
        sizes = [piece for tower in shard_sizes(classes, 2) for piece in shard_sizes(tower, size // 2)]
        parts = leaves(random_tensors(1, *((4, c) for c in sizes)))
        (expected,) = weighted_gradients([torch.cat(parts, 1).logsumexp(1)], random_tensors(2, (4,)), [parts[rank]])
        logits = exchange.gather_output([parts[rank]], classes, "the output")
        torch.testing.assert_close(logits, torch.cat(parts, 1), rtol=0, atol=0)
        (gradient,) = weighted_gradients([logits.logsumexp(1)], random_tensors(2, (4,)), [parts[rank]])
        torch.testing.assert_close(gradient, expected)


def use_maps_without_sending() -> None:
    """Every rank has all convolutions: their maps are never sent."""
    with connected(2, "hybrid") as (_, exchange):
        maps = random_tensors(1, (2, 3, 4, 4), (2, 3, 4, 4))
        exchange._peers = None  # sending would fail
        assert exchange.keep_own_channels(maps, 6, "conv2") is maps
        torch.testing.assert_close(exchange.concat_towers(maps, 6, "conv3"), [torch.cat(maps, 1)] * 2)
        torch.testing.assert_close(exchange.gather_output(maps, 6, "the output"), torch.cat(maps, 1))


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
        scored = torch.arange(rows) if ranks.placement.scores_all_rows else loaded
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


TWO_AND_FOUR = pytest.mark.parametrize("ranks", [2, 4])


def run_on_ranks(rank_pool: RankPool, ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    return returned_values(rank_pool.run(function, *arguments, ranks=ranks, double=True))


@TWO_AND_FOUR
@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 4), 12), ((3, 5, 5), 5), ((3,), 10), ((0,), 5), ((1,), 5)])
def test_partners_gather_maps_and_vectors(
    rank_pool: RankPool, ranks: int, shape: tuple[int, ...], channels: int
) -> None:
    run_on_ranks(rank_pool, ranks, gather_channels_of_partners, shape, channels)


@TWO_AND_FOUR
@pytest.mark.parametrize(("rows", "classes"), [(6, 5), (4, 8), (0, 5)])
def test_a_loss_of_partners_counts_once(rank_pool: RankPool, ranks: int, rows: int, classes: int) -> None:
    run_on_ranks(rank_pool, ranks, gather_logits_of_partners, rows, classes)


@TWO_AND_FOUR
@pytest.mark.parametrize("width", [0, 1, 2])
def test_partners_send_halos_of_channels(rank_pool: RankPool, ranks: int, width: int) -> None:
    run_on_ranks(rank_pool, ranks, gather_halos_of_partners, width)


@pytest.mark.parametrize("rows", [[3, 2], [1, 0], [2, 2, 2, 1], [1, 1, 0, 0]])
def test_hybrid_gives_every_rank_all_rows(rank_pool: RankPool, rows: list[int]) -> None:
    run_on_ranks(rank_pool, len(rows), gather_rows_of_all_ranks, rows)


@TWO_AND_FOUR
@pytest.mark.parametrize("operation", ["concat_towers", "keep_own_channels"])
@pytest.mark.parametrize(("channels", "towers"), [(54, 2), (8, 2), (5, 1)])
def test_hybrid_joins_pieces(rank_pool: RankPool, ranks: int, operation: str, channels: int, towers: int) -> None:
    run_on_ranks(rank_pool, ranks, join_pieces, channels, towers, operation)


@TWO_AND_FOUR
@pytest.mark.parametrize("classes", [5, 3, 8])
def test_a_loss_of_hybrid_ranks_counts_once(rank_pool: RankPool, ranks: int, classes: int) -> None:
    run_on_ranks(rank_pool, ranks, gather_logits_of_pieces, classes)


def test_hybrid_never_sends_maps(rank_pool: RankPool) -> None:
    run_on_ranks(rank_pool, 2, use_maps_without_sending)


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


def test_peers_gather_counts(rank_pool: RankPool) -> None:
    assert run_on_ranks(rank_pool, 4, gather_counts) == [[10, 11, 12, 13]] * 4


def gather_counts() -> list[int]:
    with connected(4, "ranks") as (ranks, exchange):
        peers: PeerGroup = exchange._peers
        return peers.all_gather_counts(10 + ranks.world.rank, "a test")


@pytest.mark.parametrize(("total", "parts"), [(5, 2), (5, 4), (2, 4), (8, 4), (0, 3)])
def test_part_sizes_are_those_of_tensor_split(total: int, parts: int) -> None:
    assert shard_sizes(total, parts) == [len(part) for part in torch.zeros(total).tensor_split(parts)]
