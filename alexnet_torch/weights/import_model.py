"""Builds a model from a weight file: finds its architecture, which images it reads, and its class names."""

from pathlib import Path

from torchvision.models import AlexNet_Weights

from alexnet_torch.errors import UserError
from alexnet_torch.files import read_lines
from alexnet_torch.model.alexnet import empty_network
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.model.devices import tower_devices
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.weights.grouped import CONV1, grouped_shapes, grouped_to_towers
from alexnet_torch.weights.inputs import INPUT_CONVENTIONS, mean_from_option, mean_of_colour
from alexnet_torch.weights.model_file import TrainedModel, build_model
from alexnet_torch.weights.weight_file import WeightFile, read_weight_file


def import_model(
    path: Path,
    classes_file: Path | None = None,
    architecture: str | None = None,
    inputs: str | None = None,
    mean: str | None = None,
    image_size: int | None = None,
    key: str | None = None,
) -> tuple[TrainedModel, list[str]]:
    """Returns a model on the CPU of a file and the command's options, None to detect, and lines on what it assumed."""
    for option, name, known in (("--architecture", architecture, PRESETS), ("--inputs", inputs, INPUT_CONVENTIONS)):
        if name is not None and name not in known:
            raise UserError(f"{option} {name}: there is no such one; choose from {', '.join(known)}")
    file = read_weight_file(path, key, image_size)
    classes, source = _class_names(classes_file, file.num_classes)
    notes = [f"{path}: {note}" for note in file.notes]
    if file.description is not None:
        if any(option is not None for option in (architecture, inputs, mean, image_size, key)):
            raise UserError(f"{path}: describes its own model; leave out all options but --output and --classes")
        description = {**file.description, "classes": classes, "names": ()}
        if classes_file is None:
            description, source = file.description, "from the file"
        assert file.architecture is not None
        model = build_model(path, description, grouped_to_towers(file.weights, file.architecture.towers), ["cpu"])
    else:
        preset, size = _choose_architecture(file, architecture, image_size)
        inputs = inputs or file.inputs
        if inputs is None:
            choices = "rgb (0..255 minus the mean), caffe (the same in BGR) or imagenet (torchvision's)"
            raise UserError(f"{path}: does not say which images it reads; choose with --inputs: {choices}")
        convention = INPUT_CONVENTIONS[inputs]
        if mean is not None:
            mean_image, mean_source = mean_from_option(mean, size), f"the mean {mean}"
        elif convention.mean is not None:
            mean_image = mean_of_colour(convention.mean, size)
            mean_source = "ImageNet's mean colour " + ",".join(f"{value:.2f}" for value in convention.mean)
        else:
            raise UserError(f"{path}: does not say its images' mean; give it with --mean: R,G,B of 0..255, or a file")
        weights = {**file.weights, CONV1: convention.to_ours(file.weights[CONV1])}
        net = empty_network(preset, len(classes), size, tower_devices("cpu", preset.towers))
        net.load_state_dict(grouped_to_towers(weights, preset.towers))
        model = TrainedModel(net.eval(), classes, mean_image)
        notes.append(f"{path}: assumed to read {inputs} images, minus {mean_source}")
    network = f"{model.net.architecture.name} at {model.net.image_size} pixels, {len(model.classes)} classes ({source})"
    return model, [f"{path}: architecture {network}", *notes]


def _choose_architecture(file: WeightFile, name: str | None, image_size: int | None) -> tuple[Architecture, int]:
    """Returns the file's architecture, or the one preset with its shapes, and its image size."""
    known = file.architecture
    own = {"--architecture": (name, known and known.name), "--image-size": (image_size, file.image_size)}
    for option, (given, of_file) in own.items():
        if given and of_file and given != of_file:
            raise UserError(f"{option} {given}: that of {file.path} is {of_file}; leave out {option}")
    fitting, problems = [], [[f"{file.path}: no architecture reads images of {image_size} pixels"]]
    for net in [known] if known else [PRESETS[name]] if name else PRESETS.values():
        # Caffe's networks, without padding before conv1, are meant for 227 pixels
        size = image_size if image_size is not None else file.image_size or (224 if any(net.convs[0].padding) else 227)
        if net.fits(size):
            shapes = grouped_shapes(net, max(file.num_classes, net.towers), size)
            if mismatches := file.mismatches(shapes, f"{net.name} at {size} pixels"):
                problems.append(mismatches)
            else:
                fitting.append((net, size))
    if not fitting:
        fewest = min(problems[1:], key=len, default=problems[0])
        raise UserError(f"{fewest[0]}; name another file, --architecture or --image-size")
    if len(fitting) > 1:
        which = f"{', '.join(net.name for net, _ in fitting)}, which compute different things"
        raise UserError(f"{file.path}: its shapes fit {which}; choose one with --architecture")
    return fitting[0]


def _class_names(file: Path | None, count: int) -> tuple[tuple[str, ...], str]:
    if file is not None:
        names = tuple(read_lines(file, "--classes"))
        if len(names) != count:
            raise UserError(f"--classes {file}: has {len(names)} names, but the network has {count} classes; name all")
        return names, f"from {file}"
    imagenet: list[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    if count == len(imagenet):
        return tuple(imagenet), "assumed to be ImageNet's; --classes names others"
    return tuple(f"class {index}" for index in range(count)), "numbered; --classes names them"
