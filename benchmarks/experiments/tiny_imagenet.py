"""Tiny ImageNet's 200 classes: accuracy against processor time, of recipe tiny-imagenet and of the usual way.

    OMP_NUM_THREADS=1 python -m benchmarks.experiments.tiny_imagenet ours tiny-imagenet-200
    OMP_NUM_THREADS=1 python -m benchmarks.experiments.tiny_imagenet usual tiny-imagenet-200 --epochs 12
    python -m benchmarks.experiments.tiny_imagenet plot tiny-imagenet-200

The usual way is torchvision.models.alexnet with the steps, rates, transforms and loader of pytorch/examples' ImageNet
script (`--arch alexnet --lr 0.01`). Changed for images of 64 pixels: crops of 64 in training and whole images in
validation, not 224 of 256; 200 classes; the rate falls at a third and two thirds of the epochs, as at 30 and 60 of 90.
Each command continues where it was stopped. Processor time is that of all processes, with decoding and validation.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.models import alexnet

from alexnet_torch.run_folder import METRICS
from benchmarks.harness.report import RESULTS, TRAIN_SCRIPT, append_record, markdown_table, read_records, save_result

OURS, USUAL = "recipe tiny-imagenet", "torchvision's alexnet, pytorch/examples' script"
IMAGES = 100_000  # in an epoch


def points_file(name: str) -> Path:
    """Returns the file of a contender's points: a line of JSON for each epoch."""
    return RESULTS / f"tiny_imagenet_{name}.jsonl"


def add_point(name: str, epoch: int, cpu_seconds: float, top1_error: float, top5_error: float) -> None:
    """Adds an epoch to a contender's points."""
    point = {"epoch": epoch, "images": epoch * IMAGES, "cpu_seconds": round(cpu_seconds, 1)}
    append_record(points_file(name), point | {"top1_error": top1_error, "top5_error": top5_error})
    print(point, f"top-1 error {top1_error:.2%}", flush=True)


def process_seconds(pid: int) -> float:
    """Returns the processor time of a process and of all its children, from Linux's /proc."""
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rpartition(")")[2].split()  # 11 to 14: its own, and of ended children
    running = (process / f"task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(
        process_seconds(int(child)) for child in running
    )


def train_ours(data: Path, output: Path, epochs: int | None, seed: int) -> None:
    """Runs train.py, a tower in each of two processes, and reads the time that they have used at each validation."""
    known = read_records(points_file("ours"))
    earlier = known[-1]["cpu_seconds"] if known else 0.0
    ranks = ["-m", "torch.distributed.run", "--nproc_per_node=2", str(TRAIN_SCRIPT), "--split", "ranks"]
    command = [sys.executable, *ranks, "--output", str(output)]
    command += ["--resume"] if known else ["--data", str(data), "--recipe", "tiny-imagenet", "--seed", str(seed)]
    command += ["--epochs", str(epochs)] if epochs and not known else []
    with subprocess.Popen(command) as run:
        while run.poll() is None:
            time.sleep(2)
            seconds = earlier + process_seconds(run.pid)
            validations = [record for record in read_records(output / METRICS) if record["split"] == "val"]
            for record in validations:  # the last one is there again, from the test of the best weights
                if record["epoch"] > len(known):
                    add_point("ours", round(record["epoch"]), seconds, record["top1_error"], record["top5_error"])
                    known = read_records(points_file("ours"))
    if run.returncode:
        sys.exit(run.returncode)


