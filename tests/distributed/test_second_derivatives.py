"""Derivatives that cannot be computed between processes are refused."""

import pytest
import torch
from torch.autograd import forward_ad

from tests.distributed.test_exchanges import connected, run_on_ranks
from tests.support.rank_pool import RankPool


def differentiate_twice() -> None:
    """Refused on every rank before one sends anything, so that none waits."""
    with connected(2, "ranks") as (_, exchange):
        part = torch.ones(1, 2).requires_grad_()
        (joined,) = exchange.concat_towers([part], 4, "fc6")
        with pytest.raises(NotImplementedError, match="second derivatives, as by create_graph=True, are not supported"):
            torch.autograd.grad(joined.sum(), part, create_graph=True)
        with pytest.raises(
            NotImplementedError, match=r"torch.func's transforms .* are not supported between processes"
        ):
            torch.func.grad(lambda x: exchange.concat_towers([x], 4, "fc6")[0].sum())(torch.ones(1, 2))
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode derivatives are not"):
            exchange.concat_towers([forward_ad.make_dual(part.detach(), part.detach())], 4, "fc6")


def test_second_derivatives_between_ranks_are_refused(rank_pool: RankPool) -> None:
    run_on_ranks(rank_pool, 2, differentiate_twice)
