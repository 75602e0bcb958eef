"""Exchanges between processes, against plain concatenation in one: what comes out, and its gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.distributed.choose_placement import choose_placement
from alexnet_torch.distributed.data_parallel import wrap_data_parallel
from alexnet_torch.distributed.exchanges import HybridExchange, PartnerExchange
from alexnet_torch.distributed.peer_group import PeerGroup
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import RankLost
from alexnet_torch.model.architecture import Architecture, Init
from alexnet_torch.model.exchange import Exchange, part_sizes
from alexnet_torch.model.presets import CAFFE
from alexnet_torch.recipes.ablations import never_meet, one_tower
from tests.support.caffe_files import SIZE
from tests.support.caffe_files import narrow as narrow_caffe
from tests.support.narrow_train import narrow
from tests.support.rank_pool import RankPool, returned_values

CPU = torch.device("cpu")


@contextmanager
def connected(towers: int, how: str) -> Iterator[tuple[Ranks, Any]]:
    """The processes of a placement and, of this one, the exchange."""
    ranks = Ranks(World.from_environment())
    try:
        yield ranks, ranks.connect(choose_placement(["cpu"], towers, how, ranks.world), 30)
    finally:
        ranks.close()


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """The same numbers on all ranks; maps channels last, as ours are."""
    generator = torch.Generator().manual_seed(seed)
    every = [torch.randn(shape, generator=generator) for shape in shapes]
    return [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in every]


def own_gradients(outputs: list[Tensor], weights: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Of the sum of outputs, each weighted by numbers of its own, so that no two gradients are alike."""
    loss = torch.stack([(out * weight).sum() for out, weight in zip(outputs, weights, strict=True)]).sum()
    return list(torch.autograd.grad(loss, inputs))


def leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in tensors]


# what follows up to the tests runs on each rank


def partners_join(shape: tuple[int, ...], channels: int) -> None:
    with connected(World.from_environment().size, "ranks") as (ranks, exchange):
        assert isinstance(exchange, PartnerExchange)
        rank, size = ranks.world.rank, ranks.world.size
        sizes = part_sizes(channels, size)
        parts = leaves(drawn(1, *((shape[0], c, *shape[1:]) for c in sizes)))
        weights = drawn(2, *[(shape[0], channels, *shape[1:])] * size)
        expected = own_gradients([torch.cat(parts, 1)] * size, weights, parts)[rank]
        (joined,) = exchange.all_gather_channels([parts[rank]], channels, "conv3")
        torch.testing.assert_close(joined, torch.cat(parts, 1), rtol=0, atol=0)
        (gradient,) = own_gradients([joined], [weights[rank]], [parts[rank]])
        torch.testing.assert_close(gradient, expected)
        if len(shape) == 3:
            assert joined.is_contiguous(memory_format=torch.channels_last)
            assert gradient.is_contiguous(memory_format=torch.channels_last)


def partners_gather(rows: int, classes: int) -> None:
    """All partners compute one loss of what they gather: it counts once."""
    with connected(World.from_environment().size, "ranks") as (ranks, exchange):
        rank = ranks.world.rank
        parts = leaves(drawn(1, *((rows, c) for c in part_sizes(classes, ranks.world.size))))
        labels = torch.arange(rows) % classes
        F.cross_entropy(torch.cat(parts, 1), labels, reduction="sum").backward()
        expected, parts[rank].grad = parts[rank].grad, None
        logits = exchange.gather_output([parts[rank]], classes, "the output")
        torch.testing.assert_close(logits, torch.cat(parts, 1), rtol=0, atol=0)
        F.cross_entropy(logits, labels, reduction="sum").backward()
        torch.testing.assert_close(parts[rank].grad, expected)


