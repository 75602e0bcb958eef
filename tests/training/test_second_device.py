"""Training with towers on two devices, one of them pretended (see pretend_device.py), and using what was trained.

The commands accept only devices that a user can have, which is not what is tested here: the check is left out.
"""

import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from alexnet_torch import AlexNet
from alexnet_torch.data.loader import Batch, sent
from alexnet_torch.distributed import placement
from alexnet_torch.distributed.placement import choose_placement
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.scoring import evaluate
from alexnet_torch.model import exchange as model_devices
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints
from alexnet_torch.training.trainer import Trainer
from tests.conftest import with_kernels
from tests.support.commands import run_cli, run_train
from tests.support.nets import narrow_demo
from tests.support.placement_runs import Run, options, require_same_run

# relative: sums in another order, by our kernels or by the formulas of response_norm.py, differ in their last bits
IN_DOUBLE = 1e-12
IN_16_BITS = 2e-3  # a map or product rounded at another place of the same formula, by 2^-9 or 2^-11 of it
TWO, SLOW = "cpu,pretend:0", pytest.mark.slow
STEPS = ("--max-steps", "7", "--log-every", "3")  # an epoch has 5 steps; validations after 5 and 7

Copy = tuple[str, str, tuple[int, ...]]
# what was printed; the copies between devices and the waits in each training step; races
DeviceRun = tuple[CompletedProcess[str], list[list[Copy]], list[list[str]], list[str]]


def recipe(variant: str) -> Recipe:
    """Returns what `--recipe demo` is; "across-towers" has norms that read the other tower's nearest channels."""
    if variant == "across-towers":
        norm = replace(PAPER.norm, across_towers=True)
        return replace(narrow_demo(), architecture=replace(narrow_demo().architecture, norm=norm))
    return replace(narrow_demo(), optimizer="adam") if variant == "adam" else narrow_demo()


# in the process of the fixture `pretend_process`


@contextmanager
def any_device(cache: Path, double: bool, variant: str = "sgd") -> Iterator[pytest.MonkeyPatch]:
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        for module in (placement, model_devices):
            patch.setattr(module, model_devices.checked_devices.__name__, model_devices.tower_devices)
        patch.setitem(RECIPES, "demo", lambda: recipe(variant))
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield patch
    torch.set_default_dtype(torch.float32)


def train_on_devices(
    given: Sequence[str], cache: Path, double: bool = True, variant: str = "sgd", stop_before: int | None = None
) -> DeviceRun:
    """Trains with options of train.py; before the step `stop_before` (from 0) the run gets SIGTERM."""
    from tests.support import pretend_device as pretend

    copies, waits, train_batch = list[list[Copy]](), list[list[str]](), Trainer.train_batch
    pretend.RACES.clear()

    def recorded(trainer: Trainer, batch: Batch) -> None:
        if trainer.state.step == stop_before:
            trainer.stop.signal = 15
        pretend.COPIES.clear()
        pretend.WAITS.clear()
        train_batch(trainer, batch)
        copies.append(list(pretend.COPIES))
        waits.append(list(pretend.WAITS))

    with any_device(cache, double, variant) as patch:
        patch.setattr(Trainer, "train_batch", recorded)
        return run_train(*given), copies, waits, list(pretend.RACES)


def waits_of_validations(given: Sequence[str], cache: Path) -> list[list[str]]:
    from tests.support import pretend_device as pretend

    waits = list[list[str]]()

    def recorded(*values: Any) -> Any:
        pretend.WAITS.clear()
        result = evaluate(*values)
        waits.append(list(pretend.WAITS))
        return result

    with any_device(cache, double=False) as patch:
        patch.setattr(trainer, "evaluate", recorded)
        assert run_train(*given).returncode == 0
    return waits


def run_command_on_devices(given: Sequence[str], cache: Path) -> CompletedProcess[str]:
    with any_device(cache, double=False):
        return run_cli(*given)


