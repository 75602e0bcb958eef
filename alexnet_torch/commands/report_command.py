"""report: a page about a run."""

from pathlib import Path
from typing import Annotated

from alexnet_torch.commands.options import Devices, Run, load_run, shown
from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_os_error


def report_command(
    run: Run,
    output: Annotated[Path | None, shown("FILE.html", "default: RUN/report.html")] = None,
    data: Annotated[str | None, shown("DIR|digits|none", "default: the run's")] = None,
    devices: Devices = None,
) -> None:
    """Write a page about a run for a browser, in one file: errors, curves, what it gets wrong, settings, machine.

    Args:
        output: The file to write.
        data: The images that the run was trained on; none: write what needs no images.
    """
    from alexnet_torch.evaluation.report_page.write import write_report
    from alexnet_torch.evaluation.runs import images_of_run

    model = load_run(run, devices)
    try:
        path = write_report(run, model, images_of_run(run, model, data), output)
    except OSError as error:
        raise UserError(f"--output {output or run}: {explain_os_error(error)}") from error
    print(f"the page is {path}")
