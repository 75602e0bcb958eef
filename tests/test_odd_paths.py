"""Odd paths, permissions and files: one line that names the file and its own reason, and status 2."""

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from PIL import Image

from alexnet_torch.training.checkpoints import list_checkpoints
from tests.support.commands import one_line, resume, run_cli, run_train, train_demo
from tests.support.permissions import permissions

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")
LONG, LONG_PATH = "x" * 300, "/".join(["y" * 200] * 30)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, narrow_demo_recipe: None) -> Path:  # noqa: ARG001
    """A folder with images, a cache and a run."""
    folder = tmp_path_factory.mktemp("made")
    done = train(folder, "run")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made"))


def train(folder: Path, output: str, *more: str) -> CompletedProcess[str]:
    return train_demo(folder, "--cache", folder / "cache", "--max-steps", "1", *more, run=output)


COMMANDS: dict[str, Callable[[Path], CompletedProcess[str]]] = {
    "train": lambda f: train(f, "run"),
    "resume": lambda f: resume(f / "run", "--max-steps", "2"),
    "repeat": lambda f: run_train("--config", f / "run/config.json", "--output", f / "new", "--max-steps", "1"),
    "init": lambda f: train(f, "new", "--init", str(f / "run")),
    "predict": lambda f: run_cli("predict", f / "run", f / "images/val/class0/000.png"),
    "evaluate": lambda f: run_cli("evaluate", f / "run", "--data", f / "images"),
    "export": lambda f: run_cli("export", f / "run", f / "x.pt"),
    "import": lambda f: run_cli("import", f / "run/model.pt", "--output", f / "new"),
    "features": lambda f: run_cli("features", f / "run", f / "images/val", "--output", f / "f.npy"),
    "report": lambda f: run_cli("report", f / "run"),
}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        *(("run", command) for command in COMMANDS),
        ("run/config.json", "resume"),
        ("run/config.json", "repeat"),
        ("run/metrics.jsonl", "resume"),
        ("run/model.pt", "predict"),
        ("run/model.json", "predict"),
        ("run/checkpoints", "resume"),
        ("images/train/class0", "train"),
    ],
)
def test_what_may_not_be_read(name: str, command: str, folder: Path) -> None:
    if name.startswith("images"):
        shutil.rmtree(folder / "run")
    what = r"run/[\w.]+: Permission denied" if name == "run" else rf"(no permission to .*|{name}.*: Permission denied)"
    with permissions(folder / name, 0):
        one_line(COMMANDS[command](folder), f"{what}; change its permissions, or name")


@pytest.mark.parametrize("path", [LONG, LONG_PATH, "link"], ids=["name", "path", "link"])
@pytest.mark.parametrize("option", ["--data", "--output", "--cache", "--init", "--config"])
def test_a_path_that_is_too_long_or_a_link_to_nothing(option: str, path: str, made: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere/else")
    message = r"link(/[\w-]+)?: " if path == "link" else "File name too long; name "
    path = str(tmp_path / "link") if path == "link" else path
    given = {"--data": made / "images", "--output": tmp_path / "new", "--cache": made / "cache", option: path}
    words = [str(word) for pair in given.items() for word in pair]
    one_line(run_train(*words, "--recipe", "demo", "--max-steps", "1"), message)


@pytest.mark.parametrize(
    "command",
    """predict LONG x.png, predict RUN LONG, evaluate RUN --data LONG, export RUN LONG.pt, import LONG --output new
    features RUN IMAGES --output LONG.npy, import RUN/model.pt --output LONG, figures RUN --output LONG --data none
    report LONG, runs LONG""".replace("\n", ",").split(","),
    ids=str.strip,
)
def test_a_name_that_is_too_long_for_a_command(command: str, made: Path) -> None:
    line = command.replace("LONG", LONG).replace("RUN", f"{made}/run").replace("IMAGES", f"{made}/images")
    one_line(run_cli(*line.split()), "File name too long|there is no such")


@pytest.mark.parametrize("content", [None, b"[1]\n", b"\0\xff"], ids=["link", "list", "binary"])
def test_a_damaged_file_or_a_link_to_nothing_in_the_cache_is_built_again(content: bytes | None, folder: Path) -> None:
    assert train(folder, "other").returncode == 0  # the images were copied: their cache is another
    for name in ("train.u8", "samples.npz"):
        for path in (folder / "cache").glob(f"*/{name}"):
            path.unlink()
            path.symlink_to(folder / "nowhere") if content is None else path.write_bytes(content)
        done = train(folder, f"after {name}")
        assert done.returncode == 0, done.stderr
        assert "again: it is damaged" in done.stderr or "decoding once" in done.stderr


class Payload:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("payload-ran",)


@pytest.mark.parametrize("kind", ["payload", "pickle", "other", "text"])
def test_a_foreign_file_in_a_checkpoints_place(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    saved = io.BytesIO(b"hello" if kind == "text" else pickle.dumps(Payload()) if kind == "pickle" else b"")
    if kind in ("payload", "other"):
        torch.save(Payload() if kind == "payload" else {"a": 1}, saved)
    checkpoints = folder / "run/checkpoints"
    for path in list_checkpoints(checkpoints):
        path.unlink()
    digest = hashlib.sha256(saved.getvalue()).hexdigest()[:16]
    (checkpoints / f"step-00000001-{digest}.pt").write_bytes(saved.getvalue())
    one_line(resume(folder / "run"), r"--resume: .*\.pt: is damaged .*; no code of it was run; move it elsewhere")
    assert not (folder / "payload-ran").exists()


def test_the_digits_on_a_full_disk_name_the_folder_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", no_space)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one_line(
        run_train("--output", tmp_path / "run", "--recipe", "demo"),
        "--data .*/digits: No space left on device; make room on its disk",
    )
    assert not list((tmp_path / "cache/alexnet_torch").iterdir())


def test_images_larger_than_memory_are_refused_at_once(made: Path) -> None:
    message = r"there is not enough memory \(Unable to allocate .* TiB"
    one_line(train(made, "new", "--cache", "none", "--image-size", "1000000"), message)
