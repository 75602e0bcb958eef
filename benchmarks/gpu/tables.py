"""The tables of speed: the step alone beside rivals, and runs with the input path in every placement."""

import math
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from alexnet_torch.run_folder import METRICS
from benchmarks.gpu.commands import MeasurementFailed, measured, run_python
from benchmarks.gpu.links import counted_traffic
from benchmarks.gpu.plan import IMAGENET_IMAGES, PAPER_EPOCHS, PAPER_IMAGES_PER_SECOND, Placement, Plan
from benchmarks.harness.photographs import make_photographs, repeated
from benchmarks.harness.report import markdown_table, read_records

Row = tuple[str, ...]
_NETS = {
    "ours, one device": ("ours", 1),
    "ours, two devices": ("ours", 2),
    "torchvision's alexnet (no norm)": ("torchvision", 1),
    "plain paper net, channels_last": ("plain-channels-last", 1),
    "plain paper net": ("plain", 1),
}


def attempt(name: str, failures: list[str], columns: int, work: Callable[[], Row]) -> Row:
    """Returns a row of a table, or one that says why it could not be measured, and adds this to the failures."""
    try:
        return (name, *work())
    except (MeasurementFailed, OSError, ValueError, KeyError) as error:
        failures.append(f"{name}: {error}")
        return (name, f"**failed**: {error}", *[""] * (columns - 2))


def steps_section(plan: Plan) -> tuple[str, list[str]]:
    """Measures the step alone; returns its table and a line for each measurement that failed."""
    columns = ("net", "images/s", "ms a step", "ours on one device is faster by", "memory, GiB a device")
    failures, rows = list[str](), list[Row]()
    for precision, compiled in product(plan.precisions, plan.compiled):
        rates: list[float] = []  # ours on one device first
        for name, (net, devices) in _NETS.items():
            if devices <= plan.gpus:
                title = f"{name}, {precision}, {'compiled' if compiled else 'eager'}"
                work = partial(_step, plan, net, devices, precision, compiled, rates)
                rows.append(attempt(title, failures, len(columns), work))
    return markdown_table(columns, rows), failures


def _step(plan: Plan, net: str, devices: int, precision: str, compiled: bool, rates: list[float]) -> Row:
    names = ",".join(plan.device_names(devices))
    given = ["--net", net, "--devices", names, "--precision", precision, *["--compile"] * compiled]
    given += ["--batch-size", str(plan.batch), "--steps", str(plan.steps)]
    rates.append(math.nan)  # if it fails
    (result,) = measured(run_python(("-m", "benchmarks.gpu.step", *given), plan.limit))
    rates[-1] = float(result["images_per_second"])
    faster = "" if math.isnan(rates[0]) else f"{rates[0] / rates[-1]:.2f}"
    return f"{rates[-1]:,.1f}", f"{1e3 * plan.batch / rates[-1]:.2f}", faster, _gib([result])


def runs_section(plan: Plan) -> tuple[str, list[str]]:
    """Measures train.py with its input path; returns the table and a line for each run that failed."""
    columns = ("placement", "batch", "images/s", "waiting for images", "GiB a device", "90 epochs of ImageNet", "sent")
    failures, rows = list[str](), list[Row]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = make_photographs(folder / "made", min(plan.images, 240))
        data = repeated(made, folder / "photographs", plan.images)  # a run reads each under many names
        for placement, precision in product(plan.placements(), ("tf32", "bf16")):
            title = f"{placement.name}, --precision {precision}"
            rows.append(attempt(title, failures, len(columns), partial(_run, plan, placement, folder, data, precision)))
    note = f"The paper's two GTX 580 computed about {PAPER_IMAGES_PER_SECOND:.0f} images/s in 2012."
    return f"{markdown_table(columns, rows)}\n\n{note}", failures


def _run(plan: Plan, placement: Placement, folder: Path, data: Path, precision: str) -> Row:
    batch, output = plan.batch * placement.gpus, Path(tempfile.mkdtemp(dir=folder)) / "run"
    given = ["--data", str(data), "--cache", str(folder / "cache"), "--output", str(output), "--split", placement.split]
    given += ["--batch-size", str(batch), "--epochs", str(plan.epochs), "--image-size", str(plan.image_size)]
    given += ["--lr", "1e-4"]  # for tiny batches, too, which would diverge at the recipe's
    given += ["--log-every", str(max(1, plan.images // batch // 4)), "--val-every", str(plan.epochs)]
    given += ["--precision", precision]
    devices = placement.devices or (("cpu",) if plan.kind == "cpu" else ())
    given += ["--devices", ",".join(devices)] if devices else []
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={placement.processes}"] if placement.processes else []
    with counted_traffic(placement.gpus if plan.kind == "cuda" else 0) as traffic:
        printed = run_python([*launch, "-m", "benchmarks.gpu.measured_train", *given], plan.limit)
    # the first epoch compiles, chooses algorithms and reads the map for the first time
    reports = [r for r in read_records(output / METRICS) if r["split"] == "train" and r["epoch"] > 1]
    rate = statistics.median(float(report["images_per_second"]) for report in reports)
    waiting = statistics.median(float(report["data_wait"]) for report in reports)
    hours = PAPER_EPOCHS * IMAGENET_IMAGES / rate / 3600
    shutil.rmtree(output)  # checkpoints of many runs would fill the disk
    sent = traffic.describe().replace("|", "\\|")
    return str(batch), f"{rate:,.1f}", f"{waiting:.0%}", _gib(measured(printed)), f"{hours:,.1f} h", sent


def _gib(results: list[dict[str, Any]]) -> str:
    return ", ".join(f"{value:.2f}" for result in results for value in result["gib"])
