"""The recipes: each is a short function that returns an architecture with the settings to train it.

"Expected" errors are the sources', top-1 / top-5 on ILSVRC-2012's validation images, unless they are "measured here".
docs/recipes.md and docs/fidelity.md compare the recipes with their sources, part by part.
"""

from collections.abc import Callable
from dataclasses import replace

from alexnet_torch.data.pca_noise import PCANoise
from alexnet_torch.model import presets
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.recipes.recipe import CosineSchedule, EpochSchedule, PlateauSchedule, Recipe


def paper() -> Recipe:
    """The paper's training (section 5), from initial weights that also learn small folders of images.

    A stage's weights have a standard deviation of 0.7 / sqrt(its inputs), 0.007 to 0.020 at 224 pixels, close to
    Caffe's; its biases are Caffe's 0.1 where the paper has 1. conv1 and fc8 have the paper's 0.01.

    Source: the paper, except for the initial weights; its authors lowered the learning rate by hand.
    Command: `python train.py --data imagenet/`
    Cost: 90 epochs; about 48 images/s at 224 pixels on 2 CPU cores.
    Expected: the paper's net has 40.7 / 18.2% with ten crops, and 1.9 points more with the centre crop.
    """
    return Recipe(PAPER, PlateauSchedule(), colour=PCANoise("paper"))


def demo() -> Recipe:
    """A small version of `paper`: 64-pixel images and a short schedule, for minutes on a laptop's CPU.

    Source: this project. Steps with a batch of 32 and a rate of 0.004 are as noisy as with 128 and 0.016.
    Command: `make demo`, or `python train.py --data FOLDER --recipe demo`
    Cost: 2 minutes on 2 CPU cores for the digits; 6 minutes for 5,000 images.
    Expected: measured here, digits 0.6 to 0.9% top-1 error, ten classes of Tiny ImageNet 17.0% (median of 3 seeds).
    """
    schedule = EpochSchedule(factors=((10, 0.3), (14, 0.1), (17, 0.03), (20, 0.01)))
    return Recipe(PAPER, schedule, epochs=24, batch_size=32, image_size=64, lr=0.004)


def paper_literal() -> Recipe:
    """Exactly the paper's text (sections 3 to 5), including its initial weights.

    With weights of 0.01 and biases of 1, the outputs of conv4 to fc7 are almost nothing of the image: at 64 pixels fc7
    varies between images by 0.2% of its size (14% in `paper`), so fc8 only learns how frequent each class is.

    Source: the paper; conv1's padding, which it does not give, is the 2012 source's.
    Command: `python train.py --data imagenet/ --recipe paper-literal`
    Cost: the same as `paper`.
    Expected: chance on small folders: measured here, ten classes of Tiny ImageNet stay at a loss of 2.303.
    """
    return Recipe(presets.PAPER_LITERAL, PlateauSchedule(), colour=PCANoise("paper"))


def source_2012() -> Recipe:
    """Net 145 of the 2012 source as it was trained: geometry, order, norms, initial weights, rates by epoch.

    Differences: one crop and mirror for each image, not for each 32; and conv1's biases learn until the end, as the
    notes give no epoch at which they stop.

    Source: the 2012 source's layer file 145 and the notes at its end, which count epochs from 1.
    Command: `python train.py --data imagenet/ --recipe source-2012`; a small folder needs `--lr 0.002 --batch-size 32`
    Cost: the same as `paper`.
    Expected: 40.66 / 18.21% with ten crops (the notes), 1.9 points more top-1 with the centre crop.
    """
    factors = ((24, 0.1), (50, 0.01), (78, 0.001))
    rates = EpochSchedule(factors, stage_factors=((66, "conv1", 0.001), (71, "conv1", 0.0)))
    recipe = Recipe(presets.SOURCE_2012, rates, epochs=91, colour=PCANoise("source", until=66))
    return replace(recipe, bias_lr_factor=2.0, bias_lr_scheduled=False, bias_decay=0.0)


def caffe() -> Recipe:
    """Caffe's public replication, bvlc_alexnet; its run was stopped at iteration 360,000 of 450,000, epoch 72.

    Source: Caffe's model zoo.
    Command: `python train.py --data imagenet/ --recipe caffe`
    Cost: 72 epochs, with batches twice as large as in `paper`.
    Expected: 42.9 / 19.8% with the centre crop.
    """
    rates = EpochSchedule(factors=((20, 0.1), (40, 0.01), (60, 0.001)))
    return Recipe(presets.CAFFE, rates, epochs=72, batch_size=256, image_size=227, bias_lr_factor=2.0, bias_decay=0.0)


