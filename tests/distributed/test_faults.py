"""Runs of several ranks: a rank, the disk or the folder is lost; the run is stopped, or started with wrong options."""

import re
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from alexnet_torch.distributed.control import Control
from alexnet_torch.distributed.placement import choose_placement
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import RankLost, RunError
from alexnet_torch.training import trainer
from alexnet_torch.training.checkpoints import list_checkpoints
from alexnet_torch.training.step import TrainMetrics
from tests.support.commands import run_train
from tests.support.narrow_train import train
from tests.support.permissions import mounted_disk
from tests.support.placement_runs import PLACEMENTS, free_port, options, require_same_run, torchrun, trained
from tests.support.rank_pool import RankPool, RankResult

LONG = ("--max-steps", "17")  # 3 epochs of 5 steps, and two steps
OFTEN = ("--save-every", "0.0001")  # minutes: after each step
STANDALONE = "--standalone"
SLOW = pytest.mark.slow

Uninterrupted = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def _prepared(images: Path, rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Kernels are compiled and images decoded, and the lines about it printed, before tests count lines."""
    given = options(images, tmp_path_factory.mktemp("prepared") / "run", "--max-steps", "1")
    trained(rank_pool.run(train, given, ranks=2))


@pytest.fixture(scope="module")
def uninterrupted(images: Path, rank_pool: RankPool) -> Uninterrupted:
    """Returns the folder of a run of 17 steps in a placement, trained when first needed."""

    def folder(placement: str) -> Path:
        output = images.parent / f"uninterrupted {placement}"
        ranks, split = PLACEMENTS[placement]
        if not output.exists():
            trained(rank_pool.run(train, options(images, output, *LONG, "--split", split), ranks=ranks))
        return output

    return folder


def message(results: list[RankResult], status: int) -> str:
    """Returns the only line that all ranks print besides what the images are; fails if there are more."""
    printed = "".join(result.stderr for result in trained(results, status)).splitlines()
    (line,) = (text for text in printed if not text.endswith("validation images"))
    assert line.startswith("train.py: ")
    return line


# a rank is killed, and torchrun restarts all


@pytest.mark.parametrize(
    ("placement", "launch", "fault"),
    [
        ("two towers", [], "1:12:kill"),  # one tower; torchrun without options
        pytest.param("two slices", [STANDALONE], "1:12:kill", marks=SLOW),
        pytest.param("two slices", [], "0:12:kill", marks=SLOW),  # the rank that writes
        pytest.param("two towers", [STANDALONE], "1:2:kill", marks=SLOW),  # before the first checkpoint
        pytest.param("two by two", [STANDALONE], "2:12:kill", marks=SLOW),
        pytest.param("four slices", [], "3:12:kill", marks=SLOW),
        pytest.param("hybrid at four", [STANDALONE], "1:12:kill", marks=SLOW),
    ],
)
def test_a_killed_run_restarts_and_ends_the_same(
    placement: str, launch: list[str], fault: str, images: Path, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    ranks, split = PLACEMENTS[placement]
    has_checkpoint = ":12:" in fault
    given = options(images, tmp_path / "run", *LONG, *(OFTEN if has_checkpoint else ()), "--split", split)
    agent = torchrun([*launch, f"--nproc_per_node={ranks}", "--max-restarts=1"], given, {"FAULT": fault})
    out, err = agent.communicate(timeout=150)
    assert agent.returncode == 0, err
    assert "Traceback" not in err
    first, second = re.findall(r"starting from (.*)", out)
    assert "step-" not in first
    assert ("step-0000001" in second) == has_checkpoint  # of step 10, 11 or 12
    require_same_run(tmp_path / "run", uninterrupted(placement))


@SLOW
@pytest.mark.parametrize("fault", ["0:12:kill", "1:12:kill"])
def test_a_run_killed_on_one_machine_continues_on_both(
    fault: str, images: Path, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    """The agent of the other machine may not count this as a restart."""
    nodes = ["--nnodes=2", "--nproc_per_node=1", "--max-restarts=2", "--rdzv_backend=c10d"]
    nodes.append(f"--rdzv_endpoint=127.0.0.1:{free_port()}")
    agents = [torchrun(nodes, options(images, tmp_path / "run", *LONG, *OFTEN), {"FAULT": fault}) for _ in range(2)]
    outputs = [agent.communicate(timeout=150) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    require_same_run(tmp_path / "run", uninterrupted("two slices"))


@SLOW
def test_another_launch_never_resumes_without_the_option(images: Path, rank_pool: RankPool, tmp_path: Path) -> None:
    """Not even on torchrun's second try: the first one was refused, and so did not start the run."""
    output = tmp_path / "run"
    trained(rank_pool.run(train, options(images, output, "--max-steps", "2", "--split", "ranks"), ranks=2))
    before = (output / "metrics.jsonl").read_bytes()
    agent = torchrun([STANDALONE, "--nproc_per_node=2", "--max-restarts=1"], options(images, output, *LONG))
    out, err = agent.communicate(timeout=100)
    assert agent.returncode != 0
    assert "starting from" not in out
    assert err.count(f"train.py: --output {output}: holds a run already; continue it with --resume") == 2
    assert (output / "metrics.jsonl").read_bytes() == before


# a rank hangs, or has ended and is not restarted


@pytest.mark.parametrize(
    ("placement", "fault", "missing", "what", "witness"),
    [
        ("two by two", "3:7:hang", "3 (tower 1, batch slice 1)", "the exchange before conv[1-5], forward", 2),
        pytest.param("two towers", "0:7:hang", "0 (tower 0, batch slice 0)", "the exchange before ", 1, marks=SLOW),
        pytest.param("two slices", "1:7:hang", "1 (batch slice 1)", "the sum of gradients of step 8", 0, marks=SLOW),
        pytest.param("hybrid at four", "2:7:hang", "2 (batch slice 2)", "", 0, marks=SLOW),
        pytest.param("two by two", "2:7:kill", "2 (tower 0, batch slice 1)", "the exchange before ", 3, marks=SLOW),
        pytest.param("four slices", "0:7:kill", "0 (batch slice 0)", "", 1, marks=SLOW),
    ],
)
def test_a_lost_rank_is_named_with_the_stage(
    placement: str, fault: str, missing: str, what: str, witness: int, images: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    ranks, split = PLACEMENTS[placement]
    given = options(images, tmp_path / "run", *LONG, *OFTEN, "--split", split, "--timeout", "5")
    results = rank_pool.run(train, given, ranks=ranks, environment={"FAULT": fault}, lost_rank=int(fault[0]))
    expected = rf"rank {re.escape(missing)} did not reach {what}.*, where rank {witness} waited"
    assert re.search(expected, message(results, 1))
    assert "Traceback" not in "".join(result.stdout for result in results)
    assert list_checkpoints(tmp_path / "run/checkpoints")


@pytest.mark.parametrize(
    ("rank", "message"),
    [(0, "rank 1 of 2 did not start in time; see what it"), (1, "rank 1: no connection at 127.0.0.1:.*; start rank 0")],
)
def test_a_rank_that_never_starts_is_named(rank: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(RunError, match=message):
        Control(World(rank, 2, rank, 2), patience=0.5)
    if rank == 0:
        signal.signal(signal.SIGALRM, signal.default_int_handler)  # as Ctrl-C
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            Control(World(0, 2, 0, 2))


def test_ranks_that_cannot_reach_each_other_name_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the name of a machine leads to 127.0.1.1."""

    def unreachable(*_: object, **__: object) -> None:
        raise RuntimeError("Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:144] no error")

    monkeypatch.setattr(dist, "init_process_group", unreachable)
    ranks = Ranks(World())
    ranks.control.store = HashStore()
    with pytest.raises(RankLost, match=r"GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME: Gloo connectFullMesh failed"):
        ranks.connect(choose_placement(["cpu"], 2, "auto", World()), 30)


def test_an_error_is_printed_before_the_process_groups_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their end may wait for ever for a lost rank."""
    monkeypatch.setattr(Ranks, "close", lambda *_, failed=False: print(f"failed={failed}", file=sys.stderr))
    done = run_train("--data", tmp_path / "none", "--output", tmp_path / "run")
    assert done.returncode == 2
    assert re.search(r"^train\.py: .*none.*\nfailed=True\n$", done.stderr)


def recording(name: str, inner: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        calls.append(name)
        return inner(*given)

    return call


def test_ranks_meet_before_one_reads_what_its_gpu_has_summed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU waits for ever for a rank that hangs: the wait on the CPU names it."""
    calls: list[str] = []
    for owner, name in ((Ranks, "max_over_ranks"), (TrainMetrics, "report"), (trainer, "first_not_finite")):
        monkeypatch.setattr(owner, name, recording(name, getattr(owner, name), calls))
    assert train(options(images, tmp_path / "run", "--max-steps", "3")) == 0
    reads = [at for at, name in enumerate(calls) if name != "max_over_ranks"]
    assert {calls[at] for at in reads} == {"report", "first_not_finite"}
    assert all(calls[at - 1] == "max_over_ranks" for at in reads), calls


# the disk is full, or the folder is removed


@pytest.mark.parametrize(
    ("placement", "fault"),
    [
        ("two by two", "full-disk"),
        pytest.param("hybrid at four", "full-disk", marks=SLOW),
        ("two by two", "no-checkpoints"),
        ("two by two", "no-output"),
    ],
)
def test_a_folder_that_cannot_be_written_stops_all_with_one_message_and_the_run_resumes(
    placement: str, fault: str, images: Path, rank_pool: RankPool, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    ranks, split = PLACEMENTS[placement]
    with mounted_disk(tmp_path / "disk", "30m") if fault == "full-disk" else nullcontext(tmp_path) as disk:
        given = options(images, disk / "run", *LONG, *OFTEN, "--split", split, "--timeout", "30")
        line = message(rank_pool.run(train, given, ranks=ranks, environment={"FAULT": f"0:7:{fault}"}), 1)
        reason = ".*No space left.*make room on its disk, then continue with --resume" * (fault == "full-disk")
        assert re.search(f"training stops: {reason}", line)
        if fault == "full-disk":
            (disk / "filler").unlink()
        else:
            removed = disk / ("run/checkpoints" if fault == "no-checkpoints" else "run")
            removed.unlink(missing_ok=True)
            (disk / "moved").rename(removed)
        first, *_ = trained(rank_pool.run(train, [*given, "--resume"], ranks=ranks))
        assert re.search(r"starting from .*step-0000000[5-8]-", first.stdout)
        require_same_run(disk / "run", uninterrupted(placement))


# the run is stopped


def test_sigterm_to_torchrun_saves_and_the_run_resumes(
    images: Path, rank_pool: RankPool, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    given = options(images, tmp_path / "run", *LONG, "--split", "ranks")
    agent = torchrun([STANDALONE, "--nproc_per_node=2"], given, {"FAULT": "0:7:end-agent"})
    _, err = agent.communicate(timeout=60)
    assert agent.returncode != 0
    assert err.count("train.py: stopped after step") == 1
    newest = list_checkpoints(tmp_path / "run/checkpoints")[0]
    assert re.match(r"step-0000000[789]-", newest.name)
    trained(rank_pool.run(train, [*given, "--resume"], ranks=2))
    require_same_run(tmp_path / "run", uninterrupted("two towers"))


@SLOW
def test_sigterm_waits_for_images_that_are_being_decoded(images: Path, tmp_path: Path) -> None:
    """torchrun sends SIGTERM to the decoding processes too, which torch would notice only after 5 s."""
    given = [*options(images, tmp_path / "run", *LONG, "--split", "ranks"), "--cache", "none"]
    fault = {"FAULT": "0:1:end-agent", "SLOW_DECODING": "1"}
    _, err = torchrun([STANDALONE, "--nproc_per_node=2"], given, fault).communicate(timeout=100)
    assert err.count("train.py: stopped after step") == 1, err
    assert list_checkpoints(tmp_path / "run/checkpoints")


def test_a_loss_that_is_not_finite_is_reported_once(images: Path, rank_pool: RankPool, tmp_path: Path) -> None:
    given = options(images, tmp_path / "run", *LONG, "--split", "ranks", "--lr", "1e30")
    line = message(rank_pool.run(train, given, ranks=4), 1)
    assert "training diverged; there was no checkpoint yet; lower --lr" in line


# the run is started with wrong options


@pytest.mark.parametrize(
    ("ranks", "more", "expected"),
    [
        (1, "--split ranks", "needs several processes, not one; start torchrun --nproc_per_node=N train.py, with"),
        (3, "--split ranks", "3 processes are not a multiple of 2 towers; start 2, 4, 6, ... processes"),
        (2, "--split ranks --ablation one-tower", "--split ranks: this architecture has only one tower"),
        (2, "--split devices", "--split devices: needs 2 devices for 2 towers"),
        (2, "--devices cuda:0", "--devices cuda:0: 2 processes of this machine would all use it"),
        (4, "--batch-size 3", "--batch-size 3: must be 4 or more, one image for each slice"),
        (4, "--batch-size 1 --split ranks", "--batch-size 1: must be 2 or more"),
        (2, "--split ranks --compile", "--compile: torch cannot compile the exchanges of --split ranks"),
        (2, "--split hybrid --amp fp16", "--precision fp16: not with --split hybrid"),
        (2, "--timeout 0", "--timeout 0.0: must be positive"),
        (2, "--resume", "--resume: "),
        (2, "--data /nowhere", "/nowhere"),
        (2, "--freeze conv9", "--freeze"),
        (2, "--split three", "--split: invalid choice: 'three'"),
        (2, "--output /dev/null/run", "--output /dev/null/run: /dev/null/run: Not a directory; "),
    ],
)
def test_wrong_options_are_one_line_and_status_2(
    ranks: int, more: str, expected: str, images: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    results = rank_pool.run(train, options(images, tmp_path / "run", *LONG, *more.split()), ranks=ranks)
    assert expected in message(results, 2)
    assert not (tmp_path / "run").exists()


def test_a_run_needs_a_name_and_is_neither_overwritten_nor_resumed_as_another(
    images: Path, rank_pool: RankPool, uninterrupted: Uninterrupted
) -> None:
    given = options(images, uninterrupted("two by two"), *LONG)
    resumed = [*given, "--resume", "--seed", "7", "--split", "ranks"]
    assert "holds a run already; continue it with --resume" in message(rank_pool.run(train, given, ranks=2), 2)
    assert "--resume: the run has --seed 0, not 7" in message(rank_pool.run(train, resumed, ranks=4), 2)
    at = given.index("--output")
    unnamed = given[:at] + given[at + 2 :]
    assert "--output: name the run's folder under torchrun" in message(rank_pool.run(train, unnamed, ranks=2), 2)


@SLOW
def test_torchrun_prints_wrong_options_once(images: Path, tmp_path: Path) -> None:
    given = options(images, tmp_path / "run", *LONG, "--split", "ranks")
    _, err = torchrun([STANDALONE, "--nproc_per_node=3"], given).communicate(timeout=60)
    assert len(re.findall(r"^train.py: .*$", err, re.M)) == 1
    assert "exitcode  : 2" in err
