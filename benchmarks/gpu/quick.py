"""The first eight minutes on a GPU: kernels, step, train.py, exactness, with the packages that train.py needs.

    make gpu-quick
    python -m benchmarks.gpu.quick --minutes 8
    python -m benchmarks.gpu.quick --device cpu                tries the page itself, with tiny sizes

Each row is written to benchmarks/results/gpu-quick-NAME.md when it is known, the most important first; a measurement
that fails is told in its row, the others go on, and the exit status is then 1.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.data.augment import centre_crops, subtract_mean
from alexnet_torch.model.architecture import PAPER
from alexnet_torch.model.dropout import MaskPosition, dropout, dropout_mask
from alexnet_torch.model.response_norm import response_norm
from alexnet_torch.run_folder import CHECKPOINTS, METRICS
from alexnet_torch.training.step import step_inputs
from benchmarks.gpu.commands import run_python
from benchmarks.gpu.plan import IMAGENET_IMAGES, PAPER_EPOCHS
from benchmarks.harness.measure import time_call
from benchmarks.harness.our_step import our_step, our_trainer
from benchmarks.harness.photographs import make_photographs, repeated
from benchmarks.harness.report import PROJECT, RESULTS, machine_description, read_records
from benchmarks.harness.rival_nets import plain_step, torchvision_net

Row = tuple[str, Callable[[], str]]  # what is measured, and the measurement
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Quick:
    """The measurements on one device; on a CPU they are tiny, and no number means anything."""

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder, self.is_gpu = torch.device(device), folder, device.startswith("cuda")
        self.batch, self.images = (128, 20_480) if self.is_gpu else (2, 32)
        self.size = 224 if self.is_gpu else 64

    def rows(self) -> Iterator[Row]:
        """Yields all measurements, the most important first."""
        for (name, dtype), kernel in product(TYPES.items(), ("norm", "dropout")):
            yield f"{kernel}, {name}", partial(self.kernel, kernel, dtype)
        yield "pixels to images, fp32", self.pixels
        for precision, compiled, ours in product(("fp32", "tf32", "bf16"), (False, True), (True, False)):
            how = ("captured" if ours else "compiled") if compiled else "eager"
            yield (
                f"step, {'ours' if ours else 'torchvision'}, {how}, {precision}",
                partial(self.step, precision, compiled, ours),
            )
        for precision in ("fp32", "bf16"):
            yield f"train.py, {precision}", partial(self.train, precision)
        yield "loader to device", self.load
        yield "loss of the first steps, against the CPU's", self.same_as_cpu
        yield "kill -9 and --resume", self.kill_and_resume
        yield "towers on this device and on the CPU", self.two_devices

    def kernel(self, kernel: str, dtype: torch.dtype) -> str:
        """Compares a kernel, forward and backward, with torch in float64; gives its bytes/s beside a copy's."""
        shape = (4096,) if kernel == "dropout" else (48, 55, 55)
        x = 3 * torch.randn(self.batch, *shape, device=self.device).to(dtype)
        x = x if x.ndim == 2 else x.contiguous(memory_format=torch.channels_last)
        norm, position = PAPER.norm, MaskPosition(0.5, torch.tensor(12345, device=self.device), 0, 0)
        kept = dropout_mask(x[:4].shape, *position)

        def ours(x: Tensor) -> Tensor:
            return dropout(x, position, relu=True) if kernel == "dropout" else response_norm(x, norm, relu=True)

        def exact(x: Tensor) -> Tensor:
            if kernel == "dropout":
                return F.relu(x) * kept * 2
            return F.local_response_norm(F.relu(x), norm.window, norm.alpha, norm.beta, norm.k)

        results = []
        for function, value in ((ours, x[:4]), (exact, x[:4].double())):
            value = value.detach().requires_grad_()
            y = function(value)
            gradient = torch.autograd.grad(y, value, torch.ones_like(y))[0]
            results.append((y.detach().double(), gradient.double()))
        errors = [float((mine - right).abs().max() / right.abs().max()) for mine, right in zip(*results, strict=True)]
        seconds, copy = self.seconds(partial(ours, x)), self.seconds(x.clone)
        rate = f"{2 * x.nbytes / seconds / 1e9:,.0f} GB/s forward, a copy {2 * x.nbytes / copy / 1e9:,.0f}"
        return f"largest error {errors[0]:.1e} forward, {errors[1]:.1e} backward; {rate}"

    def pixels(self) -> str:
        """Measures the way from uint8 crops to float images."""
        pixels = torch.randint(0, 256, (self.batch, self.size, self.size, 3), dtype=torch.uint8, device=self.device)
        mean, crops = torch.full((256, 256, 3), 120.0, device=self.device), centre_crops(self.batch, 256, self.size)
        seconds = self.seconds(partial(subtract_mean, pixels, crops, mean))
        exact = (pixels.double() - 120).permute(0, 3, 1, 2)
        error = float((subtract_mean(pixels, crops, mean).double() - exact).abs().max())
        return f"largest error {error:.1e}; {5 * pixels.nbytes / seconds / 1e9:,.0f} GB/s"

    def step(self, precision: str, compiled: bool, ours: bool) -> str:
        """Measures the training step on images that are on the device."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        amp = "bf16" if precision == "bf16" else None
        if ours:
            run = our_step(self.size, [str(self.device)], precision, compiled, self.batch)
        else:
            rival = torchvision_net().to(self.device)
            run = plain_step(torch.compile(rival) if compiled else rival, amp)  # type: ignore[arg-type]
        images = torch.randn(self.batch, 3, self.size, self.size, device=self.device)
        labels = torch.arange(self.batch, device=self.device)
        step = partial(run, images.to(memory_format=torch.channels_last), labels)
        for _ in range(5 if self.is_gpu else 1):
            step()
        seconds = self.seconds(step)
        text = f"{self.batch / seconds:,.0f} images/s, {1e3 * seconds:.2f} ms"
        if self.is_gpu:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                step()
                torch.cuda.synchronize()
            names = [event.name for event in profile.events()]
            launches = sum(name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")) for name in names)
            text += f", {launches} launches"
            text += f", {torch.cuda.max_memory_reserved() / 2**30:.2f} GiB reserved"
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.empty_cache()
        return text

    def train(self, precision: str) -> str:
        """Measures train.py with its input path, from the second epoch on."""
        run = self.run(f"train-{precision}", "--precision", precision, "--epochs", "3")
        reports = [r for r in read_records(run / METRICS) if r["split"] == "train" and r["epoch"] > 1]
        rate = statistics.median(float(report["images_per_second"]) for report in reports)
        waiting = statistics.median(float(report["data_wait"]) for report in reports)
        hours = PAPER_EPOCHS * IMAGENET_IMAGES / rate / 3600
        return f"{rate:,.0f} images/s, waiting {waiting:.0%}; 90 epochs of ImageNet in {hours:,.1f} h"

    def load(self) -> str:
        """Measures the way from the map of decoded images to float images on the device."""
        self.command("")  # makes the photographs
        paths = {name: str(self.folder / name) for name in ("cache", "loader")}
        given = {"data": str(self.folder / "photographs"), "cache": paths["cache"], "output": paths["loader"]}
        sizes = {"batch_size": self.batch, "image_size": self.size, "devices": str(self.device)}
        trainer = our_trainer({**given, **sizes})

        def epoch() -> None:
            for batch in trainer.train_loader.epoch(1):
                step_inputs(batch, trainer.net.dropout_keys(0, 0), trainer.mean)
            if self.is_gpu:
                torch.cuda.synchronize()

        rate = self.images / min(time_call(epoch) for _ in range(2))
        locked = torch.cuda.host_memory_stats()["allocated_bytes.peak"] / 2**30 if self.is_gpu else 0.0
        return f"{rate:,.0f} images/s, {locked:.2f} GiB page-locked"

    def same_as_cpu(self) -> str:
        """Compares the losses of ten steps with those of the CPU."""
        given = ["--recipe", "demo", "--max-steps", "10", "--log-every", "1", "--batch-size", "8"]
        losses = []
        for output, name in (("here", str(self.device)), ("cpu", "cpu")):
            run = self.run(output, *given, devices=name)
            losses.append([float(r["loss"]) for r in read_records(run / METRICS) if r["split"] == "train"])
        differences = [abs(a - b) / b for a, b in zip(*losses, strict=True)]
        return f"largest difference of ten {max(differences):.1e}"

    def kill_and_resume(self) -> str:
        """Kills a run after its first checkpoint, resumes it, and compares the weights with an uninterrupted run's."""
        given = ["--recipe", "demo", "--epochs", "2", "--batch-size", "8", "--max-steps", "24"]
        whole = self.run("whole", *given)
        line, output = self.command("killed", *given, "--save-every", "0.001")
        process = subprocess.Popen([sys.executable, *line], cwd=PROJECT, stdout=subprocess.DEVNULL)
        while process.poll() is None and not list((output / CHECKPOINTS).glob("*.pt")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
        run_python(["train.py", "--output", str(output), "--resume"], 120)
        same = (whole / "model.pt").read_bytes() == (output / "model.pt").read_bytes()
        if not (killed and same):
            raise ValueError(f"killed: {killed}; model.pt is the same: {same}")
        return "model.pt has the same bytes"

    def two_devices(self) -> str:
        """Runs one tower here and one on the CPU, and compares the losses."""
        given = ["--recipe", "demo", "--max-steps", "5", "--log-every", "1", "--batch-size", "8"]
        runs = [self.run("one", *given), self.run("two", *given, devices=f"{self.device},cpu")]
        losses = [[float(r["loss"]) for r in read_records(run / METRICS) if r["split"] == "train"] for run in runs]
        return f"largest difference of five losses {max(abs(a - b) / b for a, b in zip(*losses, strict=True)):.1e}"

    def seconds(self, work: Callable[[], object]) -> float:
        """Returns the median seconds of a call, of five rounds."""
        calls, rounds = (20, 5) if self.is_gpu else (1, 1)

        def round_of_calls() -> None:
            for _ in range(calls):
                work()
            if self.is_gpu:
                torch.cuda.synchronize()

        round_of_calls()
        return statistics.median(time_call(round_of_calls) for _ in range(rounds)) / calls

    def command(self, name: str, *given: str, devices: str | None = None) -> tuple[list[str], Path]:
        """Returns the command line of a run on generated photographs, and its folder."""
        data, output = self.folder / "photographs", self.folder / name
        if not data.exists():
            repeated(make_photographs(self.folder / "made", min(self.images, 240)), data, self.images)
        paths = ["--data", str(data), "--cache", str(self.folder / "cache"), "--output", str(output)]
        sizes = [] if "--recipe" in given else ["--batch-size", str(self.batch), "--image-size", str(self.size)]
        options = ["--devices", devices or str(self.device), "--lr", "1e-4", "--log-every", "5", *sizes]
        return ["train.py", *paths, *options, *given], output

    def run(self, name: str, *given: str, devices: str | None = None) -> Path:
        """Runs train.py to its end; returns the run's folder."""
        line, output = self.command(name, *given, devices=devices)
        run_python(line, 240)
        return output


def write_page(rows: Iterator[Row], file: Path, minutes: float, head: str) -> int:
    """Measures row by row and writes each at once; returns the number of failures, leaving out what time forbids."""
    deadline, failures = time.monotonic() + 60 * minutes, 0
    file.write_text(f"{head}\n\n| what | result |\n| --- | --- |\n")
    for what, measure in rows:
        try:
            result = measure() if time.monotonic() < deadline else f"not measured: {minutes:g} minutes are over"
        except Exception as error:  # whatever it is, the other rows go on, and the status tells
            cause = str(error).partition("\n")[0].replace("|", "\\|")
            result, failures = f"**failed**: {type(error).__name__}: {cause}", failures + 1
        print(f"{what}: {result}", flush=True)
        with file.open("a") as page:
            page.write(f"| {what} | {result} |\n")
    return failures


def main() -> int:
    """Measures and writes the page; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("make gpu-quick: no GPU computes here; --device cpu tries the page", file=sys.stderr)
        return 2
    model = torch.cuda.get_device_name(given.device) if given.device.startswith("cuda") else "dry-run-on-a-cpu"
    head = f"`python -m benchmarks.gpu.quick`: {model}\n\n{machine_description(os.cpu_count() or 1)}"
    file = given.output / f"gpu-quick-{re.sub('[^a-z0-9]+', '-', model.lower())}.md"
    folder = Path(tempfile.mkdtemp())
    try:
        failures = write_page(Quick(given.device, folder).rows(), file, given.minutes, head)
    finally:
        shutil.rmtree(folder)
    print(f"{file}: {failures} failure(s)")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
