"""Who is missing, when a process has waited for another in vain."""

import time

from torch._C._distributed_c10d import Store

from alexnet_torch.distributed.placement import Placement
from alexnet_torch.errors import RankLost

_GONE = 5.0  # seconds in which those who were connected with one that is gone notice
_SILENT = 30.0  # in which others have waited in vain, too: a step, that is


def roll_call(store: Store, placement: Placement, lost: RankLost, patience: float) -> str | None:
    """Which ranks are missing, once those that are not have said what they wait for.

    Args:
        store: that all have in common.
        placement: of the run, and of this process.
        lost: what this process waited for.
        patience: seconds that it waited.

    Returns:
        a message, for one of the ranks to print; None for the others.

    Raises:
        DistError: the store is gone.
    """
    world = placement.world
    store.set(f"lost/{world.rank}", lost.what)
    silent = "imed out" in lost.why  # its connection is there still
    deadline = time.monotonic() + (min(_SILENT, max(_GONE, patience)) if silent else _GONE)
    missing = set(range(world.size)) - {world.rank}
    while missing and time.monotonic() < deadline:
        time.sleep(0.1)
        missing -= {rank for rank in missing if store.check([f"lost/{rank}"])}
    here = sorted(set(range(world.size)) - missing)
    if world.rank != here[0]:
        return None
    if not missing:
        return str(lost)
    # who shares a network with one that is missing knows best what it did not come to
    near = [rank for rank in here for gone in missing if _share(placement, rank, gone)] or here
    what = store.get(f"lost/{near[0]}").decode()
    names = ", ".join(placement.name(rank) for rank in sorted(missing))
    return f"{names} did not come to {what}, where rank {near[0]} waited; the transport says: {lost.why}"


def _share(placement: Placement, one: int, other: int) -> bool:
    return placement.split == "ranks" and one // placement.towers == other // placement.towers
