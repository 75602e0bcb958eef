"""Commands in processes of their own, so that one that crashes or hangs does not end the others."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness.report import PROJECT

MEASURED = "MEASURED "  # comes before what a process measured, as JSON


class MeasurementFailed(Exception):
    """A measurement failed; the message is for the page."""


def run_python(arguments: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> str:
    """Runs Python with these arguments in the project's folder; returns its standard output.

    After `limit` seconds the process, and all that it has started, is killed. Raises MeasurementFailed for this, and
    for a status that is not 0.
    """
    line, variables = [sys.executable, *arguments], {**os.environ, **(environment or {})}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(  # torchrun's ranks are in its session too
            line, cwd=PROJECT, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise MeasurementFailed(f"no result within {limit:.0f} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        errors.seek(0)
        if process.returncode:
            raise MeasurementFailed(f"status {process.returncode}: {_cause(errors.read() or output)}")
    return output


def _cause(text: str) -> str:
    """Returns the line of an error's text that says most: the last of the first traceback, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.split(":")[0].rpartition(".")[2].endswith(("Error", "Exception"))]
    return (named or lines or ["no message"])[0 if named else -1][:300].replace("|", "\\|")


def measured(output: str) -> list[dict[str, Any]]:
    """Returns the measurements in a process's output, one for each process that torchrun started."""
    # ranks write into one pipe: two results may be on one line
    results = [json.JSONDecoder().raw_decode(text)[0] for text in output.split(MEASURED)[1:]]
    if not results:
        raise MeasurementFailed("it printed no measurement")
    return results


def print_measured(**values: object) -> None:
    """Prints measurements for `measured` to read."""
    sys.stdout.write(f"{MEASURED}{json.dumps(values)}\n")
    sys.stdout.flush()
