"""`make gpu-quick`: its rows on a CPU, and a row that fails."""

import itertools
import re
from pathlib import Path

import pytest

from benchmarks.gpu.quick import Quick, write_page


def test_kernels_are_exact_and_a_row_that_fails_is_told(tmp_path: Path) -> None:
    def broken() -> str:
        raise ValueError("no | kernel")

    rows = itertools.islice(Quick("cpu", tmp_path).rows(), 6)  # norm and dropout of three types
    assert write_page(itertools.chain([("broken", broken)], rows), tmp_path / "page.md", 8, "head") == 1
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("head\n\n| what | result |\n")
    assert r"| broken | **failed**: ValueError: no \| kernel |" in text
    errors = re.findall(r"\| (\w+), (\w+) \| largest error (\S+) forward, (\S+) backward", text)
    assert len(errors) == 6
    limits = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 1e-2}
    assert all(float(error) < limits[kind] for _, kind, *both in errors for error in both)


def test_what_time_forbids_is_told(tmp_path: Path) -> None:
    assert write_page(Quick("cpu", tmp_path).rows(), tmp_path / "page.md", 0, "head") == 0
    assert (tmp_path / "page.md").read_text().count("not measured: 0 minutes are over") > 20


@pytest.mark.slow
def test_runs(tmp_path: Path) -> None:
    quick = Quick("cpu", tmp_path)
    assert quick.kill_and_resume() == "model.pt has the same bytes"
    assert quick.same_as_cpu() == "largest difference of ten 0.0e+00"
    assert quick.two_devices() == "largest difference of five losses 0.0e+00"
    assert "90 epochs of ImageNet in" in quick.train("fp32")
    assert "images/s" in quick.load()