def wrap_in_data_parallel() -> str:
    """Returns why DistributedDataParallel refuses a network on two kinds of devices."""
    from tests.support import pretend_device as pretend

    net = AlexNet(narrow_demo().architecture, 3, 64, ["cpu", pretend.DEVICE])
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        DistributedDataParallel(net)
    except ValueError as error:
        return str(error)
    finally:
        dist.destroy_process_group()
    return "accepted"


# the tests

Train = Callable[..., DeviceRun]  # into a folder on devices; checks the exit status
Trained = Callable[[str], tuple[Path, DeviceRun]]


@pytest.fixture(scope="module")
def train(pretend_process: Executor, images: Path, compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    cache = with_kernels(tmp_path_factory.mktemp("cache"), compiled)

    def run(output: Path, devices: str, *more: str, status: int = 0, **settings: Any) -> DeviceRun:
        given = options(images, output, "--devices", devices, *STEPS, *more)
        made = pretend_process.submit(train_on_devices, given, cache, **settings).result()
        assert made[0].returncode == status, made[0].stderr
        return made

    return run


@pytest.fixture(scope="module")
def trained(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Returns the folder of a run on devices, without other options; makes each run once."""
    folder = tmp_path_factory.mktemp("trained")
    return functools.cache(lambda devices: (folder / devices, train(folder / devices, devices)))


def both_ways(*shapes: tuple[int, ...]) -> list[Copy]:
    return [(*way, shape) for shape in shapes for way in (("cpu", "pretend"), ("pretend", "cpu"))]


@pytest.mark.parametrize("devices", [TWO, "pretend:0,cpu"])
def test_a_training_step_copies_between_the_towers_what_the_paper_does(devices: str, trained: Trained) -> None:
    first, second = (name.partition(":")[0] for name in devices.split(","))
    _, (_, steps, *_) = trained(devices)
    copies = steps[3]  # a step without a report
    rows, meeting = 8, both_ways((8, 8, 3, 3), (8, 8), (8, 32), (8, 32))  # before conv3, fc6, fc7 and fc8
    expected = [*meeting, (second, first, (rows, 2))]  # half the logits
    expected += [*meeting, (first, second, (rows, 2))]  # their gradients
    assert Counter(copies) >= Counter(expected)
    rest = Counter(copies) - Counter(expected)
    assert rest.pop((first, second, (2, 2))) == 1  # the keys of dropout: two stages in two towers
    # the device also gets the pixels, in bytes, and the labels, ...; nothing is read
    assert rest.pop(("cpu", "pretend", (rows, 64, 64, 3))) == 1
    assert {(source, target) for source, target, _ in rest} == {("cpu", "pretend")}


def test_a_validation_waits_once_for_its_counts(
    pretend_process: Executor, images: Path, compiled: Path, tmp_path: Path
) -> None:
    given = options(images, tmp_path / "run", "--devices", "pretend:0", "--batch-size", "3", "--max-steps", "1")
    waits = pretend_process.submit(waits_of_validations, given, with_kernels(tmp_path, compiled)).result()
    assert [len(lines) for lines in waits] == [1]
    assert "evaluation/metrics.py" in waits[0][0]


def races_of_a_buffer_that_is_filled_again() -> list[str]:
    from tests.support import pretend_device as pretend  # in the process of the fixture

    buffer = torch.zeros(4)
    sent = buffer.to(pretend.DEVICE, non_blocking=True)
    buffer += 1
    sent.sum().item()
    races = list(pretend.RACES)
    pretend.RACES.clear()
    return races


def copies_beside_the_computation() -> dict[str, tuple[bool, int]]:
    """Returns whether a copy by `sent` is right, and races, as it is and without one of its two calls."""
    from tests.support import pretend_device as pretend  # in the process of the fixture

    found = {}
    for owner, name in ((object, ""), (pretend.PretendStream, "wait_stream"), (pretend.Pretend, "record_stream")):
        pretend.RACES.clear()
        with pytest.MonkeyPatch.context() as patch:
            if name:
                patch.setattr(owner, name, lambda *_: None)
            copy = sent(torch.arange(4), pretend.DEVICE) + 1
            found[name] = copy.tolist() == [1, 2, 3, 4], len(pretend.RACES)
    pretend.RACES.clear()
    return found


def test_copies_to_a_device_are_beside_its_computation(pretend_process: Executor) -> None:
    found = pretend_process.submit(copies_beside_the_computation).result()
    assert found == {"": (True, 0), "wait_stream": (False, 0), "record_stream": (True, 1)}


@pytest.mark.parametrize("devices", ["pretend:0", "pretend:0,cpu"])
def test_the_host_neither_waits_for_a_device_nor_changes_what_it_still_reads(
    devices: str, trained: Trained, pretend_process: Executor
) -> None:
    _, _, waits, races = trained(devices)[1]
    assert races == []
    if devices == "pretend:0":  # else the CPU's tower reads the other's outputs and gradients
        assert [waits[step] for step in (0, 1, 3, 4)] == [[]] * 4  # 2 and 5 report
    assert len(waits[2]) > 0
    assert pretend_process.submit(races_of_a_buffer_that_is_filled_again).result() == ["tests"]


@pytest.mark.parametrize("devices", [TWO, "pretend:0,cpu", "pretend:0"])
def test_a_run_is_that_of_one_device(devices: str, trained: Trained) -> None:
    Run.of(trained(devices)[0]).require_close(Run.of(trained("cpu")[0]), IN_DOUBLE)


@pytest.mark.parametrize(
    ("devices", "more", "variant"),
    [
        (TWO, (), "adam"),
        ("pretend:0,cpu", (), "across-towers"),
        (TWO, ("--freeze", "conv1..conv3,fc8", "--colour", "source"), "sgd"),
        pytest.param(TWO, ("--ablation", "never-meet", "--cache", "none"), "sgd", marks=SLOW),
    ],
)
def test_options_mean_the_same_as_on_one_device(
    devices: str, more: tuple[str, ...], variant: str, train: Train, tmp_path: Path
) -> None:
    train(tmp_path / "one", "cpu", *more, variant=variant)
    train(tmp_path / "two", devices, *more, variant=variant)
    Run.of(tmp_path / "two").require_close(Run.of(tmp_path / "one"), IN_DOUBLE)


@pytest.mark.parametrize(("devices", "amp"), [(TWO, "bf16"), ("pretend:0,cpu", "bf16"), ("pretend:0", "fp16")])
def test_mixed_precision_is_that_of_one_device(devices: str, amp: str, train: Train, tmp_path: Path) -> None:
    losses = []
    for name, where, more in (
        ("exact", "cpu", ()),
        ("one", "cpu", ("--amp", amp)),
        ("two", devices, ("--amp", amp)),
    ):
        train(tmp_path / name, where, *more, double=False)
        losses.append(np.array([report["loss"] for report in Run.of(tmp_path / name).reports]))
    exact, one, two = losses
    np.testing.assert_allclose(two, one, rtol=IN_16_BITS)
    assert not np.allclose(one, exact, rtol=1e-6)
    assert not np.allclose(two, exact, rtol=1e-6)


def test_fp16_is_refused_on_devices_of_two_kinds(train: Train, tmp_path: Path) -> None:
    error = train(tmp_path / "run", TWO, "--amp", "fp16", status=2)[0].stderr
    assert error.startswith("train.py: --precision fp16: not on cpu and pretend together; use --precision bf16, or")
    assert error.count("\n") == 1


def test_slices_of_a_batch_need_devices_of_one_kind(pretend_process: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what two processes with two devices each compute is shown only on GPUs: tests/gpu/test_same_run.py."""
    assert "must be on the same type of devices" in pretend_process.submit(wrap_in_data_parallel).result()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(placement, "working", lambda devices, *_, **__: devices)
    one_on_each_machine = World(1, 2, 0, 1)
    with pytest.raises(UserError, match=r"--devices cpu,cuda:0: processes that add up gradients need devices of one k"):
        choose_placement(["cpu", "cuda:0"], 2, "auto", one_on_each_machine)
    assert choose_placement(["cpu", "cuda:0"], 2, "auto", SINGLE_PROCESS).split == "devices"


def test_a_stopped_run_resumes_on_two_devices_and_on_one(trained: Trained, train: Train, tmp_path: Path) -> None:
    whole, _ = trained(TWO)
    _, steps, *_ = train(tmp_path / "bitwise", TWO, status=143, stop_before=4)
    assert len(steps) == 5
    shutil.copytree(tmp_path / "bitwise", tmp_path / "moved")
    train(tmp_path / "bitwise", TWO, "--resume")
    require_same_run(tmp_path / "bitwise", whole)
    train(tmp_path / "moved", "cpu", "--resume")
    Run.of(tmp_path / "moved").require_close(Run.of(whole), IN_DOUBLE)


def test_what_is_saved_is_on_the_cpu_and_starts_another_run(trained: Trained, train: Train, tmp_path: Path) -> None:
    saved, _ = trained("pretend:0")
    for file in (saved / "model.pt", list_checkpoints(saved / "checkpoints")[0]):
        weights = torch.load(file, weights_only=True)
        assert all(type(value) is torch.Tensor for value in weights.get("weights", weights).values())
    for name, devices in (("one", "cpu"), ("two", TWO)):
        train(tmp_path / name, devices, "--init", str(saved))
    Run.of(tmp_path / "two").require_close(Run.of(tmp_path / "one"), IN_DOUBLE)


@pytest.fixture
def compute(pretend_process: Executor, trained: Trained) -> Callable[..., str]:
    """Runs a command for a trained network on devices; returns what it printed."""
    run, cache = trained(TWO)[0], Path(os.environ["XDG_CACHE_HOME"])

    def printed(command: str, devices: str, *given: str | Path) -> str:
        line = [command, str(run), *map(str, given), "--devices", devices]
        done = pretend_process.submit(run_command_on_devices, line, cache).result()
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    return printed


def assert_same_numbers(own: Any, expected: Any) -> None:
    """Compares what JSON texts contain: numbers to float32's rounding."""
    for value, wanted in zip(tree_leaves(own), tree_leaves(expected), strict=True):
        assert value == (pytest.approx(wanted, rel=1e-4) if isinstance(wanted, float) else wanted)


@pytest.mark.parametrize("devices", [TWO, "pretend:0,cpu", "pretend:0"])
def test_commands_compute_the_same_on_two_devices(
    devices: str, compute: Callable[..., str], images: Path, tmp_path: Path
) -> None:
    printed, files = [], sorted(images.glob("val/*/*.png"))
    for where in ("cpu", devices):
        predicted = [json.loads(line) for line in compute("predict", where, *files, "--json").splitlines()]
        for line in predicted:  # classes of nearly the same probability may change places
            line["classes"].sort(key=lambda guess: guess["label"])
        table = compute("evaluate", where, "--data", images, "--cache", images.parent / "cache")
        output = tmp_path / f"{where}.h5"
        compute("features", where, images / "val", "--stage", "conv2,fc7", "--output", output)
        with h5py.File(output) as file:
            printed.append((predicted, table, {name: file[name][()] for name in ("conv2", "fc7", "labels")}))
    (one, one_table, one_features), (two, two_table, two_features) = printed
    assert len(one) == len(files)
    assert_same_numbers(two, one)
    assert one_table == two_table
    for name, value in one_features.items():
        np.testing.assert_allclose(two_features[name], value, rtol=1e-4, atol=1e-5)


@SLOW
def test_figures_are_the_same_on_two_devices(compute: Callable[..., str], tmp_path: Path) -> None:
    numbers = []
    for where in ("cpu", TWO):
        compute("figures", where, "--output", tmp_path / where)
        numbers.append(json.loads((tmp_path / where / "figures.json").read_text()))
    assert len(tree_leaves(numbers[0])) > 100
    assert_same_numbers(numbers[1], numbers[0])
    names = [sorted(file.name for file in (tmp_path / where).iterdir()) for where in ("cpu", TWO)]
    assert names[0] == names[1]
