"""Placements: devices and ranks of towers. Two devices are tested without a GPU, by fake tensors: these have real
devices, and mixing them raises."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.distributed import placement
from alexnet_torch.distributed.placement import Placement, choose_devices, choose_placement
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.exchange import Exchange, working
from alexnet_torch.model.presets import CAFFE, TORCHVISION
from alexnet_torch.recipes.recipe import never_meet

TWO = ["cuda:0", "cuda:1"]
BOTH_WAYS = [("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")]


@pytest.fixture(autouse=True)
def _pretended_gpus_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "working", lambda devices, *_, **__: devices)


def placement_of(
    gpus: int, split: str, world: World, patch: pytest.MonkeyPatch, named: list[str] | None = None, towers: int = 2
) -> Placement:
    patch.setattr(torch.cuda, "device_count", lambda: gpus)
    return choose_placement(named, towers, split, world)


ON_ONE = World(1, 4, 1, 4)  # the second of four ranks on one machine
ON_TWO = World(5, 8, 1, 4)  # the same on the second of two machines


class CountCopies(TorchDispatchMode):
    """Records copies between devices, as (from, to, shape without the batch)."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[str, str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != out.device:
            self.copies.append((str(args[0].device), str(out.device), tuple(args[0].shape[1:])))
        assert func is not torch.ops.aten.copy_.default or args[0].device == args[1].device
        return out


# before conv3, fc6, fc7 and fc8
MEETINGS = [(a, b, shape) for a, b in BOTH_WAYS for shape in ((128, 13, 13), (4608,), (2048,), (2048,))]
HALOS = [(a, b, (2, side, side)) for a, b in BOTH_WAYS for side in (55, 27)]


@pytest.mark.usefixtures("fake_gpus")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("architecture", "size", "exchanged"),
    [
        (PAPER, 224, MEETINGS),
        (never_meet(PAPER), 224, [(a, b, (2048,)) for a, b in BOTH_WAYS]),  # only before fc8
        (CAFFE, 227, [*MEETINGS, *HALOS]),  # its norm reads two channels of the other tower
    ],
    ids=["paper", "never meet", "caffe"],
)
def test_only_the_exchange_moves_data_and_only_where_stages_meet(
    architecture: Architecture, size: int, exchanged: list[tuple[str, str, tuple[int, ...]]], training: bool
) -> None:
    with FakeTensorMode():
        net = AlexNet(architecture, 10, size, TWO).train(training)
        images = torch.empty(2, 3, size, size, device="cuda:0")
        with CountCopies() as counter:
            logits = net(images, DropoutKey(0, 0) if training else None)
    assert (logits.device, logits.shape) == (torch.device("cuda:0"), (2, 10))
    keys = [("cpu", device, (2,)) for device in TWO if training]  # of the step's dropout
    ends = [("cuda:0", "cuda:1", (3, size, size)), ("cuda:1", "cuda:0", (5,))]  # the full image; half the logits
    assert Counter(counter.copies) == Counter([*exchanged, *ends, *keys])
    for index, tower in enumerate(net.towers.values()):
        assert {p.device for p in tower.parameters()} == {torch.device(TWO[index])}


@pytest.mark.usefixtures("fake_gpus")
def test_one_state_dict_for_one_and_two_devices() -> None:
    one = AlexNet(PAPER, 10, 64, seed=1)
    names = list(one.state_dict())
    assert (names[0], names[-1]) == ("towers.0.conv1.weight", "towers.1.fc8.bias")
    with FakeTensorMode(allow_non_fake_inputs=True):
        two = AlexNet(PAPER, 10, 64, TWO)
        assert {n: p.shape for n, p in two.state_dict().items()} == {n: p.shape for n, p in one.state_dict().items()}
        two.load_state_dict(one.state_dict())
        assert two.stage_weights("fc7")[1].device == torch.device("cuda:1")


def test_exchanges_in_one_process() -> None:
    parts = [torch.randn(2, 6, 3, 3) for _ in range(3)]
    a, b, c = Exchange(3).concat_towers(parts, 18, "fc6")
    assert a is b is c  # towers on one device use one joined input
    assert torch.equal(a, torch.cat(parts, dim=1))
    for width in (0, 1, 2):
        for tower, (wide, before) in enumerate(Exchange(3).channel_halo(parts, width, "conv1")):
            low, high = max(0, 6 * tower - width), min(18, 6 * tower + 6 + width)
            assert torch.equal(wide, a[:, low:high])
            assert before == 6 * tower - low


