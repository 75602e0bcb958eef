"""The package as pip installs it: a wheel in an environment of its own, without the repository.

The environment sees torch and the other libraries of the tests' environment by a .pth file, because downloading them
again takes minutes and gigabytes; the package itself comes from the wheel only.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from alexnet_torch.commands import COMMANDS
from tests.support.folders import make_images
from tests.support.paths import PROJECT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")  # a build leaves files beside the source
    shutil.copytree(PROJECT / "alexnet_torch", source / "alexnet_torch", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (PROJECT / "pyproject.toml", PROJECT / "README.md", *PROJECT.glob("requirements*.txt")):
        shutil.copy(file, source)
    options = f"wheel -q --no-deps --no-build-isolation -w {source} {source}"
    subprocess.run([sys.executable, "-m", "pip", *options.split()], check=True)
    (built,) = source.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin/python"
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True)
    return environment / "bin/alexnet-torch"


def run(program: Path, folder: Path, *options: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([program, *options], cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("alexnet_torch/")}
    listed = subprocess.run(
        ["git", "ls-files", "alexnet_torch"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert set(listed.stdout.split()) <= packed


def test_the_installed_program_trains_and_uses_the_run(program: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    shown = run(program, tmp_path, "--help")
    assert all(command in shown for command in COMMANDS)
    assert "usage: alexnet-torch train" in run(program, tmp_path, "train", "--help")
    given = ("--data", "images", "--recipe", "demo", "--batch-size", "8", "--epochs", "1")
    trained = run(program, tmp_path, "train", *given, "--output", "run")
    assert "best weights, of step 3" in trained
    image = "images/val/class0/000.png"
    assert image in run(program, tmp_path, "predict", "run", image)
    assert "centre crop" in run(program, tmp_path, "evaluate", "run", "--data", "images")
    assert "alexnet-torch train --data" in (tmp_path / "run/report.html").read_text()


def test_the_installed_program_reports_errors_by_its_name(program: Path, tmp_path: Path) -> None:
    for command, options in (("train", ["--data", "nowhere"]), ("predict", ["nowhere", "x.png"])):
        done = subprocess.run([program, command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("alexnet-torch"), done.stderr
        assert len(done.stderr.splitlines()) == 1
