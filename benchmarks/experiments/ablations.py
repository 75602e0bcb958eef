"""What each of the paper's choices is worth: the full net and its ablations, trained in the same way on some seeds.

    python -m benchmarks.experiments.ablations tiny-imagenet-10 --epochs 4

Trains at 64 pixels by recipe demo, with its schedule shortened to the epochs, and with the paper's colour noise, which
one ablation removes. Prints a table in Markdown. Each finished training is saved as a line of JSON in the folder that
--output names; the same command continues with those that are missing.
"""

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro

from alexnet_torch.console import StopSignal
from alexnet_torch.data.pca_noise import PCANoise
from alexnet_torch.errors import Diverged, Interrupted, RunError, TrainingError, UserError
from alexnet_torch.recipes.catalogue import demo
from alexnet_torch.recipes.recipe import EpochSchedule, Recipe, apply_ablation
from alexnet_torch.run_folder import CHECKPOINTS, METRICS
from benchmarks.harness.our_step import our_trainer
from benchmarks.harness.report import append_record, markdown_table, read_records, saved_records

RESULTS = "results.jsonl"
FULL = "full"
CONTINUED = {"full-init": None, "sixth-conv-init": "sixth-conv"}
"""Nets that start with conv1 to conv5 of their seed's full net, and their ablation. The first shows how much of the
second's gain comes from training twice."""

PAPER = {
    FULL: "40.7%",
    "no-norm": "+1.4",
    "plain-pooling": "+0.4",
    "one-tower": "+1.7 (ILSVRC-2010)",
    "never-meet": "+1.2",
    "no-colour": "over +1",
    "no-dropout": "overfits",
    "tanh": "6 times slower (CIFAR-10)",
    "no-conv4": "about +2",
    "sixth-conv": "",
    "full-init": "",
    "sixth-conv-init": "-1.7 (from ILSVRC-2011)",
}
"""All nets in the table's order, with the paper's top-1 error or the difference from it in points, where it is given.

On ILSVRC-2012's validation set with ten crops unless noted; from the paper, and from the 2012 source's notes on nets
145, 146, 147, 148 and 150.
"""


@dataclass(frozen=True)
class Options:
    """What to compare, and on what."""

    data: tyro.conf.Positional[str]  # a folder of images, or "digits"
    epochs: int = 8  # of each training
    seeds: tuple[int, ...] = (0, 1, 2)  # each net is trained once with each seed
    nets: tuple[str, ...] = tuple(PAPER)  # nets to train; the others are compared with "full"
    jobs: int = 2  # trainings that run at the same time; they share the cores
    output: Path = Path("runs/ablations")  # the folder of the results


@dataclass(frozen=True)
class Result:
    """The result of one training, which the first four fields identify."""

    data: str
    epochs: int
    net: str
    seed: int
    top1_error: float | None  # a fraction, of the last weights on the validation images; None: it diverged
    training_error: float | None  # mean over the last epoch's batches, each measured before its update
    seconds: float


def recipe(net: str, epochs: int) -> Recipe:
    """Returns a net's recipe: demo with colour noise, with its schedule shortened in proportion to the epochs."""
    base = demo()
    assert isinstance(base.schedule, EpochSchedule)
    factors = tuple((math.ceil(start * epochs / base.epochs), factor) for start, factor in base.schedule.factors)
    full = replace(base, schedule=EpochSchedule(factors), epochs=epochs, colour=PCANoise("paper"))
    return apply_ablation(full, {FULL: None, **CONTINUED}.get(net, net))


def train(options: Options, net: str, seed: int) -> Result:
    """Trains a net from the start, in this process; its output goes to log.txt in its folder."""
    start, folder = time.monotonic(), options.output / f"{net}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted training
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        errors = _train_in(options, net, seed, folder)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    if net != FULL:  # other nets start from the full net's model
        shutil.rmtree(folder)
    return Result(options.data, options.epochs, net, seed, *errors, round(time.monotonic() - start, 1))


