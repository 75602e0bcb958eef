"""import: a run's folder from a file of weights."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from alexnet_torch.commands.options import shown


def import_command(
    file: Annotated[Path, Positional, shown("FILE")],
    output: Annotated[Path, shown("RUN")],
    classes: Annotated[Path | None, shown("FILE", "default: detected")] = None,
    architecture: Annotated[str | None, shown("NAME", "default: detected")] = None,
    inputs: Annotated[str | None, shown("rgb|caffe|imagenet", "default: detected")] = None,
    mean: Annotated[str | None, shown("R,G,B|FILE", "default: ImageNet's; required for rgb")] = None,
    image_size: Annotated[int | None, shown("N", "default: detected")] = None,
    key: Annotated[str | None, shown("NAME", "default: the only one")] = None,
) -> None:
    """Make a run's folder from a file of weights: of Caffe, ONNX, torchvision, another state dict, or safetensors.

    Args:
        file: A .caffemodel, .onnx or .safetensors file, or one that torch.load reads without unpickling.
        output: The folder to make, with model.pt and model.json.
        classes: A file with one class name on each line.
        architecture: paper, source_2012, caffe, caffenet, tensorflow_post or torchvision.
        inputs: The images that the weights expect: RGB of 0..255 less the mean, the same in BGR, or torchvision's.
        mean: The mean to subtract: a colour of 0..255, a .binaryproto or a .npy file.
        image_size: Height and width of the network's images, in pixels.
        key: Which network of a checkpoint with several, such as model or ema.
    """
    from alexnet_torch.weights.import_model import ImportOptions, import_model
    from alexnet_torch.weights.model_file import save_new_model

    model, messages = import_model(file, ImportOptions(architecture, inputs, mean, image_size, key), classes)
    save_new_model(output, model)
    print("\n".join([*messages, f"the model is in {output}"]))
