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
from tests.support import image_sets
from tests.support.caffe_files import caffemodel, narrow, random_caffe_weights
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images
from tests.support.nets import narrow_demo
from tests.support.paths import NARROW_TRAIN, PROJECT
from tests.support.test_sets import WNIDS, imagenet_run, write_image

# in this order: the README makes the runs that the others use
PAGES = ("module", "data", "training", "distributed", "recipes", "weights", "features", "questions")
RUN = ["README.md", *(f"docs/{name}.md" for name in PAGES)]
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", PROJECT / "CHANGELOG.md", *PROJECT.glob("docs/*.md")]
OPTION = re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*")
# of benchmarks, of torchrun, as far as the pattern reads, and of Slurm
OTHER_OPTIONS = """--logdir --batch-sizes --samples --first --write-table --device --nproc --nnodes --max-restarts
    --rdzv --requeue --gpus --gpus-per-task --nodes --ntasks --ntasks-per-node --time --signal"""


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PROJECT / document).read_text(), re.S)


def commands(document: str) -> list[str]:
    return [line for block in blocks(document, "sh") for line in block.splitlines() if line]


def commands_of_make(target: str) -> list[str]:
    """The commands that make would run for a target when the environment is installed."""
    line = ["make", "-n", "-o", ".venv/installed", "-o", ".venv/installed-dev", "-C", str(PROJECT), target]
    done = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    return [shlex.join(shlex.split(line)[1:]) for line in done if line.startswith(".venv/bin/python")]


def run(command: str) -> None:
    """Runs one command of a document; training is cut to one step, because other tests train."""
    program, *given = shlex.split(command)
    if command == "make demo":
        program, *given = shlex.split("python " + commands_of_make("demo")[0].replace(" --resume", ""))
    if command == "make test":  # the last of its commands is this very run
        assert commands_of_make("test") == ["-m ruff check .", "-m ruff format --check .", "-m mypy", "-m pytest -n 2"]
    elif program == "tensorboard":
        line = [sys.executable, "-m", "tensorboard.main", "--inspect", *given]
        assert "conv1/tower1" in subprocess.run(line, capture_output=True, text=True, check=True).stdout
    elif program == "torchrun":
        script = given.index("train.py")
        line = [*given[:script], str(NARROW_TRAIN), *given[script + 1 :], "--max-steps", "1"]
        subprocess.run([sys.executable, "-m", "torch.distributed.run", *line], check=True)
    elif given[0] == "train.py":
        done = run_train(*given[1:], "--max-steps", "1")
        assert done.returncode == 0, done.stderr
    elif given[:2] == ["-m", "alexnet_torch"]:
        assert cli.main(given[2:]) == 0
    else:
        assert (program, given[0]) == ("python", "-m")
        assert (PROJECT / f"{given[1].replace('.', '/')}.py").exists()


def write_files_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the weight files that the documents import into the current folder."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.alexnet().state_dict().items()}
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, "alexnet-owt-7be5be79.pth")
    monkeypatch.setitem(PRESETS, "caffe", narrow(CAFFE))  # the full network takes half a minute to write and read
    weights = {**random_caffe_weights(), "fc6.weight": torch.randn(48, 16 * 6 * 6)}
    Path("bvlc_alexnet.caffemodel").write_bytes(caffemodel(weights))


@pytest.fixture
def _new_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and the paper's recipe with a narrow network: writing 61 million weights takes long."""
    monkeypatch.chdir(tmp_path)
    at_224 = replace(paper(), architecture=narrow(paper().architecture))
    monkeypatch.setitem(RECIPES, "paper", lambda: at_224)


@pytest.mark.usefixtures("_new_user")
def test_every_command_and_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    photos = make_images(Path("photos"), classes=2, train=2, val=2)
    for split in ("train", "val"):
        for old, new in (("class0", "ants"), ("class1", "bees")):
            (photos / split / old).rename(photos / split / new)
    shutil.copy(photos / "val/ants/000.png", photos / "val/ants/0.png")
    write_files_to_import(monkeypatch)
    done: set[str] = set()
    for document in RUN:
        assert commands(document) or blocks(document, "python"), document
        for command in commands(document):
            if command not in done:  # a document may repeat a command of the README
                run(command)
            if command == "make demo":  # the README's example loads this run's weights into the full network
                monkeypatch.setitem(RECIPES, "demo", narrow_demo)
            done.add(command)
        for example in blocks(document, "python"):
            exec(compile(example, document, "exec"), {})
    assert "photos/val/ants/0.png" in capsys.readouterr().out


def write_imagenet() -> None:
    """Writes the data sets for training, and the test sets, that docs/imagenet.md names, into the current folder."""
    samples, here = image_sets.small_set(), Path()
    image_sets.write_official(here / "imagenet-tars", samples)
    image_sets.write_parquet(here / "imagenet-1k", samples)
    image_sets.write_shards(here / "imagenet-1k-wds", samples)
    kaggle = image_sets.write_zip(here / "kaggle", image_sets.kaggle_files(samples))
    kaggle.rename("imagenet-object-localization-challenge.zip")
    tiny = [(f"tiny-imagenet-200/{name}", content) for name, content in image_sets.tiny_files(samples)]
    image_sets.write_zip(here / "tiny", tiny).rename("tiny-imagenet-200.zip")
    shutil.copy("imagenet-tars/ILSVRC2012_img_val.tar", ".")
    wnids = sorted({sample.wnid for sample in samples})
    for number, wnid in enumerate(wnids):
        write_image(Path(f"imagenetv2-matched-frequency-format-val/{WNIDS.index(wnid)}/a.jpeg"), number)
        write_image(Path(f"imagenet-sketch/sketch/{wnid}/sketch_1.JPEG"), number)
        write_image(Path(f"imagenet-c/snow/1/{wnid}/ILSVRC2012_val_00000001.JPEG"), number, (224, 224))
    for name in ("imagenet-a", "imagenet-r"):
        for number, wnid in enumerate(wnids[:2]):
            write_image(Path(f"{name}/{wnid}/{number}.jpg"), number)
        Path(name, "README.txt").write_text(name)
    Path("real.json").write_text(f"[{', '.join(['[0, 2]'] * 50_000)}]")


@pytest.mark.usefixtures("_new_user")
def test_every_command_for_imagenet_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On small sets in the layouts that docs/imagenet.md names."""
    monkeypatch.setitem(RECIPES, "demo", narrow_demo)
    write_imagenet()
    Path("runs").mkdir()
    imagenet_run(Path("runs/torchvision"))  # as import makes it
    given = commands("docs/imagenet.md")
    assert len(given) == 15
    for command in given:
        run(command)
    shown = capsys.readouterr()
    for text in ("among the set's 2 classes", "error by ReaL labels", "mCE needs all 15 corruptions"):
        assert text in shown.out
    assert "class folders, 3 classes, 3 images" in shown.err
    assert Path("guesses.csv").read_text().count("\n") == 7
    weights = {Path(f"runs/{name}/model.pt").read_bytes() for name in ("imagenet", "kaggle", "parquet", "shards")}
    assert weights == {Path("runs/prepared/model.pt").read_bytes()}


def test_options_exist() -> None:
    shown = [run_train("--help"), run_cli("--help"), *(run_cli(command, "--help") for command in COMMANDS)]
    assert all(done.returncode == 0 for done in shown)
    options = {*OTHER_OPTIONS.split(), *(option for done in shown for option in OPTION.findall(done.stdout))}
    for document in DOCUMENTS:
        assert set(OPTION.findall(document.read_text())) <= options, document


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_and_named_modules_exist(document: Path) -> None:
    content = document.read_text()
    for text, file, anchor in re.findall(r"\[([^]]*)\]\(([^#)\s]*)#?([^)\s]*)\)", content):
        target = document.parent / file if file else document
        assert target.exists(), f"{text}: {file}"
        if anchor:
            assert anchor in anchors(target), f"{text}: {file}#{anchor}"
        if file.endswith(".py") and (name := re.fullmatch(r"`(?:\w+\.)?(\w+)`", text)):
            assert re.search(rf"^\s*(def|class) {name[1]}\b|^{name[1]} =", target.read_text(), re.M), f"{text}: {file}"
    for module in re.findall(r"python -m ((?:benchmarks|alexnet_torch)[.\w]*)", content):
        path = PROJECT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 150
