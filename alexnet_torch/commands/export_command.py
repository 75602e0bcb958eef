"""export: a file for other programs from a run's model."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from alexnet_torch.commands.options import Run, shown


def export_command(
    run: Run,
    file: Annotated[Path, Positional, shown("FILE")],
    format: Annotated[str | None, shown("safetensors|grouped|torchvision|onnx|pt2", "default: from suffix")] = None,
) -> None:
    """Write a run's model to a file for other programs.

    Args:
        file: .safetensors; .pt, a state dict with both towers in each tensor; .onnx; .pt2 of torch.export.
        format: The file's format.
    """
    from alexnet_torch.weights.export_model import export_model
    from alexnet_torch.weights.model_file import load_model

    inputs = export_model(load_model(run, ["cpu"]), file, format)
    print(f"{file}: reads {inputs}")