def partners_halo(width: int) -> None:
    with connected(World.from_environment().size, "ranks") as (ranks, exchange):
        rank, size = ranks.world.rank, ranks.world.size
        parts = leaves(drawn(1, *[(2, 6, 3, 3)] * size))
        in_one_process = Exchange([CPU] * size).channel_halo(parts, width, "conv1's norm")
        weights = drawn(2, *(tuple(wide.shape) for wide, _ in in_one_process))
        expected = own_gradients([wide for wide, _ in in_one_process], weights, parts)[rank]
        ((wide, before),) = exchange.channel_halo([parts[rank]], width, "conv1's norm")
        assert before == in_one_process[rank][1]
        torch.testing.assert_close(wide, in_one_process[rank][0], rtol=0, atol=0)
        (gradient,) = own_gradients([wide], [weights[rank]], [parts[rank]])
        torch.testing.assert_close(gradient, expected)


def hybrid_turn(rows: list[int]) -> None:
    """Rows of all processes, some of which have none; each process goes on to something else with them."""
    with connected(2, "hybrid") as (ranks, exchange):
        assert isinstance(exchange, HybridExchange)
        rank, size = ranks.world.rank, ranks.world.size
        maps = [leaves(drawn(10 + r, (rows[r], 6), (rows[r], 6))) for r in range(size)]  # of each tower
        whole = torch.cat([torch.cat(towers, 1) for towers in maps])
        weights = drawn(2, *[tuple(whole.shape)] * size)
        expected = own_gradients([whole] * size, weights, maps[rank])
        (turned,), first_row = exchange.all_gather_rows(maps[rank], sum(rows[:rank]), "fc6")
        assert first_row == 0
        torch.testing.assert_close(turned, whole, rtol=0, atol=0)
        for gradient, wanted in zip(own_gradients([turned], [weights[rank]], maps[rank]), expected, strict=True):
            torch.testing.assert_close(gradient, wanted)


