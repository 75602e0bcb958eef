"""The store in which the processes of a run first meet."""

import json
import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from alexnet_torch.distributed.world import World

LONG = timedelta(days=30)  # preparing ImageNet takes hours, and who has died is torchrun's to notice


def meet(world: World) -> tuple[Store, Store]:
    """The store that all processes have in common, empty, once they are all there.

    torchrun keeps one store for all its starts of a run, in which each would find the words of the one before. Its
    count of starts tells them apart on one machine; several machines do not count alike.

    Returns:
        the part of torchrun's store that is this start's alone; and the part that all of its starts have.
    """
    store, _, _ = next(rendezvous("env://", world.rank, world.size))
    if world.size == 1:
        name = "alone"
    else:
        name = _named_by_first(store, world) if world.rank == 0 else _heard_from_first(store, world)
    return PrefixStore(name, store), PrefixStore("all", store)


def _named_by_first(store: Store, world: World) -> str:
    name, others = uuid.uuid4().hex, range(1, world.size)
    store.wait([f"here/{rank}" for rank in others], LONG)
    while not store.check([f"{name}/{rank}" for rank in others]):
        # who wrote some of these may be gone, and its successor not here yet
        here = {str(rank): store.get(f"here/{rank}").decode() for rank in others}
        store.set("start", json.dumps({"name": name, "here": here}))
        time.sleep(0.02)
    return name


def _heard_from_first(store: Store, world: World) -> str:
    mine = uuid.uuid4().hex
    store.set(f"here/{world.rank}", mine)
    store.wait(["start"], LONG)
    while (start := json.loads(store.get("start")))["here"].get(str(world.rank)) != mine:  # it is of the start before
        time.sleep(0.02)
    name: str = start["name"]
    store.set(f"{name}/{world.rank}", "")
    return name
