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
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([environment / "bin/python", "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True)
    return environment / "bin/alexnet-torch"


def run(program: Path, folder: Path, options: str) -> "subprocess.CompletedProcess[str]":
    line = [str(program), *options.split()]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("alexnet_torch/")}
    line = ["git", "ls-files", "alexnet_torch"]
    listed = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert set(listed.stdout.split()) <= packed


def test_the_installed_program_trains_uses_the_run_and_names_itself(program: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    image = "images/val/class0/000.png"
    for options, shown in (
        ("train --help", "usage: alexnet-torch train"),
        ("train --data images --recipe demo --batch-size 8 --epochs 1 --output run", "best weights, of step 3"),
        (f"predict run {image}", image),
        ("evaluate run --data images", "centre crop"),
    ):
        done = run(program, tmp_path, options)
        assert (done.returncode, shown in done.stdout) == (0, True), done
    assert all(command in run(program, tmp_path, "--help").stdout for command in COMMANDS)
    assert "alexnet-torch train --data" in (tmp_path / "run/report.html").read_text()
    for options in ("train --data nowhere", "predict nowhere x.png"):
        done = run(program, tmp_path, options)
        assert done.returncode == 2
        assert done.stderr.startswith("alexnet-torch"), done.stderr
        assert len(done.stderr.splitlines()) == 1
