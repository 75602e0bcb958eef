"""What the environment of a process may lack: a home folder, a user's name, torchrun's variables, a plain compiler."""

import pwd
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_torch import cli, native
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from tests.support.commands import demo_options, one_line, run_cli, run_train, train_demo
from tests.support.paths import PROJECT
from tests.support.permissions import permissions

SOURCE = next((PROJECT / "alexnet_torch").rglob("gather.cpp"))


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a name and without HOME, as in many containers."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_home", "narrow_demo_recipe")
def test_without_a_home_folder_a_cache_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = demo_options(tmp_path, "--max-steps=1")
    assert one_line(run_train(*given), "set XDG_CACHE_HOME to a folder that only this user can write$")
    assert not (tmp_path / "run").exists()
    assert run_train(*given, "--cache", tmp_path / "cache").returncode == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert train_demo(tmp_path, "--max-steps=1", run="other").returncode == 0
    assert list((tmp_path / "xdg").rglob("train.u8"))


@pytest.mark.usefixtures("no_home")
def test_native_code_is_not_compiled_without_a_home_folder_that_can_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert native.load_compiled(SOURCE, "it is") is None
    assert "set XDG_CACHE_HOME" in caplog.text
    monkeypatch.setenv("HOME", "/proc")  # where nobody can create a folder, as in / of a container
    assert native.load_compiled(SOURCE, "it is") is None
    assert re.search(r"\(/proc/\.cache: No such file or directory; .*; or set XDG_CACHE_HOME", caplog.text)


def test_a_cache_that_cannot_be_written_is_named_with_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = demo_options(tmp_path, "--max-steps=1")
    monkeypatch.delenv("XDG_CACHE_HOME")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with permissions(tmp_path / "home", 0o500):
        done = run_train(*given)
    assert done.returncode == 2
    ways = r"--cache .*/home/\.cache.*: Permission denied; .*--cache DIR or XDG_CACHE_HOME names another folder"
    assert re.search(ways, done.stderr)


@pytest.fixture
def small_source(tmp_path: Path) -> Path:
    if not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("there is no C++ compiler")
    source = tmp_path / "small.cpp"
    source.write_text('extern "C" int answer() { return 42; }\n')
    return source


def answer(source: Path, version: str = "") -> int | None:
    library = native.load_compiled(source, "it is", version=version)
    return None if library is None else int(library.answer())


def test_a_compiler_may_have_arguments(
    small_source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", f"env LANG=C '{shutil.which('c++') or shutil.which('g++')}'")  # like "ccache g++"
    assert answer(small_source) == 42
    monkeypatch.setenv("CXX", "nosuch-c++ -O1")
    assert answer(small_source, "other") is None
    assert "it is not compiled (there is no compiler nosuch-c++; install one, or name it in CXX)" in caplog.text


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: bytes(len(content))])
def test_a_damaged_library_is_compiled_again(
    damage: Callable[[bytes], bytes], small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end the process at every start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert answer(small_source) == 42
    (library,) = tmp_path.rglob("*.so")
    content = library.read_bytes()
    library.unlink()  # this process has it open
    library.write_bytes(damage(content))
    assert answer(small_source) == 42
    assert content in [path.read_bytes() for path in tmp_path.rglob("*.so")]


def test_an_older_torch_is_told_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.8.1+cu126")
    told = r"torch 2\.8\.1\+cu126 is installed, but 2\.9 is needed; pip install 'torch>=2\.9'$"
    assert one_line(run_train(*demo_options(tmp_path)), rf"^train\.py: {told}")
    assert one_line(run_cli("predict", "run", "x.png"), told)
    needed = ".".join(map(str, cli.OLDEST_TORCH))
    assert f"torch>={needed}" in (PROJECT / "requirements.txt").read_text().splitlines()
    assert f"torch=={needed}.0 " in (PROJECT / "Makefile").read_text()


NO_RANK = "which no rank of a run has"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("WORLD_SIZE=2", "without RANK, MASTER_ADDR, MASTER_PORT, as torchrun sets them"),
        ("RANK=1 WORLD_SIZE=2", "without MASTER_ADDR, MASTER_PORT"),
        ("LOCAL_RANK=1", NO_RANK),
        ("WORLD_SIZE=two", NO_RANK),
        ("RANK=-1 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=29500", NO_RANK),
        ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=29500", NO_RANK),
    ],
)
def test_variables_of_torchrun_without_torchrun_are_one_line(
    given: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (pair.split("=") for pair in given.split()):
        monkeypatch.setenv(name, value)
    found = [pair for pair in given.split() if "MASTER" not in pair]
    line = one_line(run_train("--help"), rf"^train\.py: the environment has {', '.join(found)}[, ]")
    assert message in line
    assert f"env -u {' -u '.join(pair.split('=')[0] for pair in found)} python train.py" in line


def test_tasks_of_srun_without_ranks_are_told_that_each_is_a_run(caplog: pytest.LogCaptureFixture) -> None:
    assert World.from_environment({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}) == SINGLE_PROCESS
    assert "srun: 2 tasks, each with a run of its own" in caplog.text
