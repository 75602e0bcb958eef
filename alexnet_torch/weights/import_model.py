"""A file of weights from elsewhere made a model: what it computes, what images it reads, its classes."""

from dataclasses import dataclass
from pathlib import Path

from torchvision.models import AlexNet_Weights

from alexnet_torch.errors import UserError
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.presets import CAFFE, PRESETS
from alexnet_torch.weights.grouped import grouped_shapes, towered
from alexnet_torch.weights.input_convention import INPUTS, mean_image, named_mean, reading_ours
from alexnet_torch.weights.model_file import TrainedModel, build
from alexnet_torch.weights.weight_file import Foreign, images_read, misfit, read


@dataclass(frozen=True)
class Reading:
    """What the user says of a file that does not say it itself; None leaves it to be found out.

    Attributes:
        architecture: a preset's name.
        inputs: what images the weights read, a key of `INPUTS`.
        mean: as `inputs.named_mean` takes it.
        image_size: of the network's images, in pixels.
    """

    architecture: str | None = None
    inputs: str | None = None
    mean: str | None = None
    image_size: int | None = None


def fit(foreign: Foreign, reading: Reading) -> tuple[Architecture, int]:
    """The preset whose shapes the weights have, and its image size: Caffe's 227 or the others' 224 if none is said.

    Raises:
        UserError: there is none, or there are several and nothing tells which.
    """
    if reading.architecture is not None and reading.architecture not in PRESETS:
        raise UserError(f"--architecture {reading.architecture}: there is none; there are {', '.join(PRESETS)}")
    presets = [PRESETS[reading.architecture]] if reading.architecture else list(PRESETS.values())
    fitting: dict[str, tuple[Architecture, int]] = {}
    nearest: list[str] = []
    for preset in presets:
        size = reading.image_size
        if size is None:
            size = 227 if preset.name == CAFFE.name else 224
        if not preset.fits(size):
            continue
        classes = max(foreign.classes, preset.towers)
        wrong = misfit(foreign, grouped_shapes(preset, classes, size), f"{preset.name} at {size} pixels")
        if not wrong:
            fitting[preset.name] = preset, size
        elif not nearest or len(wrong) < len(nearest):
            nearest = wrong
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if not fitting:
        reason = nearest[0] if nearest else f"{foreign.path}: fits no image of {reading.image_size} pixels"
        raise UserError(f"{reason}; name another file, --architecture or --image-size")
    if foreign.inputs == "caffe" and CAFFE.name in fitting:
        return fitting[CAFFE.name]
    raise UserError(
        f"{foreign.path}: its shapes are those of {', '.join(fitting)}, which compute different things; "
        "say with --architecture which it is"
    )


def _inputs(foreign: Foreign, said: str | None) -> str:
    if said is not None and said not in INPUTS:
        raise UserError(f"--inputs {said}: there is none; there are {', '.join(INPUTS)}")
    known = said or images_read(foreign)
    if known is None:
        raise UserError(
            f"{foreign.path}: say with --inputs what images it reads: rgb (0..255 less the mean), caffe (the same in "
            "BGR) or imagenet (torchvision's)"
        )
    return known


def import_model(path: Path, reading: Reading, classes_file: Path | None = None) -> tuple[TrainedModel, list[str]]:
    """The model in a file, on the CPU, made to read images as all of this package do.

    Args:
        path: as for `foreign.read`.
        reading: what the file does not say itself.
        classes_file: with a class's name on each line, in the order of the logits.

    Returns:
        the model, and lines that say what it is taken for.

    Raises:
        UserError: as `read` and `fit` do; or the file says itself what `reading` says, or does not
            say what nobody can guess.
    """
    foreign = read(path)
    if foreign.description is not None:
        return _described(foreign, reading, classes_file)
    architecture, size = fit(foreign, reading)
    inputs = _inputs(foreign, reading.inputs)
    if reading.mean is not None:
        mean, whence = named_mean(reading.mean, size), f"the mean {reading.mean}"
    elif (colour := INPUTS[inputs].mean) is not None:
        mean = mean_image(colour, size)
        whence = "ImageNet's mean colour " + ",".join(f"{value:.2f}" for value in colour)
    else:
        raise UserError(f"{path}: name with --mean what its images were less: R,G,B of 0..255, or a file")
    first = f"{architecture.convs[0].name}.weight"
    weights = {**foreign.weights, first: reading_ours(foreign.weights[first], INPUTS[inputs])}
    classes, named = _classes(classes_file, foreign.classes)
    net = AlexNet(architecture, len(classes), size, seed=0)
    net.load_state_dict(towered(weights, architecture.towers))
    said = [
        f"{path}: architecture {architecture.name} at {size} pixels, {len(classes)} classes ({named})",
        f"{path}: taken to read {inputs} images, less {whence}",
    ]
    return TrainedModel(net.eval(), classes, mean), said


def _described(foreign: Foreign, reading: Reading, classes_file: Path | None) -> tuple[TrainedModel, list[str]]:
    assert foreign.description is not None
    if reading != Reading():
        raise UserError(f"{foreign.path}: says itself what it is; only --classes can be given with it")
    description = dict(foreign.description)
    try:
        named = "its own"
        if classes_file is not None:
            classes, named = _classes(classes_file, len(description["classes"]))
            description["classes"] = classes
        towers = Architecture.from_dict(description["architecture"]).towers
        model = build(description, towered(foreign.weights, towers), ["cpu"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{foreign.path}: its weights and what it says of them do not fit ({error})") from error
    net = model.net
    said = f"architecture {net.architecture.name} at {net.image_size} pixels, {net.num_classes} classes ({named})"
    return model, [f"{foreign.path}: {said}"]


def _classes(file: Path | None, count: int) -> tuple[tuple[str, ...], str]:
    """The names of the classes, and whence they are."""
    imagenet: list[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    if file is None and count == len(imagenet):
        return tuple(imagenet), "taken for ImageNet's; --classes names others"
    if file is None:
        return tuple(f"class {index}" for index in range(count)), "numbered; --classes names them"
    try:
        names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {file}: cannot be read ({error})") from error
    if len(names) != count:
        raise UserError(f"--classes {file}: has {len(names)} names; the network has {count} classes")
    return names, f"of {file}"
