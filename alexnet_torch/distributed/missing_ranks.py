"""Finds out which ranks are missing when a rank has waited for another without an answer."""

import time

from torch._C._distributed_c10d import Store

from alexnet_torch.distributed.placement import Placement
from alexnet_torch.errors import RankLost

_CLOSED = 5.0  # seconds in which all ranks notice that a connection has been closed
_SILENT = 30.0  # seconds in which the others time out as well: about a step


def find_missing_ranks(store: Store, placement: Placement, lost: RankLost, timeout: float) -> str | None:
    """Returns a message that names the missing ranks, for one of the remaining ranks to print; None on the others.

    Args:
        store: shared by all ranks, which write there what they wait for.
        placement: the run's, with this rank.
        lost: what this rank waited for.
        timeout: seconds that it waited.

    Raises:
        DistError: the store is lost.
    """
    world = placement.world
    store.set(f"lost/{world.rank}", lost.what)
    is_silent = "imed out" in lost.why  # its connection still exists
    deadline = time.monotonic() + (min(_SILENT, max(_CLOSED, timeout)) if is_silent else _CLOSED)
    missing = set(range(world.size)) - {world.rank}
    while missing and time.monotonic() < deadline:
        time.sleep(0.1)
        missing -= {rank for rank in missing if store.check([f"lost/{rank}"])}
    remaining = sorted(set(range(world.size)) - missing)
    if world.rank != remaining[0]:
        return None
    if not missing:
        return str(lost)
    # a rank of the same network knows best what the missing one did not reach
    peers = {peer for rank in missing for peer in placement.network_of(rank)}
    witness = min(peers - missing, default=remaining[0])
    what = store.get(f"lost/{witness}").decode()
    names = ", ".join(placement.describe_rank(rank) for rank in sorted(missing))
    return f"{names} did not reach {what}, where rank {witness} waited; torch.distributed reports: {lost.why}"
