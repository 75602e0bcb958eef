"""What each of the paper's choices is worth: the full net and its ablations, trained alike on some seeds.

    python -m benchmarks.experiments.ablations ../shared/data/tiny-imagenet-10 --epochs 4

Trains at 64 pixels by recipe demo, its schedule cut to the epochs, with the paper's colour noise so that it
can be taken away. Prints a table in markdown. Each training is kept as a line of JSON when it ends, in the
folder that --output names: the same command goes on after what is there.
"""

import json
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

from alexnet_torch.data.colour import ColourNoise
from alexnet_torch.data.decode import decoded_side
from alexnet_torch.data.digits import data_folder
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.distributed.placement import place
from alexnet_torch.distributed.world import SINGLE_PROCESS
from alexnet_torch.errors import Interrupted, RunError, TrainingError, UserError
from alexnet_torch.recipes.ablations import apply_ablation
from alexnet_torch.recipes.catalogue import demo
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.schedules import EpochSchedule
from alexnet_torch.recipes.settings import resolve
from alexnet_torch.training.launch import build_trainer
from alexnet_torch.training.stop_signal import StopSignal

FULL = "full"
CONTINUED = {"full-init": None, "sixth-conv-init": "sixth-conv"}
"""Nets that start with conv1 to conv5 of the full net of their seed, and their ablation. Without the first,
the second's gain could be that of training twice."""

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
"""All nets in the table's order, with the paper's top-1 error or the difference from it in points, where given.

On ILSVRC-2012's validation set with ten crops if nothing else is said: from the paper, and from the 2012
source's notes on nets 145, 146, 147, 148 and 150.
"""


@dataclass(frozen=True)
class Options:
    """What to compare, and on what."""

    data: tyro.conf.Positional[str]
    """A folder of images, or "digits"."""
    epochs: int = 8
    """Of each training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each net is trained once with each."""
    nets: tuple[str, ...] = tuple(PAPER)
    """Which of them; "full" is what the others are compared with."""
    jobs: int = 2
    """Trainings at a time; the cores are divided among them."""
    output: Path = Path("runs/ablations")
    """Where results are kept."""


@dataclass(frozen=True)
class Result:
    """What a training came to.

    Attributes:
        data, epochs, net, seed: which training.
        top1_error: of its last weights on the validation images, a fraction; None if it diverged.
        training_error: the mean over the last epoch's batches, as they were trained on.
        seconds: that it took.
    """

    data: str
    epochs: int
    net: str
    seed: int
    top1_error: float | None
    training_error: float | None
    seconds: float


def recipe(net: str, epochs: int) -> Recipe:
    """How a net is trained: recipe demo with colour noise, its schedule cut in proportion to the epochs."""
    base = demo()
    assert isinstance(base.schedule, EpochSchedule)
    factors = tuple((math.ceil(start * epochs / base.epochs), factor) for start, factor in base.schedule.factors)
    full = replace(base, schedule=EpochSchedule(factors), epochs=epochs, colour=ColourNoise("paper"))
    return apply_ablation(full, {FULL: None, **CONTINUED}.get(net, net))


