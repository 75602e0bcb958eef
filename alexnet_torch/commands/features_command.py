"""features: stages' outputs for the images of a folder."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from alexnet_torch.commands.options import Devices, Run, SkipBad, load_run, shown
from alexnet_torch.errors import UserError


def features_command(
    run: Run,
    folder: Annotated[Path, Positional, shown("DIR")],
    output: Annotated[Path, shown("FILE.npy|FILE.safetensors|FILE.h5")],
    stage: Annotated[str, shown("NAME[,NAME]")] = "fc7",
    files: Annotated[Path | None, shown("LIST.txt", "default: all, sorted")] = None,
    per_tower: bool = False,
    skip_bad: SkipBad = False,
    batch_size: Annotated[int, shown("N")] = 64,
    devices: Devices = None,
) -> None:
    """Write stages' outputs for all images of a folder, or for a list of them, into one file.

    Args:
        folder: A folder of images, nested in any way.
        output: The file to write; a .npy file gets a .json with file and class names beside it.
        stage: Stages, from conv1 to fc8 in the paper's network, for example conv5,fc7 or conv1..conv5.
        files: A text file with the path of an image in DIR on each line, in the order that the rows get.
        per_tower: Write an array for each tower, instead of one with the channels of both.
        batch_size: Images in a batch.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be 1 or more")
    from alexnet_torch.evaluation.features import FeatureRequest, save_features
    from alexnet_torch.model.architecture import parse_stages
    from alexnet_torch.run_folder import MODEL_DESCRIPTION, MODEL_WEIGHTS

    model = load_run(run, devices)
    stages = parse_stages("--stage", stage, model.net.architecture.stage_names) or ()
    request = FeatureRequest(folder, output, stages, files, per_tower, skip_bad, batch_size)
    metadata, arrays = save_features(model, request, [run / MODEL_WEIGHTS, run / MODEL_DESCRIPTION])
    for array in arrays:
        name = array.name if len(arrays) > 1 else stage
        print(f"{output}: {name} of {len(metadata.files)} images, float32 {(len(metadata.files), *array.shape)}")
