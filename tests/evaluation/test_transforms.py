"""The torchvision transform gives bitwise what `predict` gives the network."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from alexnet_torch import transforms
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.predict import centre_crop
from alexnet_torch.evaluation.scoring import network_input
from alexnet_torch.weights.model_file import TrainedModel
from tests.support.nets import narrow_net

SIZES = [(64, 73), (66, 75), (65, 68), (67, 67), (224, 256)]
"""Image sizes and sides; of 65 and 68, v2.CenterCrop would cut another crop."""


def make_model(size: int, side: int) -> TrainedModel:
    mean = np.random.default_rng(0).uniform(0, 255, (side, side, 3)).astype(np.float32)
    return TrainedModel(narrow_net(image_size=size).eval(), ("a", "b", "c"), mean)


def input_of_predict(model: TrainedModel, file: Path) -> Tensor:
    crop = centre_crop(file, len(model.mean), model.net.image_size)
    return network_input(model, torch.from_numpy(crop)[None])[0]


def write_images(folder: Path) -> list[Path]:
    """Writes images of many kinds: large and small, grey, transparent, palette, 16-bit, CMYK, rotated by EXIF."""
    pixels = np.random.default_rng(1).integers(0, 256, (60, 90, 3), np.uint8)
    smooth = Image.fromarray(pixels).resize((1300, 900), Image.Resampling.BICUBIC)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    smooth.save(folder / "large.jpg")  # Pillow decodes it at a reduced scale
    smooth.save(folder / "rotated.jpg", exif=rotated)
    smooth.convert("CMYK").save(folder / "cmyk.jpg")
    smooth.convert("L").save(folder / "grey.jpg")
    smooth.save(folder / "large.png")
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(folder / "transparent.png")
    Image.fromarray(pixels).quantize(17).save(folder / "palette.gif")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(("size", "side"), SIZES)
def test_it_is_bitwise_the_input_of_predict(size: int, side: int, tmp_path: Path) -> None:
    model = make_model(size, side)
    transform = transforms(model)
    for file in write_images(tmp_path):
        image = Image.open(file)
        result = transform(image)
        assert (result.shape, result.dtype, type(result)) == ((3, size, size), torch.float32, Tensor)
        assert torch.equal(result, input_of_predict(model, file)), file
        assert torch.equal(transform(image), result), f"{file}: a second call sees another image"


def test_it_works_in_a_data_loader_and_in_a_pipeline_of_v2(run_folder: Path) -> None:
    model = make_model(64, 73)
    dataset = ImageFolder(str(run_folder.parent / "images/val"), transforms(model), loader=Image.open)
    images, labels = next(iter(DataLoader(dataset, 5, num_workers=1)))
    files = [Path(file) for file, _ in dataset.samples[:5]]
    assert torch.equal(images, torch.stack([input_of_predict(model, file) for file in files]))
    assert labels.tolist() == dataset.targets[:5]
    pipeline = v2.Compose([pickle.loads(pickle.dumps(transforms(model))), v2.RandomHorizontalFlip(1.0)])
    mirrored, label = pipeline((Image.open(files[0]), 7))
    assert torch.equal(mirrored, images[0].flip(-1))
    assert label == 7


def test_other_inputs_are_refused() -> None:
    transform = transforms(make_model(64, 73))
    for wrong in ("photo.jpg", np.zeros((80, 80, 3), np.uint8), torch.zeros(3, 80, 80)):
        with pytest.raises(TypeError, match=r"needs a Pillow image as Image\.open returns it, not"):
            transform(wrong)
    with pytest.raises(UserError, match="its white is not known"):
        transform(Image.fromarray(np.zeros((80, 80), np.float32)))