def hybrid_join(channels: int, towers: int, operation: str) -> None:
    """Pieces of a linear stage: the whole of them, or those of the process's tower."""
    with connected(towers, "hybrid") as (ranks, exchange):
        rank, size = ranks.world.rank, ranks.world.size
        each = part_sizes(channels, towers)
        sizes = [piece for tower in each for piece in part_sizes(tower, size // towers)]
        parts = leaves(drawn(1, *((4, c) for c in sizes)))
        seen = [torch.cat(parts, 1)] * size
        if operation == "keep_own_channels":
            seen = [seen[r].split(each, 1)[r // (size // towers)] for r in range(size)]
        weights = drawn(2, *(tuple(s.shape) for s in seen))
        expected = own_gradients(seen, weights, parts)[rank]
        (out,) = getattr(exchange, operation)([parts[rank]], channels, "fc7")
        torch.testing.assert_close(out, seen[rank], rtol=0, atol=0)
        (gradient,) = own_gradients([out], [weights[rank]], [parts[rank]])
        torch.testing.assert_close(gradient, expected)
        # whole already, as it comes from `all_gather_rows`: nobody is asked
        assert exchange.all_gather_channels([seen[0]], seen[0].shape[1], "fc6")[0] is seen[0]


def hybrid_gather(classes: int) -> None:
    with connected(2, "hybrid") as (ranks, exchange):
        rank, size = ranks.world.rank, ranks.world.size
        sizes = [piece for tower in part_sizes(classes, 2) for piece in part_sizes(tower, size // 2)]
        parts = leaves(drawn(1, *((4, c) for c in sizes)))
        (expected,) = own_gradients([torch.cat(parts, 1).logsumexp(1)], drawn(2, (4,)), [parts[rank]])
        logits = exchange.gather_output([parts[rank]], classes, "the output")
        torch.testing.assert_close(logits, torch.cat(parts, 1), rtol=0, atol=0)
        (gradient,) = own_gradients([logits.logsumexp(1)], drawn(2, (4,)), [parts[rank]])
        torch.testing.assert_close(gradient, expected)


def hybrid_maps_stay() -> None:
    """Convolutions are whole in every process: their maps never cross a wire."""
    with connected(2, "hybrid") as (_, exchange):
        maps = drawn(1, (2, 3, 4, 4), (2, 3, 4, 4))
        exchange._peers = None  # whoever would send could not
        assert exchange.keep_own_channels(maps, 6, "conv2") is maps
        torch.testing.assert_close(exchange.all_gather_channels(maps, 6, "conv3"), [torch.cat(maps, 1)] * 2)
        torch.testing.assert_close(exchange.gather_output(maps, 6, "the output"), torch.cat(maps, 1))


def peers_that_disagree() -> str:
    """One has left before the other sends."""
    with connected(2, "ranks") as (ranks, exchange):
        if ranks.world.rank == 1:
            return ""
        try:
            exchange.all_gather_channels([torch.zeros(1, 2)], 4, "fc6")
        except RankLost as lost:
            return lost.what
        raise AssertionError("a partner that is gone was not missed")


def networks_agree(architecture: Architecture, size: int, classes: int, rows: int, how: str) -> None:
    """A training step's logits and gradients, of the whole batch, and logits of an evaluation."""
    (images,) = drawn(1, (rows, 3, size, size))
    images, labels = images * 50, torch.arange(rows) % classes
    whole = AlexNet(architecture, classes, size, seed=3)
    every = whole(images, DropoutKey(5, 7))
    F.cross_entropy(every, labels).backward()
    wanted = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    with connected(architecture.towers, how) as (ranks, exchange):
        index, slices = ranks.placement.slices
        mine = torch.arange(rows).tensor_split(slices)[index]
        seen = torch.arange(rows) if ranks.placement.scores_all_rows else mine  # whose logits come out here
        net = AlexNet(architecture, classes, size, seed=3, exchange=exchange)
        first_row = int(mine[0]) if len(mine) else rows
        stepped = wrap_data_parallel(net, ranks)
        logits = stepped(images[mine], DropoutKey(5, 7, first_row))
        torch.testing.assert_close(logits, every[seen])
        (F.cross_entropy(logits, labels[seen], reduction="sum") / rows).backward()
        for name, parameter in net.named_parameters():
            expected = wanted[name][net.held_rows(name)]
            torch.testing.assert_close({name: parameter.grad}, {name: expected}, rtol=1e-9, atol=1e-12)
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(images[mine]), whole.eval()(images)[seen])


# the tests


BOTH = pytest.mark.parametrize("ranks", [2, 4])


def everywhere(rank_pool: RankPool, ranks: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    return returned_values(rank_pool.run(work, *arguments, ranks=ranks, double=True))


@BOTH
@pytest.mark.parametrize(("shape", "channels"), [((2, 3, 4), 12), ((3, 5, 5), 5), ((3,), 10), ((0,), 5), ((1,), 5)])
def test_partners_join_maps_and_vectors(rank_pool: RankPool, ranks: int, shape: tuple[int, ...], channels: int) -> None:
    everywhere(rank_pool, ranks, partners_join, shape, channels)


@BOTH
@pytest.mark.parametrize(("rows", "classes"), [(6, 5), (4, 8), (0, 5)])
def test_partners_gather_logits_whose_loss_counts_once(
    rank_pool: RankPool, ranks: int, rows: int, classes: int
) -> None:
    everywhere(rank_pool, ranks, partners_gather, rows, classes)


@BOTH
@pytest.mark.parametrize("width", [0, 1, 2])
def test_partners_norms_see_their_neighbours_channels(rank_pool: RankPool, ranks: int, width: int) -> None:
    everywhere(rank_pool, ranks, partners_halo, width)


@pytest.mark.parametrize("rows", [[3, 2], [1, 0], [2, 2, 2, 1], [1, 1, 0, 0]])
def test_hybrid_gives_every_process_all_rows(rank_pool: RankPool, rows: list[int]) -> None:
    everywhere(rank_pool, len(rows), hybrid_turn, rows)


@BOTH
@pytest.mark.parametrize("operation", ["all_gather_channels", "keep_own_channels"])
@pytest.mark.parametrize(("channels", "towers"), [(54, 2), (8, 2), (5, 1)])
def test_hybrid_joins_pieces(rank_pool: RankPool, ranks: int, operation: str, channels: int, towers: int) -> None:
    everywhere(rank_pool, ranks, hybrid_join, channels, towers, operation)


@BOTH
@pytest.mark.parametrize("classes", [5, 3, 8])
def test_hybrid_gathers_logits_whose_loss_counts_once(rank_pool: RankPool, ranks: int, classes: int) -> None:
    everywhere(rank_pool, ranks, hybrid_gather, classes)


def test_hybrid_keeps_maps_where_they_are(rank_pool: RankPool) -> None:
    everywhere(rank_pool, 2, hybrid_maps_stay)


NETS = {
    "paper": (narrow().architecture, 64),
    "Caffe's norm across towers": (narrow_caffe(CAFFE), SIZE),
    "towers that never meet": (never_meet(narrow().architecture), 64),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("ranks", "how"), [(2, "ranks"), (4, "ranks"), (2, "hybrid"), (4, "hybrid"), (4, "none")])
def test_networks_of_several_processes_are_the_one_of_one(rank_pool: RankPool, name: str, ranks: int, how: str) -> None:
    architecture, size = NETS[name]
    everywhere(rank_pool, ranks, networks_agree, architecture, size, 5, 6, how)


@pytest.mark.parametrize(
    ("ranks", "how", "classes", "rows"), [(4, "ranks", 5, 1), (4, "hybrid", 5, 3), (4, "none", 5, 2)]
)
def test_processes_without_a_row_take_part(rank_pool: RankPool, ranks: int, how: str, classes: int, rows: int) -> None:
    everywhere(rank_pool, ranks, networks_agree, narrow().architecture, 64, classes, rows, how)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("init", [Init(0.01, 0.0), Init(1.0, None, "uniform", by_fan_in=True)])
def test_processes_without_a_class_take_part(rank_pool: RankPool, classes: int, init: Init) -> None:
    net = narrow().architecture.with_init(fc8=init)
    everywhere(rank_pool, 4, networks_agree, net, 64, classes, 5, "hybrid")


def test_one_tower_is_cut_in_any_number_of_pieces(rank_pool: RankPool) -> None:
    everywhere(rank_pool, 3, networks_agree, one_tower(narrow().architecture), 64, 5, 7, "hybrid")


def test_four_towers_in_four_processes(rank_pool: RankPool) -> None:
    *hidden, last = narrow().architecture.linears
    wider = (*(replace(linear, width=56) for linear in hidden), last)
    four = replace(narrow().architecture, towers=4, linears=wider)
    everywhere(rank_pool, 4, networks_agree, four, 64, 5, 3, "ranks")


def test_what_an_exchange_waited_for_is_named(rank_pool: RankPool) -> None:
    said, _ = everywhere(rank_pool, 2, peers_that_disagree)
    assert said == "the exchange before fc6, forward"


def test_peers_know_each_others_numbers(rank_pool: RankPool) -> None:
    assert everywhere(rank_pool, 4, count_everybody) == [[10, 11, 12, 13]] * 4


def count_everybody() -> list[int]:
    with connected(4, "ranks") as (ranks, exchange):
        peers: PeerGroup = exchange._peers
        return peers.all_gather_counts(10 + ranks.world.rank, "a test")


@pytest.mark.parametrize(("total", "parts"), [(5, 2), (5, 4), (2, 4), (8, 4), (0, 3)])
def test_a_whole_is_split_as_torch_splits(total: int, parts: int) -> None:
    assert part_sizes(total, parts) == [len(part) for part in torch.zeros(total).tensor_split(parts)]