def test_a_gpu_that_does_not_compute_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a driver too old for torch; this machine has none."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(placement, "working", working)
    if not torch.cuda.is_available():
        assert choose_devices(None, 2, "auto") == ([torch.device("cpu")] * 2, "no visible GPU computes")
        assert "no GPU is used" in caplog.text
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        for named, world in (["cuda:0"], SINGLE_PROCESS), (None, ON_ONE):  # nobody waits for a rank without one
            with pytest.raises(UserError, match=r"^cuda:\d: torch .* cannot compute on it .*; use --devices cpu$"):
                choose_devices(named, 2, "auto", world)


def test_a_gpu_that_others_fill_is_told_as_missing_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr(torch, "ones", full)
    with pytest.raises(torch.OutOfMemoryError):  # in one line by cli.py, not days on a CPU
        working([torch.device("cuda", 0)])


def test_world_from_environment() -> None:
    assert World.from_environment({}) == SINGLE_PROCESS == World(0, 1, 0, 1, torchrun=False)
    given = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "PATH": "/bin"}
    assert World.from_environment(given) == World(5, 8, 0, 1)  # one on each machine
    by_torchrun = given | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    by_slurm = {"SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "4"}
    assert World.from_environment(by_torchrun) == World.from_environment(given | by_slurm) == World(5, 8, 1, 4)
    assert World.from_environment(by_torchrun | {"TORCHELASTIC_RUN_ID": "none"}) == World(5, 8, 1, 4, torchrun=True)
    assert World.from_environment(by_slurm) == World()


@pytest.mark.parametrize(
    ("gpus", "named", "split", "world", "devices", "expected_split", "slices"),
    [
        (0, "", "auto", SINGLE_PROCESS, "cpu,cpu", "none", (0, 1)),
        (1, "", "auto", SINGLE_PROCESS, "cuda:0,cuda:0", "none", (0, 1)),
        (2, "", "auto", SINGLE_PROCESS, "cuda:0,cuda:1", "devices", (0, 1)),
        (8, "", "auto", SINGLE_PROCESS, "cuda:0,cuda:1", "devices", (0, 1)),
        (2, "", "none", SINGLE_PROCESS, "cuda:0,cuda:0", "none", (0, 1)),
        (2, "", "devices", SINGLE_PROCESS, "cuda:0,cuda:1", "devices", (0, 1)),
        (2, "cpu", "auto", SINGLE_PROCESS, "cpu,cpu", "none", (0, 1)),
        (2, "cuda:1,cuda:0", "auto", SINGLE_PROCESS, "cuda:1,cuda:0", "devices", (0, 1)),
        (0, "", "auto", ON_ONE, "cpu,cpu", "none", (1, 4)),
        (4, "", "auto", ON_ONE, "cuda:1,cuda:1", "none", (1, 4)),
        (4, "", "auto", ON_TWO, "cuda:1,cuda:1", "none", (5, 8)),
        (7, "", "auto", ON_ONE, "cuda:1,cuda:1", "none", (1, 4)),  # fewer than two for each process
        (8, "", "auto", ON_ONE, "cuda:2,cuda:3", "devices", (1, 4)),
        (8, "", "devices", ON_TWO, "cuda:2,cuda:3", "devices", (5, 8)),
        (8, "", "none", ON_TWO, "cuda:1,cuda:1", "none", (5, 8)),
        (2, "", "auto", World(3, 4, 0, 1), "cuda:0,cuda:1", "devices", (3, 4)),  # one on each machine
        (1, "", "auto", World(3, 4, 0, 1), "cuda:0,cuda:0", "none", (3, 4)),
        (0, "", "ranks", ON_TWO, "cpu", "ranks", (2, 4)),
        (4, "", "ranks", ON_TWO, "cuda:1", "ranks", (2, 4)),
        (8, "", "ranks", World(0, 2, 0, 2), "cuda:0", "ranks", (0, 1)),
        (4, "", "hybrid", ON_TWO, "cuda:1,cuda:1", "hybrid", (5, 8)),
        # processes on a machine with GPUs can use the CPU
        (2, "cpu", "none", ON_ONE, "cpu,cpu", "none", (1, 4)),
        (2, "cpu", "ranks", ON_ONE, "cpu", "ranks", (0, 2)),
        (2, "cpu", "hybrid", ON_ONE, "cpu,cpu", "hybrid", (1, 4)),
    ],
)
def test_each_process_takes_its_own_devices_and_slice(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    named: str,
    split: str,
    world: World,
    devices: str,
    expected_split: str,
    slices: tuple[int, int],
) -> None:
    found = placement_of(gpus, split, world, monkeypatch, named.split(",") if named else None)
    assert [str(device) for device in found.devices] == devices.split(",")
    assert (found.split, found.slices) == (expected_split, slices)


def test_one_tower_and_slurms_tasks_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_devices(None, TORCHVISION.towers, "auto")[0] == [torch.device("cuda:0")]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    assert choose_devices(None, 2, "auto", World(3, 4, 3, 4))[0] == [torch.device("cuda", 0)] * 2
    monkeypatch.delenv("SLURM_GPUS_PER_TASK")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # by a script that starts the ranks
    assert choose_devices(None, 2, "auto", World(3, 4, 3, 4))[0] == [torch.device("cuda", 0)] * 2
    with pytest.raises(UserError, match=FOUR):  # the same GPU for all
        choose_devices(None, 2, "auto", World(2, 4, 2, 4))


def test_no_two_processes_of_a_machine_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, split in ((4, "auto"), (8, "auto"), (9, "devices"), (4, "ranks"), (5, "hybrid")):
        taken = [set(placement_of(gpus, split, World(r, 4, r, 4), monkeypatch).devices) for r in range(4)]
        assert len(set.union(*taken)) == sum(map(len, taken))


FOUR = "torchrun: 4 processes on this machine, but only"
ALL = "4 processes of this machine would all use"


@pytest.mark.parametrize(
    ("towers", "gpus", "split", "processes", "named", "message"),
    [
        (2, 1, "auto", 1, "cuda:0,cuda:1", "--devices cuda:1: this machine shows 1 GPU"),
        (2, 0, "auto", 1, "cuda", "--devices cuda:0: this machine shows 0 GPU"),
        (2, 0, "auto", 1, "meta", "--devices meta: only cpu and cuda"),
        (2, 1, "devices", 1, "", "--split devices: needs 2 devices for 2 towers"),
        (2, 2, "none", 1, "cuda:0,cuda:1", "--split none: puts all towers on one device, but --devices names 2"),
        (2, 2, "auto", 4, "", f"{FOUR} 2 GPU.*use --nproc_per_node=2, or --devices cpu"),
        (2, 3, "ranks", 4, "", f"{FOUR} 3 GPU"),
        (2, 1, "hybrid", 4, "", f"{FOUR} 1 GPU"),
        (2, 7, "devices", 4, "", "--split devices: needs 2 devices for 2 towers"),
        (2, 8, "auto", 4, "cuda:0,cuda:1", f"--devices cuda:0,cuda:1: {ALL}"),
        (2, 8, "ranks", 4, "cpu,cpu", "--devices cpu,cpu: with --split ranks a process uses one device; name"),
        (2, 0, "ranks", 1, "", "--split ranks: .*not one; start torchrun --nproc_per_node=N .*, with N 2 or more"),
        (4, 0, "hybrid", 1, "", "--split hybrid: .*with N 4 or more"),
        (1, 0, "hybrid", 1, "", "--split hybrid: .*with N 2 or more"),
        (2, 0, "ranks", 3, "", "--split ranks: 3 processes are not a multiple of 2 towers; start 2, 4, 6, ... proc"),
        (4, 0, "ranks", 6, "", "--split ranks: 6 processes are not a multiple of 4 towers; start 4, 8, 12, ... proc"),
        (1, 0, "ranks", 2, "", "--split ranks: this architecture has only one tower; use --split none"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    monkeypatch: pytest.MonkeyPatch, towers: int, gpus: int, split: str, processes: int, named: str, message: str
) -> None:
    world = World(1 % processes, processes, 1 % processes, processes)
    with pytest.raises(UserError, match=f"^{message}"):
        placement_of(gpus, split, world, monkeypatch, named.split(",") if named else None, towers)


def test_a_placement_describes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    each = "(8 GPUs are visible, 2 for each process)"
    texts = {
        (0, "auto", SINGLE_PROCESS): "2 tower(s) on cpu (no GPU is visible)",
        (2, "auto", SINGLE_PROCESS): "2 tower(s) on cuda:0, cuda:1 (2 GPUs are visible)",
        (
            8,
            "auto",
            ON_ONE,
        ): f"4 processes, 2 towers on cuda:2, cuda:3 in each, 4 slice(s) of each batch {each}",
        (0, "ranks", ON_TWO): "8 processes, one tower in each, 4 slice(s) of each batch (no GPU is visible)",
    }
    for (gpus, split, world), text in texts.items():
        assert placement_of(gpus, split, world, monkeypatch).describe() == text
    assert placement_of(0, "ranks", ON_TWO, monkeypatch).describe_rank(5) == "rank 5 (tower 1, batch slice 2)"
    assert placement_of(0, "hybrid", ON_TWO, monkeypatch).describe_rank(5) == "rank 5 (batch slice 5)"
