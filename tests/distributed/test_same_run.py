"""A run has the same losses, validation and weights in any placement, and continues in any other."""

from pathlib import Path

import pytest

from tests.support.narrow_train import train
from tests.support.placement_runs import PLACEMENTS, Run, free_port, options, torchrun, trained
from tests.support.rank_pool import RankPool, returned_values

EVERY_PLACEMENT = pytest.mark.parametrize("placement", PLACEMENTS)

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
    names = list(PLACEMENTS)
    following = names[(names.index(placement) + 1) % len(names)]
    output = tmp_path / "run"
    for where, fault, more in ((placement, "1:7:terminate", LONG), (following, "0:18:terminate", ("--resume",))):
        ranks, split = PLACEMENTS[where]
        given = options(images, output, *more, "--split", split)
        results = rank_pool.run(train, given, ranks=ranks, double=True, environment={"FAULT": fault})
        assert returned_values(results) == [143] * ranks
        assert "".join(result.stderr for result in results).count("continue with --resume") == 1
    assert 18 < Run.of(output).reports[-1]["step"] < 25
    trained(rank_pool.run(train, options(images, output, "--resume", "--split", "auto"), ranks=1, double=True))
    Run.of(output).require_close(in_double, IN_DOUBLE)


@pytest.mark.parametrize(
    ("placement", "more"),
    [
        ("four slices", ("--freeze", "conv1..conv3")),
        ("two by two", ("--freeze", "fc6")),
        ("hybrid at four", ("--freeze", "conv1..conv5")),  # no gradient is added up
        ("hybrid at two", ("--freeze", "fc8")),
        ("two by two", ("--init", "INIT", "--init-stages", "conv1..conv5")),
        ("hybrid at four", ("--init", "INIT")),
        ("four slices", ("--ablation", "never-meet")),
        ("hybrid at four", ("--ablation", "never-meet")),
        ("two by two", ("--ablation", "never-meet")),
        ("hybrid at four", ("--ablation", "one-tower")),
    ],
)
def test_options_mean_the_same_in_every_placement(
    placement: str, more: tuple[str, ...], images: Path, in_double: Run, rank_pool: RankPool, tmp_path: Path
) -> None:
    del in_double  # INIT is its run
    ranks, split = PLACEMENTS[placement]
    more = (*(str(images.parent / "double") if word == "INIT" else word for word in more), "--max-steps", "6")
    trained(rank_pool.run(train, options(images, tmp_path / "one", *more), ranks=1, double=True))
    trained(rank_pool.run(train, options(images, tmp_path / "run", *more, "--split", split), ranks=ranks, double=True))
    Run.of(tmp_path / "run").require_close(Run.of(tmp_path / "one"), IN_DOUBLE)


def test_adam_in_three_pieces_resumes_in_one(images: Path, rank_pool: RankPool, tmp_path: Path) -> None:
    """Its count of steps is a scalar, equal in all pieces."""
    more = ("--recipe", "tensorflow-post", "--image-size", "64", "--lr", "0.001", "--max-steps", "12")
    trained(rank_pool.run(train, options(images, tmp_path / "one", *more), ranks=1, double=True))
    given = options(images, tmp_path / "run", *more, "--split", "hybrid")
    stopped = rank_pool.run(train, given, ranks=3, double=True, environment={"FAULT": "2:6:terminate"})
    assert returned_values(stopped) == [143] * 3
    trained(rank_pool.run(train, [*given, "--split", "none", "--resume"], ranks=1, double=True))
    Run.of(tmp_path / "run").require_close(Run.of(tmp_path / "one"), IN_DOUBLE)


@pytest.mark.parametrize(
    "placement", ["two by two", "hybrid at four", pytest.param("four slices", marks=pytest.mark.slow)]
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    placement: str, images: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    """Sums over three ranks or more depend on how gradients are packed in buckets, which must not change."""
    ranks, split = PLACEMENTS[placement]
    uninterrupted = options(images, tmp_path / "uninterrupted", *LONG, "--split", split)
    trained(rank_pool.run(train, uninterrupted, ranks=ranks))
    given = options(images, tmp_path / "run", *LONG, "--split", split)
    assert (
        returned_values(rank_pool.run(train, given, ranks=ranks, environment={"FAULT": "1:7:terminate"}))
        == [143] * ranks
    )
    trained(rank_pool.run(train, [*given, "--resume"], ranks=ranks))
    Run.of(tmp_path / "run").require_equal(Run.of(tmp_path / "uninterrupted"))
    models = [(tmp_path / name / "model.pt").read_bytes() for name in ("run", "uninterrupted")]
    assert models[0] == models[1]


@pytest.mark.parametrize("placement", ["two slices", "hybrid at four"])
def test_images_decoded_by_worker_processes_are_the_same(
    placement: str, images: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    ranks, split = PLACEMENTS[placement]
    more = ("--max-steps", "7")
    trained(rank_pool.run(train, options(images, tmp_path / "one", *more), ranks=1, double=True))
    given = options(images, tmp_path / "run", *more, "--split", split, "--cache", "none")
    trained(rank_pool.run(train, given, ranks=ranks, double=True))
    Run.of(tmp_path / "run").require_close(Run.of(tmp_path / "one"), IN_DOUBLE)


@pytest.mark.parametrize(
    ("processes", "split", "launch"),
    [
        (1, "ranks", ("--node_rank={machine}", "--master_addr=127.0.0.1", "--master_port={port}")),
        pytest.param(2, "ranks", ("--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:{port}"), marks=pytest.mark.slow),
        pytest.param(2, "hybrid", ("--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:{port}"), marks=pytest.mark.slow),
    ],
)
def test_two_machines(
    processes: int, split: str, launch: tuple[str, ...], images: Path, in_double: Run, tmp_path: Path
) -> None:
    """The second machine names another folder, where nothing is written."""
    port, agents = free_port(), []
    for machine in range(2):
        given = options(images, tmp_path / f"machine{machine}", *LONG, "--split", split)
        nodes = ["--nnodes=2", f"--nproc_per_node={processes}"]
        nodes += [option.format(machine=machine, port=port) for option in launch]
        agents.append(torchrun(nodes, given, {"DOUBLE": "1"}))
    outputs = [agent.communicate(timeout=150) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    Run.of(tmp_path / "machine0").require_close(in_double, IN_DOUBLE)
    assert sum(out.count("starting from") for out, _ in outputs) == 1
    assert not (tmp_path / "machine1").exists()


@pytest.mark.slow
def test_one_rank_of_a_machine_compiles_and_prints_it(images: Path, tmp_path: Path) -> None:
    rank_pool = RankPool(2, tmp_path / "cache")  # an empty cache: nothing is compiled yet
    try:
        given = options(images, tmp_path / "run", "--max-steps", "1", "--split", "ranks")
        first, second = trained(rank_pool.run(train, given, ranks=2))
    finally:
        rank_pool.close()
    assert first.stderr.count("compiling response normalisation") == 1
    assert second.stdout + second.stderr == ""