def _train_in(options: Options, net: str, seed: int, folder: Path) -> tuple[float | None, float | None]:
    """Trains in a folder; returns the validation and the training error, None for both if the training diverged."""
    own_recipe, stop = recipe(net, options.epochs), StopSignal()
    given = {"data": options.data, "recipe": "demo", "no_mirror": options.data == "digits", "epochs": options.epochs}
    given |= {"colour": "none" if own_recipe.colour is None else own_recipe.colour.convention, "seed": seed}
    given |= {"output": str(folder), "val_every": options.epochs, "save_every": 1e6}
    if net in CONTINUED:
        given |= {"init": str(options.output / f"{FULL}-{seed}"), "init_stages": "conv1..conv5"}
    trainer = our_trainer(given, own_recipe, stop=stop)
    trainer.settings = replace(trainer.settings, log_every=trainer.train_loader.batches_per_epoch)
    try:
        with stop:
            stop.install()
            trainer.fit()
    except Diverged as error:
        print(error)
        return None, None
    except TrainingError as error:
        print(error)
        if trainer.state.step < trainer.last_step:  # at the last step the net is at chance, which is a result
            raise
    reports = read_records(folder / METRICS)
    last = {report["split"]: report["top1_error"] for report in reports if report.get("crops", 1) == 1}
    return last["val"], last["train"]


def saved_results(options: Options) -> list[Result]:
    """Reads the results saved so far; a UserError says that they have other images or another number of epochs."""
    records = saved_records(options.output / RESULTS, data=options.data, epochs=options.epochs)
    return [Result(**record) for record in records]


def train_missing(options: Options) -> None:
    """Trains the nets that have no result yet, and saves each result; several jobs are processes of this command."""
    done = {(result.net, result.seed) for result in saved_results(options)}
    missing = [(net, seed) for seed in options.seeds for net in options.nets if (net, seed) not in done]
    options.output.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // options.jobs))}
    command = [sys.executable, "-m", "benchmarks.experiments.ablations", options.data, "--jobs", "1"]
    command += ["--epochs", str(options.epochs), "--output", str(options.output)]

    def run(job: tuple[str, int]) -> None:
        line = [*command, "--nets", job[0], "--seeds", str(job[1])]
        subprocess.run(line, env=environment, check=True, stdout=subprocess.DEVNULL)
        print(f"{job[0]}, seed {job[1]}: done", flush=True)

    for continued in (False, True):  # the second group needs the models of the first
        group = [job for job in missing if (job[0] in CONTINUED) == continued]
        if options.jobs > 1:
            with ThreadPoolExecutor(options.jobs) as pool:
                list(pool.map(run, group))
        for job in group if options.jobs == 1 else ():  # in this thread, which gets the signals
            append_record(options.output / RESULTS, asdict(train(options, *job)))


def mean_and_error(values: list[float], sign: str = "", of_mean: bool = False) -> str:
    """Returns the mean of fractions in percent, and their standard deviation or the mean's."""
    mean = f"{100 * statistics.fmean(values):{sign}.1f}" if values else ""
    scale = 100 / math.sqrt(len(values)) if of_mean and values else 100
    return f"{mean} ± {scale * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def difference(errors: dict[int, float], full: dict[int, float]) -> str:
    """Returns the mean difference of errors by seed, over the seeds that both have, in points, with its error."""
    return mean_and_error([errors[seed] - full[seed] for seed in sorted(set(errors) & set(full))], "+", of_mean=True)


def table(results: list[Result]) -> str:
    """Returns the results in Markdown: mean and standard deviation over the seeds, beside the paper's."""
    by_net = {net: [result for result in results if result.net == net] for net in PAPER}
    errors = {net: {r.seed: r.top1_error for r in rs if r.top1_error is not None} for net, rs in by_net.items()}
    rows = []
    for net, trained in by_net.items():
        if trained:
            top1 = mean_and_error(list(errors[net].values())) or "diverged"
            training = mean_and_error([r.training_error for r in trained if r.training_error is not None])
            seeds = f"{len(errors[net])} of {len(trained)}" if len(errors[net]) < len(trained) else str(len(trained))
            worse = difference(errors[net], errors[FULL]) if net != FULL else ""
            rows.append((net, seeds, top1, training, worse, PAPER[net]))
    columns = ("net", "seeds", "top-1 error, %", "training error, %", "difference in top-1, points", "the paper's")
    return markdown_table(columns, rows)


def main(options: Options) -> int:
    """Trains the missing nets and prints the table; returns the exit status."""
    program = "benchmarks.experiments.ablations"
    try:
        if unknown := set(options.nets) - set(PAPER):
            raise UserError(f"--nets: {sorted(unknown)} do not exist; choose from {', '.join(PAPER)}")
        train_missing(options)
    except Interrupted as error:
        print(f"{program}: stopped; the same command starts this training again", file=sys.stderr)
        return error.exit_status
    except RunError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_status
    except subprocess.CalledProcessError as failed:  # it has printed why
        return failed.returncode
    print(table(saved_results(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
