"""Decoding workers end with the process that they work for, and leave nothing behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data.workers import map_in_workers
from alexnet_torch.errors import UserError
from tests.support.paths import PROJECT

SLOW = pytest.mark.slow


class Times:
    """A factor that each worker gets once."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def array(self, task: int) -> tuple[np.ndarray, int]:
        if task < 0:
            raise ValueError(f"no task {task}")
        return np.full((task, 1000), self.factor * task), os.getpid()


def worker_id(task: int) -> int:
    del task
    return os.getpid()


def test_results_come_in_order_from_several_processes() -> None:
    results = list(map_in_workers(Times(3).array, range(40), 3, 6))
    assert [len(array) for array, _ in results] == list(range(40))
    assert all((array == 3 * task).all() and array.flags.writeable for task, (array, _) in enumerate(results))
    assert len({process for _, process in results} - {os.getpid()}) > 1


def test_an_error_in_a_worker_is_raised_here() -> None:
    with pytest.raises(ValueError, match="no task -1"):
        list(map_in_workers(Times(1).array, [1, -1, 2], 2, 2))


def test_workers_see_the_folder_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(map_in_workers(worker_id, range(2), 1, 1))  # the server runs by now, in another folder
    (tmp_path / "here").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert list(map_in_workers(Path.exists, [Path("here"), Path("there")], 1, 1)) == [True, False]


def test_a_server_that_was_killed_is_started_again() -> None:
    from alexnet_torch.data import workers

    list(map_in_workers(worker_id, range(2), 1, 1))
    process, _ = workers._server[os.getpid()]
    process.kill()
    process.wait()
    assert len(list(map_in_workers(worker_id, range(2), 1, 1))) == 2


def _die_if_missing(file: Path) -> str:
    """Kills the worker, the first time."""
    if not file.exists():
        if file.parent.exists():
            file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return file.name


def test_another_worker_repeats_the_task_of_one_that_was_killed(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    assert list(map_in_workers(_die_if_missing, files, 2, 3)) == list("abc")
    with pytest.raises(UserError, match="a decoding process was killed, perhaps for lack of memory; run again"):
        list(map_in_workers(_die_if_missing, [tmp_path / "missing/x"], 2, 2))


def test_closing_the_results_ends_workers_in_the_middle_of_a_task() -> None:
    results = map_in_workers(_first_quick, range(10), 2, 4)
    process = next(results)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    wait_until(lambda: not alive(process))
    assert time.monotonic() - started < 5


def _first_quick(task: int) -> int:
    if task:
        time.sleep(60)
    return os.getpid()


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def left_behind(temporary: Path) -> set[str]:
    """Returns temporary files, and shared memory that no process uses: others on this machine have some, too."""
    used = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            used += maps.read_text()
    shared = {path.name for path in Path("/dev/shm").glob("*") if path.name not in used}
    return {path.name for path in temporary.iterdir()} | shared


PROGRAM = """
import os
from alexnet_torch.data.workers import map_in_workers
from tests.data.test_workers import _first_quick
for process in map_in_workers(_first_quick, [0, 0, 0, 1, 1, 1, 1], 3, 7):  # without if __name__ == "__main__"
    print(process, flush=True)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, *(pytest.param(n, marks=SLOW) for n in (signal.SIGTERM, signal.SIGINT))]
)
def test_workers_end_with_their_process_and_leave_nothing(number: int, tmp_path: Path) -> None:
    temporary = tmp_path / ("long" * 40)  # longer than the address of a socket
    temporary.mkdir()
    before = left_behind(temporary)
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(PROJECT)}
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers = {int(process.stdout.readline()) for _ in range(3)}
    os.killpg(process.pid, number)
    process.wait(20)
    started = time.monotonic()
    wait_until(lambda: not any(map(alive, workers)))
    assert time.monotonic() - started < 3
    _, errors = process.communicate(timeout=20)  # ends when no process holds stderr
    assert errors.count("Traceback") == (number == signal.SIGINT)  # this process's own
    wait_until(lambda: left_behind(temporary) <= before)


@SLOW
def test_a_read_only_shared_memory_is_not_needed() -> None:
    mounted = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs -o ro,size=1m none /dev/shm && exec "$@"', "bash"]
    if not shutil.which("unshare") or subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    code = "from alexnet_torch.data.workers import *; from tests.data.test_workers import *\n"
    code += "assert len(list(map_in_workers(Times(2).array, range(20), 2, 4))) == 20"
    subprocess.run([*mounted, sys.executable, "-c", code], cwd=PROJECT, check=True)
