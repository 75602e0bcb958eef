"""Fixtures of all tests."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from alexnet_torch.recipes.catalogue import RECIPES
from tests.support.folders import make_images, make_run
from tests.support.nets import narrow_demo
from tests.support.paths import PROJECT, SHARED_DATA
from tests.support.rank_pool import RankPool


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escapes what is not UTF-8 in a report: pytest-xdist cannot send it, and its worker would crash."""
    report = yield
    report.sections = [(name, _escaped(text)) for name, text in report.sections]
    if report.failed and _escaped(report.longreprtext) != report.longreprtext:
        report.longrepr = _escaped(report.longreprtext)
    return report


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.fixture(scope="session")
def compiled() -> Path:
    """The folder of the native kernels, whose compilation takes half a minute: the next session finds them there."""
    folder = PROJECT / ".pytest_cache/native"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _not_the_users_cache(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # for fixtures of a module or a session
        patch.setenv("XDG_CACHE_HOME", str(with_kernels(tmp_path_factory.mktemp("cache"), compiled)))
        yield


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(with_kernels(tmp_path_factory.mktemp("cache"), compiled)))


def with_kernels(cache: Path, compiled: Path) -> Path:
    """Makes an empty folder a cache (XDG_CACHE_HOME) that has the compiled kernels; returns it."""
    (cache / "alexnet_torch").mkdir()
    (cache / "alexnet_torch/native").symlink_to(compiled)
    return cache


@pytest.fixture(scope="session")
def rank_pool(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    """Four processes that all tests of several ranks use."""
    pool = RankPool(4, with_kernels(tmp_path_factory.mktemp("cache"), compiled))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 classes (not divisible by 2 or 4), 35 training images (batches of 8 leave 3), 15 validation images."""
    return make_images(tmp_path_factory.mktemp("same") / "images", classes=5, train=7, val=3)


@pytest.fixture(scope="module")
def narrow_demo_recipe() -> Iterator[None]:
    """Gives recipe demo a narrow network, for this module's tests of training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "demo", narrow_demo)
        yield


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Finds a data set beside the project; skips the test where it is not there."""

    def find(name: str) -> Path:
        if not (SHARED_DATA / name).is_dir():
            pytest.skip(f"{name} is not beside the project")
        return SHARED_DATA / name

    return find


def _process(module: str) -> Iterator[Executor]:
    with ProcessPoolExecutor(1, get_context("spawn"), import_module, (f"tests.support.{module}",)) as process:
        yield process


@pytest.fixture(scope="session")
def pretend_process() -> Iterator[Executor]:
    """A process that has a second device which computes on the CPU: see tests/support/pretend_device.py."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices in Python")
    yield from _process("pretend_device")


@pytest.fixture(scope="session")
def fake_gpus() -> None:
    """Skips tests of fake tensors on GPUs, where torch needs a GPU to copy them."""
    if torch.__version__ < "2.11" and not torch.cuda.is_available():
        pytest.skip("this torch copies fake tensors on real GPUs only")


@pytest.fixture(scope="session")
def interpreter_process() -> Iterator[Executor]:
    """A process in which the kernels for GPUs compute on the CPU: see tests/support/triton_interpreter.py."""
    pytest.importorskip("triton", reason="Triton is not installed here")
    yield from _process("triton_interpreter")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path)
