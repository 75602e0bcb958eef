"""A model written for others: safetensors, state dicts in the grouped and torchvision's layout, ONNX, torch.export."""

import copy
import json
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from alexnet_torch.data.augment import centre_crops
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.presets import TORCHVISION
from alexnet_torch.run_folder import MODEL_DESCRIPTION, MODEL_WEIGHTS
from alexnet_torch.weights.grouped import grouped
from alexnet_torch.weights.input_convention import INPUTS, reading_theirs
from alexnet_torch.weights.model_file import TrainedModel, cpu_weights, describe, to_strings
from alexnet_torch.weights.weight_file import extra_packages

FORMATS = {".safetensors": "safetensors", ".pt": "grouped", ".pth": "grouped", ".onnx": "onnx", ".pt2": "pt2"}
"""The format that a file's ending stands for; "torchvision" has none of its own."""

_OUR_IMAGES = "images of RGB, 0..255, less the mean image"
_PIXELS = "images of RGB, 0..255, (N, 3, {0}, {0}): the mean image is in it; N is free"


def export_model(model: TrainedModel, path: Path, form: str | None = None) -> str:
    """Writes a model to a file, whole or not at all.

    Args:
        model: on the CPU.
        path: of the file.
        form: one of `FORMATS`' values or "torchvision"; by the file's ending if None.

    Returns:
        what images the file's network reads, in words.

    Raises:
        UserError: the ending is unknown, the folder cannot be written, the file is a run's own model, the
            format takes a package that is not there, or the network has no such form.
    """
    writers = {
        "safetensors": _safetensors,
        "grouped": _grouped,
        "torchvision": _torchvision,
        "onnx": _onnx,
        "pt2": _exported_program,
    }
    if form is not None and form not in writers:
        raise UserError(f"--format {form}: there is none; there are {', '.join(writers)}")
    form = form or FORMATS.get(path.suffix)
    if form is None:
        raise UserError(f"{path}: no format has this ending; name one with --format: {', '.join(writers)}")
    if path.name == MODEL_WEIGHTS and (path.parent / MODEL_DESCRIPTION).exists():
        raise UserError(f"{path}: is a run's own model, which this would damage; name another file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it, or name another file")
    try:
        with extra_packages(path):
            return writers[form](model, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); name another file") from error


def _metadata(model: TrainedModel) -> dict[str, str]:
    return to_strings(describe(model))


def _safetensors(model: TrainedModel, path: Path) -> str:
    from safetensors.torch import save  # not at the top: see extra_packages

    written = save(cpu_weights(model.net), {"format": "pt", **_metadata(model)})
    atomic_write(path, lambda file: file.write(written))
    return f"{_OUR_IMAGES}, which is in its metadata, as are architecture and classes"


def _whole(model: TrainedModel) -> dict[str, Tensor]:
    """All weights in the grouped layout; the scale of the images, which no state dict tells, is in conv1's."""
    weights = grouped(cpu_weights(model.net))
    scale = model.net.architecture.input_scale
    return {**weights, "conv1.weight": weights["conv1.weight"] * scale} if scale != 1 else weights


def _grouped(model: TrainedModel, path: Path) -> str:
    weights = _whole(model)
    atomic_write(path, lambda file: torch.save(weights, file))
    return _OUR_IMAGES


def _torchvision(model: TrainedModel, path: Path) -> str:
    """torchvision's names; its kind of images, too, where the mean image is ImageNet's mean colour."""
    if model.net.architecture.computing() != TORCHVISION.computing():
        raise UserError(f"{path}: torchvision has no {model.net.architecture.name}, only its own; use grouped")
    weights = _whole(model)
    theirs = INPUTS["imagenet"]
    assert theirs.mean is not None
    standard = np.allclose(model.mean, theirs.mean, rtol=0, atol=1e-3)
    if standard:
        weights["conv1.weight"] = reading_theirs(weights["conv1.weight"], theirs)
    with torch.device("meta"):
        names = list(torchvision.models.alexnet(num_classes=model.net.num_classes).state_dict())
    renamed = dict(zip(names, weights.values(), strict=True))
    atomic_write(path, lambda file: torch.save(renamed, file))
    return "torchvision's images (0..1, standardised by ImageNet's mean and deviation)" if standard else _OUR_IMAGES


class PixelNet(nn.Module):
    """A network that subtracts its own mean image: it reads pixels as they are in the centre crop.

    Args:
        model: on the CPU.
    """

    mean: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        self.net: AlexNet = copy.deepcopy(model.net)
        for parameter in self.net.parameters():
            parameter.data = parameter.data.contiguous()  # torch.export warns of channels_last
        size, side = model.net.image_size, model.mean.shape[0]
        crop = centre_crops(1, side, size)
        top, left = int(crop.top[0]), int(crop.left[0])
        cut = model.mean[top : top + size, left : left + size]  # (S, S, 3)
        self.register_buffer("mean", torch.from_numpy(cut.transpose(2, 0, 1).copy()))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of RGB images (N, 3, S, S) of 0..255, floating-point."""
        logits: Tensor = self.net(images - self.mean)
        return logits


_BATCH_IS_FREE = {"images": {0: torch.export.Dim("batch")}}


def _example(model: TrainedModel) -> tuple[Tensor]:
    size = model.net.image_size
    return (torch.zeros(2, 3, size, size),)  # of 2: torch.export takes a size of 1 for a constant


def _exported_program(model: TrainedModel, path: Path) -> str:
    program = torch.export.export(PixelNet(model).eval(), _example(model), dynamic_shapes=_BATCH_IS_FREE)
    description = json.dumps(describe(model))
    atomic_write(path, lambda file: torch.export.save(program, file, extra_files={MODEL_DESCRIPTION: description}))
    return _PIXELS.format(model.net.image_size)


def _onnx(model: TrainedModel, path: Path) -> str:
    import onnx  # not at the top: see extra_packages
    import onnxscript  # noqa: F401 - torch.onnx needs it, and would ask for it in its own way

    program = torch.onnx.export(
        PixelNet(model).eval(),
        _example(model),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_BATCH_IS_FREE,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    written = program.model_proto
    onnx.helper.set_model_props(written, _metadata(model))
    atomic_write(path, lambda file: file.write(written.SerializeToString()))
    return _PIXELS.format(model.net.image_size)