def tensorflow_post() -> Recipe:
    """The TensorFlow post's net and training, without its second softmax in the loss (docs/fidelity.md).

    Source: the post, which has no data, and says that it was never run.
    Command: `python train.py --data FOLDER --recipe tensorflow-post`
    Cost: 90 epochs (the post has 1,000), each with 1.8 times the convolution work of `paper`.
    Expected: the post has no result. Measured here, ten classes of Tiny ImageNet at 64 pixels are at chance
    after 500 steps at 0.01; with `--lr 0.0001` at 44.2% top-1 error.
    """
    recipe = Recipe(presets.TENSORFLOW_POST, EpochSchedule(), batch_size=10, optimizer="adam", mirror=False)
    return replace(recipe, weight_decay=0.0, bias_decay=0.0)


def torchvision() -> Recipe:
    """torchvision's alexnet as its reference script trains it, but for crops, the mean and the update rule.

    Images are divided by 0.226 * 255, as torch's initial weights are meant for values of about 1.

    Source: torchvision's model and reference script; 0.226 is the mean of its three standard deviations.
    Command: `python train.py --data imagenet/ --recipe torchvision`
    Cost: 90 epochs.
    Expected: 43.48 / 20.93% with the centre crop (torchvision's weights); measured here, ten classes of Tiny
    ImageNet at 64 pixels with batches of 32: 77.4% top-1 error after 2 epochs.
    """
    net = replace(presets.TORCHVISION, input_scale=1 / (255 * 0.226))
    rates = EpochSchedule(factors=((30, 0.1), (60, 0.01)))
    return Recipe(net, rates, batch_size=256, weight_decay=1e-4, bias_decay=1e-4)


def cifar_26() -> Recipe:
    """CIFAR-10 as AlexNet's authors first trained it: a small net of one tower, whole images, average pooling.

    Source: cuda-convnet's example layers-80sec.cfg and its layer-params; epochs count from 0.
    Command: `python train.py --data cifar-10.zip --recipe cifar-26`
    Cost: 12 minutes of a CPU core.
    Expected: 26% error of the test images, as published; measured here, on JPEG copies, 27.2% (median of 3 seeds).
    """
    rates, decay = EpochSchedule(factors=((8, 0.1),)), {"fc4": 0.03, "fc5": 0.03}
    return _cifar(presets.CIFAR_26, rates, epochs=10, stage_decay=decay)


def cifar_18() -> Recipe:
    """`cifar-26` with a norm within each channel, a single linear stage, and 140 epochs.

    Source: cuda-convnet's example layers-18pct.cfg and its layer-params.
    Command: `python train.py --data cifar-10.zip --recipe cifar-18`
    Cost: nearly three hours of a CPU core.
    Expected: 18% error of the test images, as published; not measured here.
    """
    rates = EpochSchedule(factors=((120, 0.1), (130, 0.01)))
    return _cifar(presets.CIFAR_18, rates, epochs=140, stage_decay={"fc4": 1.0})


def tiny_imagenet() -> Recipe:
    """The paper's parts for the 200 classes of Tiny ImageNet: towers, norm, overlapping pools, dropout, colour noise.

    The net sees crops of 56 of the 64 pixels, in the paper's ratio of 224 to 256. A short training wants a quarter of
    the units dropped, not half, and a rate that falls along a cosine.

    Source: this project; rate and dropout chosen by the training loss of the first epoch.
    Command: `python train.py --data tiny-imagenet-200 --recipe tiny-imagenet`
    Cost: 12 epochs, three hours of a CPU core.
    Expected: no authority exists; users' AlexNets have 67 to 68% top-1 error.
    """
    rates, colour = CosineSchedule(12), PCANoise("paper")
    return Recipe(presets.TINY_IMAGENET, rates, epochs=12, image_size=56, lr=0.03, warmup_epochs=0.4, colour=colour)


def _cifar(net: Architecture, rates: EpochSchedule, epochs: int, stage_decay: dict[str, float]) -> Recipe:
    recipe = Recipe(net, rates, epochs, image_size=32, lr=0.001, weight_decay=0.004, stage_decay=stage_decay)
    return replace(recipe, bias_lr_factor=2.0, bias_decay=0.0, crop=False, mirror=False)


_ALL = (paper, paper_literal, source_2012, caffe, tensorflow_post, torchvision, demo, cifar_26, cifar_18, tiny_imagenet)
RECIPES: dict[str, Callable[[], Recipe]] = {recipe.__name__.replace("_", "-"): recipe for recipe in _ALL}
