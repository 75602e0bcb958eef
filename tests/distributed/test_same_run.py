"""A run has the same losses, validation and weights in any placement, and continues in any other."""

from pathlib import Path

import pytest

from tests.support.narrow_train import train
from tests.support.placement_runs import PLACEMENTS, Run, free_port, options, require_same_run, torchrun, trained
from tests.support.rank_pool import RankPool

EVERY_PLACEMENT = pytest.mark.parametrize("placement", PLACEMENTS)
SLOW = pytest.mark.slow

# relative: sums over rows in another order differ in a number's last bits, 1e-16 of it, which some steps make a few
# times as large; a wrong mask, crop or weight of a gradient differs in the second digit
IN_DOUBLE = 1e-12
LONG = ("--max-steps", "30")


@pytest.fixture(scope="module")
def in_double(images: Path, rank_pool: RankPool) -> Run:
    """30 steps in one process."""
    output = images.parent / "double"
    trained(rank_pool.run(train, options(images, output, *LONG), ranks=1, double=True))
    run = Run.of(output)
    losses = {report["step"]: report["loss"] for report in run.reports if report["split"] == "train"}
    assert list(losses) == list(range(1, 31))
    assert losses[30] < 0.9 * losses[1]  # it learns: the losses are not noise around ln(5)
    assert [report["step"] for report in run.reports if report["split"] == "val"][:6] == [5, 10, 15, 20, 25, 30]
    return run


@EVERY_PLACEMENT
def test_thirty_steps_in_float64_equal_those_of_one_process(
    placement: str, images: Path, in_double: Run, rank_pool: RankPool, tmp_path: Path
) -> None:
    ranks, split = PLACEMENTS[placement]
    given = options(images, tmp_path / "run", *LONG, "--split", split)
    first, *others = trained(rank_pool.run(train, given, ranks=ranks, double=True))
    Run.of(tmp_path / "run").require_close(in_double, IN_DOUBLE)
    assert first.stdout.count("starting from") == 1
    assert [other.stdout + other.stderr for other in others] == [""] * (ranks - 1)  # only rank 0 prints


@pytest.mark.parametrize("placement", ["two towers", "two slices", "two by two"])
def test_a_batch_in_parts_is_the_same_run(
    placement: str, images: Path, in_double: Run, rank_pool: RankPool, tmp_path: Path
) -> None:
    ranks, split = PLACEMENTS[placement]
    given = options(images, tmp_path / "run", *LONG, "--split", split, "--grad-accumulation", "3")
    trained(rank_pool.run(train, [*given, "--val-batch-size", "4", "--workers", "1"], ranks=ranks, double=True))
    Run.of(tmp_path / "run").require_close(in_double, IN_DOUBLE)


@EVERY_PLACEMENT
def test_a_checkpoint_of_any_placement_resumes_in_any_other(
    placement: str, images: Path, in_double: Run, rank_pool: RankPool, tmp_path: Path
) -> None:
    """Stopped twice within epochs, in this placement and in the next of the list; one process ends it."""
    names, output = list(PLACEMENTS), tmp_path / "run"
    following = names[(names.index(placement) + 1) % len(names)]
    for where, fault, more in ((placement, "1:7:terminate", LONG), (following, "0:18:terminate", ("--resume",))):
        ranks, split = PLACEMENTS[where]
        given = options(images, output, *more, "--split", split)
        results = rank_pool.run(train, given, ranks=ranks, double=True, environment={"FAULT": fault})
        assert "".join(r.stderr for r in trained(results, 143)).count("continue with --resume") == 1
    assert 18 < Run.of(output).reports[-1]["step"] < 25
    trained(rank_pool.run(train, options(images, output, "--resume", "--split", "auto"), ranks=1, double=True))
    Run.of(output).require_close(in_double, IN_DOUBLE)


