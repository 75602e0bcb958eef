"""The page of a machine with GPUs: written on a CPU with tiny sizes, and when parts of it fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import page, tables
from benchmarks.gpu.commands import MeasurementFailed, measured, run_python
from benchmarks.gpu.correctness import read_report
from benchmarks.gpu.links import parse_nvlink, parse_pcie
from benchmarks.gpu.plan import Plan


@pytest.mark.slow
def test_the_whole_page_on_a_cpu(tmp_path: Path) -> None:
    run_python(["-m", "benchmarks.gpu.page", "--device", "cpu", "--name", "try", "--output", str(tmp_path)], 3000)
    text = (tmp_path / "gpu-try.md").read_text()
    assert "Nothing failed." in text
    assert text.count("| passed |") >= 4
    for row in ("ours, two devices, bf16, eager", "plain paper net, fp32, eager", "2 ranks, hybrid", "2 batch slices"):
        assert f"| {row}" in text


def test_what_fails_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(plan: Plan) -> tuple[str, list[str]]:
        raise RuntimeError(f"{plan.kind} is on fire")

    def row(plan: Plan) -> tuple[str, list[str]]:
        failures, code = list[str](), f"raise ValueError('no {plan.kind}')"
        return str(tables.attempt("a row", failures, 3, lambda: (run_python(["-c", code], 60),))), failures

    monkeypatch.setattr(page, "SECTIONS", {"steps": ("First", broken), "runs": ("Second", row)})
    assert page.main(name="x", device="cpu", output=tmp_path) == 1
    text = (tmp_path / "gpu-x.md").read_text()
    assert "## First\n\n**Failed**: cpu is on fire" in text
    assert "('a row', '**failed**: status 1: ValueError: no cpu', '')" in text
    assert text.endswith("- First: RuntimeError: cpu is on fire\n- a row: status 1: ValueError: no cpu\n")
    assert page.main(output=tmp_path) == 2
    assert "make gpu: this machine shows no GPU; --device cpu tries the page on a CPU\n" in capsys.readouterr().err


def test_a_command_that_hangs_is_killed_with_what_it_started() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with pytest.raises(MeasurementFailed, match="no result within 1 s"):
        run_python(["-c", child], 1)


def test_placements_fit_the_number_of_gpus() -> None:
    two = ["one device", "two devices", "2 tower ranks", "2 ranks, hybrid", "2 batch slices"]
    five = [*two, "4 tower ranks", "4 ranks, hybrid", "4 batch slices", "2 batch slices of two devices"]
    for gpus, names in ((1, two[:1]), (2, two), (5, five)):
        assert [placement.name for placement in Plan("cuda", gpus).placements()] == names


def test_results_of_ranks_nvidia_smi_and_pytest_are_read(tmp_path: Path) -> None:
    assert measured('MEASURED {"a": 1}MEASURED {"a": 2}\nmore\nMEASURED {"a": 3}\n') == [{"a": 1}, {"a": 2}, {"a": 3}]
    links = "GPU 0: A100 (UUID: GPU-1)\n\t Link 0: Data Tx: 100 KiB\n\t Link 0: Data Rx: 7 KiB\n"
    links += "\t Link 1: Data Tx: 20 KiB\nGPU 1: A100 (UUID: GPU-2)\n\t Link 0: Data Tx: 3 KiB\n"
    assert parse_nvlink(links) == {0: 120 * 1024, 1: 3 * 1024}
    assert parse_pcie("# gpu   rxpci   txpci \n# Idx    MB/s    MB/s \n 0 1200 31 \n 1 - - \n") == {0: 1200}
    code = "import pytest\ndef test_a(record_property): record_property('bits', True)\n"
    code += "def test_b(): assert 1 == 2, 'one | two'\ndef test_c(): pytest.skip('needs 2 GPU(s)')\n"
    (tmp_path / "test_it.py").write_text(code)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml", str(tmp_path)]
    subprocess.run(line, cwd=tmp_path, capture_output=True, check=False)
    rows = [(name, result, note) for name, result, _, note in read_report(tmp_path / "report.xml")]
    assert rows[:2] == [("a", "passed", "bits: True"), ("b", "**failed**", "AssertionError: one \\| two")]
    assert rows[2:] == [("c", "skipped", "needs 2 GPU(s)")]
