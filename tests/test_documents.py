"""The commands and examples of README and docs run in one folder, as for a new user, and every link has a target."""

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
from alexnet_torch.commands import COMMANDS
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.recipes.catalogue import RECIPES, paper
from tests.support.caffe_files import caffemodel, narrow, random_caffe_weights
from tests.support.commands import run_train
from tests.support.folders import make_images
from tests.support.nets import narrow_demo
from tests.support.paths import PROJECT

# in this order: the README makes the runs that the others use
PAGES = ("module", "data", "training", "distributed", "recipes", "weights", "features", "questions")
RUN = ["README.md", *(f"docs/{name}.md" for name in PAGES)]
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", PROJECT / "CHANGELOG.md", *PROJECT.glob("docs/*.md")]
NARROW_TRAIN = PROJECT / "tests/support/narrow_train.py"  # train.py with few channels
OPTION = re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PROJECT / document).read_text(), re.S)


def commands_of_make(target: str) -> list[str]:
    """The commands that make would run for a target when the environment is installed."""
    line = ["make", "-n", "-o", ".venv/installed", "-o", ".venv/installed-dev", "-C", str(PROJECT), target]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return [
        shlex.join(shlex.split(line)[1:]) for line in done.stdout.splitlines() if line.startswith(".venv/bin/python")
    ]


def run(command: str) -> None:
    """Runs one command of a document; training is cut to one step, because other tests train."""
    program, *given = shlex.split(command)
    if program == "make" and given == ["demo"]:
        (training,) = commands_of_make("demo")
        return run("python " + training.replace(" --resume", ""))
    if program == "make" and given == ["test"]:
        # the last of its commands is this very run
        assert commands_of_make("test") == ["-m ruff check .", "-m ruff format --check .", "-m mypy", "-m pytest -n 2"]
        return None
    if program == "tensorboard":
        line = [sys.executable, "-m", "tensorboard.main", "--inspect", *given]
        shown = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        assert "conv1/tower1" in shown
        return None
    if program == "torchrun":
        script = given.index("train.py")
        line = [*given[:script], str(NARROW_TRAIN), *given[script + 1 :], "--max-steps", "1"]
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


def write_files_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the weight files that the documents import into the current folder."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.alexnet().state_dict().items()}
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, "alexnet-owt-7be5be79.pth")
    monkeypatch.setitem(PRESETS, "caffe", narrow(CAFFE))  # the full network takes half a minute to write and read
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
    monkeypatch.setitem(RECIPES, "paper", lambda: at_224)  # writing 61 million weights would take most of the time
    write_files_to_import(monkeypatch)
    done: set[str] = set()
    for document in RUN:
        commands = [line for block in blocks(document, "sh") for line in block.splitlines() if line]
        assert commands or blocks(document, "python"), document
        for command in commands:
            if command not in done:  # a document may repeat a command of the README
                run(command)
            if command == "make demo":  # the README's example loads this run's weights into the full network
                monkeypatch.setitem(RECIPES, "demo", narrow_demo)
            done.add(command)
        for example in blocks(document, "python"):
            exec(compile(example, document, "exec"), {})
    assert "photos/val/ants/0.png" in capsys.readouterr().out


def test_options_exist() -> None:
    programs = [["train.py"], ["-m", "alexnet_torch"], *(["-m", "alexnet_torch", command] for command in COMMANDS)]
    options = {"--logdir", "--batch-sizes", "--first", "--write-table", "--device"}
    options |= {"--nproc", "--nnodes", "--max-restarts", "--rdzv"}  # torchrun's, as far as the pattern reads
    options |= {
        "--requeue",
        "--gpus",
        "--gpus-per-task",
        "--nodes",
        "--ntasks",
        "--ntasks-per-node",
        "--time",
        "--signal",
    }  # Slurm's
    for program in programs:
        line = [sys.executable, *program, "--help"]
        shown = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=True)
        options |= set(OPTION.findall(shown.stdout))
    for document in DOCUMENTS:
        assert set(OPTION.findall(document.read_text())) <= options, document


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_to_what_they_name(document: Path) -> None:
    for text, file, anchor in re.findall(r"\[([^]]*)\]\(([^#)\s]*)#?([^)\s]*)\)", document.read_text()):
        target = document.parent / file if file else document
        assert target.exists(), f"{text}: {file}"
        if anchor:
            assert anchor in anchors(target), f"{text}: {file}#{anchor}"
        if file.endswith(".py") and (name := re.fullmatch(r"`(?:\w+\.)?(\w+)`", text)):
            assert re.search(rf"^\s*(def|class) {name[1]}\b|^{name[1]} =", target.read_text(), re.M), f"{text}: {file}"


def test_named_modules_exist() -> None:
    for document in DOCUMENTS:
        for module in re.findall(r"python -m ((?:benchmarks|alexnet_torch)[.\w]*)", document.read_text()):
            path = PROJECT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{document.name}: {module}"


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150
