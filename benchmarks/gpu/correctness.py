"""The tests of correctness, run by pytest, as a table."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu.commands import MeasurementFailed, run_python
from benchmarks.gpu.plan import Plan
from benchmarks.harness.report import markdown_table


def correctness_section(plan: Plan) -> tuple[str, list[str]]:
    """Runs the tests; returns their table and a line for each that failed; if none passed, MeasurementFailed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        given = ("-m", "pytest", "-q", "-m", "gpu", "tests/gpu", f"--junitxml={report}", f"--basetemp={folder}/runs")
        environment = {"GPU_TESTS_ON": "cpu"} if plan.kind == "cpu" else {}
        try:
            run_python((*given, *plan.tests), 4 * 3600.0, environment)
        except MeasurementFailed:
            if not report.exists():  # else the table shows what failed
                raise
        rows = list(read_report(report))
    if not any(result == "passed" for _, result, _, _ in rows):
        raise MeasurementFailed("no test passed: " + "; ".join(dict.fromkeys(note for *_, note in rows)))
    table = markdown_table(("test", "result", "seconds", ""), rows)
    return table, [f"{name}: {note}" for name, result, _, note in rows if result == "**failed**"]


def read_report(report: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yields each test's name, result, seconds and message, from pytest's XML."""
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "").removeprefix("test_").replace("_", " ")
        result, notes = "passed", [f"{p.get('name')}: {p.get('value')}" for p in case.iter("property")]
        for kind, shown in (("failure", "**failed**"), ("error", "**failed**"), ("skipped", "skipped")):
            if (found := case.find(kind)) is not None:
                result = shown
                notes.append(found.get("message", "").partition("\n")[0][:200].replace("|", "\\|"))
        yield name, result, f"{float(case.get('time', 0)):.0f}", "; ".join(notes)
