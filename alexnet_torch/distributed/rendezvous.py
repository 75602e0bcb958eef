"""The store through which the processes of a run first find each other."""

import json
import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from alexnet_torch.distributed.world import World

LONG = timedelta(days=30)  # preparing ImageNet takes hours, and torchrun notices a process that has died


def open_stores(world: World) -> tuple[Store, Store]:
    """Waits for all processes; returns an empty store that they share, and one that outlives a restart.

    torchrun keeps one store for all its starts of a run, in which each would find the entries of the previous one.
    Its restart count tells them apart on one machine, but several machines count differently.

    Returns:
        the part of torchrun's store for this start only, and the part for all its starts.
    """
    store, _, _ = next(rendezvous("env://", world.rank, world.size))
    find_name = _choose_name if world.is_main else _receive_name
    name = "single" if world.size == 1 else find_name(store, world)
    return PrefixStore(name, store), PrefixStore("all", store)


def _choose_name(store: Store, world: World) -> str:
    name, others = uuid.uuid4().hex, range(1, world.size)
    store.wait([f"here/{rank}" for rank in others], LONG)
    while not store.check([f"{name}/{rank}" for rank in others]):
        # an entry may be of a process that has ended, whose successor has not written its own yet
        here = {str(rank): store.get(f"here/{rank}").decode() for rank in others}
        store.set("start", json.dumps({"name": name, "here": here}))
        time.sleep(0.02)
    return name


def _receive_name(store: Store, world: World) -> str:
    own_id = uuid.uuid4().hex
    store.set(f"here/{world.rank}", own_id)
    store.wait(["start"], LONG)
    while (start := json.loads(store.get("start")))["here"].get(str(world.rank)) != own_id:  # of the previous start
        time.sleep(0.02)
    name: str = start["name"]
    store.set(f"{name}/{world.rank}", "")
    return name