def train(options: Options, net: str, seed: int) -> Result:
    """One training from its start, in this process; what it prints goes to log.txt in its folder."""
    started, folder = time.monotonic(), options.output / f"{net}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a training that was cut off
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        top1_error, training_error = _errors(options, net, seed, folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if net != FULL:  # whose model others start from
        shutil.rmtree(folder)
    seconds = round(time.monotonic() - started, 1)
    return Result(options.data, options.epochs, net, seed, top1_error, training_error, seconds)


def _errors(options: Options, net: str, seed: int, folder: Path) -> tuple[float | None, float | None]:
    """Trains; returns the validation and the training error, None for both if it diverged.

    Raises:
        TrainingError: it came to no end for another reason, such as a full disk.
    """
    chosen = recipe(net, options.epochs)
    prepared = prepare(data_folder(options.data), decoded_side(chosen.image_size))
    given = {
        "data": options.data,
        "recipe": "demo",
        "colour": "none" if chosen.colour is None else chosen.colour.convention,
        "no_mirror": options.data == "digits",
        "epochs": options.epochs,
        "seed": seed,
        "output": str(folder),
        "val_every": options.epochs,
        "save_every": math.inf,
        "log_every": math.ceil(len(prepared.train.labels) / chosen.batch_size),  # an epoch
    }
    if net in CONTINUED:
        given |= {"init": str(options.output / f"{FULL}-{seed}"), "init_stages": "conv1..conv5"}
    placement = place(None, chosen.architecture.towers, "none", SINGLE_PROCESS)
    try:
        with StopSignal() as stop:
            stop.install()
            trainer = build_trainer(resolve(given), chosen, prepared, placement, stop=stop)
            trainer.fit()
    except TrainingError as failed:
        print(failed)
        if "diverged" in str(failed):
            return None, None
        if trainer.state.step < trainer.last_step:  # else it is at chance, which is a result
            raise
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = {record["split"]: record["top1_error"] for record in records if record.get("crops", 1) == 1}
    return last["val"], last["train"]


def kept(options: Options) -> list[Result]:
    """The results that are there.

    Raises:
        UserError: they are of other images or another number of epochs.
    """
    file = options.output / "results.jsonl"
    results = [Result(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
    for result in results:
        if (result.data, result.epochs) != (options.data, options.epochs):
            raise UserError(f"--output {options.output}: has results of {result.data}, {result.epochs} epochs")
    return results


def train_missing(options: Options) -> None:
    """Trains what there is no result of, and keeps each result as it comes."""
    done = {(result.net, result.seed) for result in kept(options)}
    missing = [(net, seed) for seed in options.seeds for net in options.nets if (net, seed) not in done]
    missing.sort(key=lambda job: job[0] in CONTINUED)  # those that continue others come after them
    options.output.mkdir(parents=True, exist_ok=True)
    if options.jobs > 1:
        _train_apart(options, missing)
        return
    for net, seed in missing:
        line = json.dumps(asdict(train(options, net, seed))) + "\n"
        with (options.output / "results.jsonl").open("a") as file:
            file.write(line)


def _train_apart(options: Options, missing: list[tuple[str, int]]) -> None:
    """Runs this command for each training, several at a time, in processes that end with it."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, available_cores() // options.jobs))}
    command = [sys.executable, "-m", "benchmarks.experiments.ablations", options.data, "--jobs", "1"]
    command += ["--epochs", str(options.epochs), "--output", str(options.output)]

    def run(job: tuple[str, int]) -> None:
        net, seed = job
        line = [*command, "--nets", net, "--seeds", str(seed)]
        subprocess.run(line, env=environment, check=True, stdout=subprocess.DEVNULL)
        print(f"{net}, seed {seed}: done", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        for continued in (False, True):  # whose models the second group needs
            list(pool.map(run, [job for job in missing if (job[0] in CONTINUED) == continued]))


def _spread(values: list[float]) -> str:
    """Mean and standard deviation, in percent."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def difference(ours: dict[int, float], full: dict[int, float]) -> str:
    """The mean difference over the seeds that both have, in points, with its standard error."""
    both = sorted(set(ours) & set(full))
    if not both:
        return ""
    differences = [100 * (ours[seed] - full[seed]) for seed in both]
    mean = f"{statistics.fmean(differences):+.1f}"
    if len(both) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(differences) / math.sqrt(len(both)):.1f}"


def table(results: list[Result]) -> str:
    """The results in markdown: mean and standard deviation over the seeds, beside the paper's."""
    by_net = {net: [result for result in results if result.net == net] for net in PAPER}
    errors = {net: {r.seed: r.top1_error for r in rs if r.top1_error is not None} for net, rs in by_net.items()}
    lines = [
        "| net | seeds | top-1 error, % | training error, % | difference in top-1, points | the paper's |",
        "|---|---|---|---|---|---|",
    ]
    for net, found in by_net.items():
        if not found:
            continue
        trained = [result.training_error for result in found if result.training_error is not None]
        top1 = _spread(list(errors[net].values())) if errors[net] else "diverged"
        compared = "" if net == FULL else difference(errors[net], errors[FULL])
        seeds = f"{len(errors[net])} of {len(found)}" if len(errors[net]) < len(found) else str(len(found))
        training = _spread(trained) if trained else ""
        lines.append(f"| {net} | {seeds} | {top1} | {training} | {compared} | {PAPER[net]} |")
    return "\n".join(lines)


def main(options: Options) -> int:
    """Trains and prints; returns the exit status."""
    try:
        if unknown := set(options.nets) - set(PAPER):
            raise UserError(f"--nets: there is no {sorted(unknown)}, only {', '.join(PAPER)}")
        train_missing(options)
    except Interrupted as error:
        print("benchmarks.experiments.ablations: stopped; the same command starts this training again", file=sys.stderr)
        return error.exit_status
    except RunError as error:
        print(f"benchmarks.experiments.ablations: {error}", file=sys.stderr)
        return error.exit_status
    except subprocess.CalledProcessError as failed:  # which has said why
        return failed.returncode
    print(table(kept(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