def usual_sets(data: Path) -> tuple[ImageFolder, ImageFolder]:
    """Returns the training and the official validation images, with the usual transforms."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    tensor = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    augmented = [transforms.RandomResizedCrop(64), transforms.RandomHorizontalFlip(), *tensor]
    train = ImageFolder(str(data / "train"), transforms.Compose(augmented))
    val = ImageFolder(str(data / "train"), transforms.Compose(tensor))
    rows = [line.split("\t")[:2] for line in (data / "val/val_annotations.txt").read_text().splitlines()]
    val.samples = [(str(data / "val/images" / file), val.class_to_idx[wnid]) for file, wnid in rows]
    return train, val


@torch.no_grad()
def usual_errors(net: torch.nn.Module, images: DataLoader[Any]) -> tuple[float, float]:
    """Returns top-1 and top-5 error."""
    net.eval()
    wrong = torch.zeros(2)
    for batch, labels in images:
        hits = net(batch).topk(5).indices == labels[:, None]  # (N, 5)
        wrong += torch.stack([(~hits[:, :1].any(1)).sum(), (~hits.any(1)).sum()])
    top1, top5 = (wrong / 10_000).tolist()
    return top1, top5


def train_usual(data: Path, output: Path, epochs: int, seed: int) -> None:
    """Trains with torch's SGD; its checkpoint is replaced after each epoch."""
    torch.manual_seed(seed)
    train, val = usual_sets(data)
    train_images = DataLoader(train, 256, shuffle=True, num_workers=1)
    val_images = DataLoader(val, 256, num_workers=1)
    net = alexnet(num_classes=200)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [-(-epochs // 3), -(-2 * epochs // 3)])
    saved, parts = output / "usual.pt", {"net": net, "optimizer": optimizer, "schedule": schedule}
    known, clock = read_records(points_file("usual")), _clock()
    earlier = known[-1]["cpu_seconds"] if known else 0.0
    if known:
        content = torch.load(saved, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(content[name])
        torch.manual_seed(seed + len(known))
    for epoch in range(len(known), epochs):
        net.train()
        for batch, labels in train_images:
            loss = F.cross_entropy(net(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        errors = usual_errors(net, val_images)
        output.mkdir(parents=True, exist_ok=True)
        torch.save({name: part.state_dict() for name, part in parts.items()}, saved.with_suffix(".tmp"))
        saved.with_suffix(".tmp").replace(saved)
        add_point("usual", epoch + 1, earlier + clock(), *errors)


def _clock() -> Callable[[], float]:
    """Returns a function of the processor seconds of this process and its workers from now on."""

    def seconds() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(use.ru_utime + use.ru_stime for use in used)

    start = seconds()
    return lambda: seconds() - start


def plot() -> None:
    """Writes the result page with the plot: accuracy of the official validation images against CPU minutes."""
    figure, rows = Figure(figsize=(7, 4), layout="constrained"), []
    axes = figure.subplots()
    for name, label, colour in (("ours", OURS, "#0072B2"), ("usual", USUAL, "#D55E00")):
        points = read_records(points_file(name))
        minutes, accuracy = ([p["cpu_seconds"] / 60 for p in points], [100 * (1 - p["top1_error"]) for p in points])
        axes.plot(minutes, accuracy, "o-", color=colour, label=label)
        for point, minute, percent in zip(points, minutes, accuracy, strict=True):
            row = (label, point["epoch"], f"{point['images']:,}", f"{minute:.1f}", f"{percent:.2f}%")
            rows.append((*row, f"{1 - point['top5_error']:.2%}"))
    axes.axhspan(31.8, 32.9, color="0.85", label="AlexNets that users published")
    axes.set(xlabel="minutes of one CPU core", ylabel="top-1 accuracy, %", ylim=(0, None))
    axes.legend(loc="lower right")
    for suffix in ("png", "svg"):
        figure.savefig(RESULTS / f"tiny_imagenet.{suffix}", dpi=150)
    columns = ("", "epoch", "images seen", "CPU minutes", "top-1 accuracy", "top-5")
    save_result(1, f"![accuracy](tiny_imagenet.png)\n\n{markdown_table(columns, rows)}")


def main(
    what: tyro.conf.Positional[Literal["ours", "usual", "plot"]],
    data: tyro.conf.Positional[Path],
    output: Path = Path("runs/tiny-imagenet"),
    epochs: int | None = None,
    seed: int = 0,
) -> None:
    """Trains one of the two, or draws what both have reached.

    Args:
        what: the contender, or "plot".
        data: the unpacked tiny-imagenet-200.
        output: the folder of the run, or of the usual way's checkpoint.
        epochs: passes over the training images; by default the recipe's.
        seed: of the random numbers.
    """
    if what == "plot":
        plot()
    elif what == "ours":
        train_ours(data, output, epochs, seed)
    else:
        train_usual(data, output, epochs or 12, seed)


if __name__ == "__main__":
    tyro.cli(main)
