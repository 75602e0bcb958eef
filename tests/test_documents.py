"""The README's commands run, in their order, in one folder, as a stranger would run them."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from alexnet_torch import CAFFE, cli
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.recipes.catalogue import RECIPES, paper
from tests.support.caffe_files import caffemodel, narrow, random_caffe_weights
from tests.support.commands import run_train
from tests.support.folders import make_images
from tests.support.paths import PROJECT

README = (PROJECT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def made(target: str) -> list[str]:
    """The commands that make would run for a target whose environment is there."""
    line = ["make", "-n", "-o", ".venv/installed", "-o", ".venv/installed-dev", "-C", str(PROJECT), target]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return [
        shlex.join(shlex.split(line)[1:]) for line in done.stdout.splitlines() if line.startswith(".venv/bin/python")
    ]


def run(command: str) -> None:
    """Runs one command of the README; training is cut to a step, for it is tested elsewhere."""
    program, *given = shlex.split(command)
    if program == "make" and given == ["demo"]:
        (training,) = made("demo")
        return run("python " + training.replace(" --resume", ""))
    if program == "make" and given == ["test"]:
        # this very run is its last command
        assert made("test") == ["-m ruff check .", "-m ruff format --check .", "-m mypy", "-m pytest"]
        return None
    if program == "tensorboard":
        line = [sys.executable, "-m", "tensorboard.main", "--inspect", *given]
        shown = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        assert "conv1/tower1" in shown
        return None
    if program == "torchrun":
        script = given.index("train.py")
        line = [*given[:script], str(PROJECT / "train.py"), *given[script + 1 :], "--max-steps", "1"]
        subprocess.run([sys.executable, "-m", "torch.distributed.run", *line], check=True)
        return None
    assert program == "python"
    if given[0] == "train.py":
        done = run_train(*given[1:], "--max-steps", "1")
        assert done.returncode == 0, done.stderr
    elif given[:2] == ["-m", "alexnet_torch"]:
        assert cli.main(given[2:]) == 0
    else:
        assert given[0] == "-m"
        assert (PROJECT / f"{given[1].replace('.', '/')}.py").exists()
    return None


def given_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the files of weights that the README imports into this folder."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.alexnet().state_dict().items()}
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, "alexnet-owt-7be5be79.pth")
    monkeypatch.setitem(PRESETS, "caffe", narrow(CAFFE))  # the whole of it takes half a minute to write and read
    weights = {**random_caffe_weights(), "fc6.weight": torch.randn(48, 16 * 6 * 6)}
    Path("bvlc_alexnet.caffemodel").write_bytes(caffemodel(weights))


def test_every_command_and_example_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = make_images(tmp_path / "photos", classes=2, train=2, val=2)
    for split in ("train", "val"):
        for old, new in (("class0", "ants"), ("class1", "bees")):
            (photos / split / old).rename(photos / split / new)
    shutil.copy(photos / "val/ants/000.png", photos / "val/ants/0.png")
    monkeypatch.chdir(tmp_path)
    at_224 = replace(paper(), architecture=narrow(paper().architecture))
    monkeypatch.setitem(RECIPES, "paper", lambda: at_224)  # what takes the time here is writing 61 million weights
    given_weights(monkeypatch)
    commands = [line for block in blocks("sh") for line in block.splitlines() if line]
    assert len(commands) >= 9
    for command in commands:
        run(command)
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), {})
    assert "photos/val/ants/0.png" in capsys.readouterr().out


def test_files_and_options_that_it_names_are_there() -> None:
    programs = [["train.py"], *(["-m", "alexnet_torch", command] for command in cli.COMMANDS)]
    options = {"--logdir", "--batch-sizes", "--startup"}
    options |= {"--nproc", "--nnodes", "--max-restarts", "--rdzv"}  # torchrun's, as far as the pattern reads
    for program in programs:
        line = [sys.executable, *program, "--help"]
        shown = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=True)
        options |= set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", shown.stdout))
    named = set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", README))
    assert named <= options
    for file in re.findall(r"\]\(([^#)]+)\)", README):
        assert (PROJECT / file).exists()  # a file, or a folder of results
    for heading in re.findall(r"\]\(#([a-z-]+)\)", README):
        assert re.search(rf"^#+ {heading.replace('-', '[ -]')}$", README, re.M | re.I)