@pytest.mark.parametrize(
    ("placement", "more"),
    [
        ("four slices", "--freeze conv1..conv3"),
        ("hybrid at four", "--freeze conv1..conv5"),  # no gradient is added up
        ("hybrid at two", "--freeze fc8"),
        ("two by two", "--freeze fc6 --init INIT --init-stages conv1..conv5"),
        ("hybrid at four", "--init INIT"),
        ("two by two", "--ablation never-meet"),
        ("hybrid at four", "--ablation never-meet"),
        ("hybrid at four", "--ablation one-tower"),
        ("two slices", "--cache none"),  # decoded by worker processes
        pytest.param("hybrid at four", "--cache none", marks=SLOW),
    ],
)
def test_options_mean_the_same_in_every_placement(
    placement: str, more: str, images: Path, in_double: Run, rank_pool: RankPool, tmp_path: Path
) -> None:
    del in_double  # INIT is its run
    ranks, split = PLACEMENTS[placement]
    given = [*more.replace("INIT", str(images.parent / "double")).split(), "--max-steps", "6"]
    one = [word for word in given if word not in ("--cache", "none")]
    trained(rank_pool.run(train, options(images, tmp_path / "one", *one), ranks=1, double=True))
    given = options(images, tmp_path / "run", *given, "--split", split)
    trained(rank_pool.run(train, given, ranks=ranks, double=True))
    Run.of(tmp_path / "run").require_close(Run.of(tmp_path / "one"), IN_DOUBLE)


def test_adam_in_three_pieces_resumes_in_one(images: Path, rank_pool: RankPool, tmp_path: Path) -> None:
    """Its count of steps is a scalar, equal in all pieces."""
    more = ("--recipe", "tensorflow-post", "--image-size", "64", "--lr", "0.001", "--max-steps", "12")
    trained(rank_pool.run(train, options(images, tmp_path / "one", *more), ranks=1, double=True))
    given = options(images, tmp_path / "run", *more, "--split", "hybrid")
    trained(rank_pool.run(train, given, ranks=3, double=True, environment={"FAULT": "2:6:terminate"}), 143)
    trained(rank_pool.run(train, [*given, "--split", "none", "--resume"], ranks=1, double=True))
    Run.of(tmp_path / "run").require_close(Run.of(tmp_path / "one"), IN_DOUBLE)


@pytest.mark.parametrize("placement", ["two by two", "hybrid at four", pytest.param("four slices", marks=SLOW)])
def test_a_resumed_run_equals_the_uninterrupted_one(
    placement: str, images: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    """Sums over three ranks or more depend on how gradients are packed in buckets, which must not change."""
    ranks, split = PLACEMENTS[placement]
    more = ("--max-steps", "12", "--split", split)
    trained(rank_pool.run(train, options(images, tmp_path / "uninterrupted", *more), ranks=ranks))
    given = options(images, tmp_path / "run", *more)
    trained(rank_pool.run(train, given, ranks=ranks, environment={"FAULT": "1:7:terminate"}), 143)
    trained(rank_pool.run(train, [*given, "--resume"], ranks=ranks))
    require_same_run(tmp_path / "run", tmp_path / "uninterrupted")


C10D = ("--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("processes", "split", "launch"),
    [
        (1, "ranks", ("--node_rank={machine}", "--master_addr=127.0.0.1", "--master_port={port}")),
        pytest.param(2, "ranks", C10D, marks=SLOW),
        pytest.param(2, "hybrid", C10D, marks=SLOW),
    ],
)
def test_two_machines(
    processes: int, split: str, launch: tuple[str, ...], images: Path, in_double: Run, tmp_path: Path
) -> None:
    """The second machine names another folder, where nothing is written."""
    port, agents = free_port(), []
    for machine in range(2):
        given = options(images, tmp_path / f"machine{machine}", *LONG, "--split", split)
        nodes = [option.format(machine=machine, port=port) for option in launch]
        agents.append(torchrun(["--nnodes=2", f"--nproc_per_node={processes}", *nodes], given, {"DOUBLE": "1"}))
    outputs = [agent.communicate(timeout=150) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    Run.of(tmp_path / "machine0").require_close(in_double, IN_DOUBLE)
    assert sum(out.count("starting from") for out, _ in outputs) == 1
    assert not (tmp_path / "machine1").exists()


@SLOW
def test_one_rank_of_a_machine_compiles_and_prints_it(images: Path, tmp_path: Path) -> None:
    rank_pool = RankPool(2, tmp_path / "cache")  # an empty cache: nothing is compiled yet
    try:
        given = options(images, tmp_path / "run", "--max-steps", "1", "--split", "ranks")
        first, second = trained(rank_pool.run(train, given, ranks=2))
    finally:
        rank_pool.close()
    assert first.stderr.count("compiling response normalisation") == 1
    assert second.stdout + second.stderr == ""
