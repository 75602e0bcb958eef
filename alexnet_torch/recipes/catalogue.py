"""Recipes: an architecture and the settings to train it with, each a short function.

Errors are top-1 / top-5 on ILSVRC-2012's validation images. No run on ILSVRC-2012 was made here: an
"Expected" error is its source's, and whatever was measured on small folders is said to be so.
"""

from collections.abc import Callable
from dataclasses import replace

from alexnet_torch.data.colour import ColourNoise
from alexnet_torch.model.architecture import PAPER, Architecture, Init
from alexnet_torch.model.presets import CAFFE, SOURCE_2012, TENSORFLOW_POST, TORCHVISION
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.schedules import EpochSchedule, PlateauSchedule


def paper() -> Recipe:
    """The paper's training (section 5), from weights that carry any folder's images through.

    A stage's weights have a standard deviation of 0.7 / sqrt(its inputs), its biases Caffe's 0.1 where
    the paper has 1; conv1 and fc8 keep the paper's 0.01. At 224 pixels that is 0.007 to 0.020, about
    Caffe's 0.005 to 0.01, which are known to learn ImageNet; but it follows the layers' inputs (LeCun
    et al., 1998), where 0.01 everywhere starves a network of small images, whose fc6 reads 256 numbers.

    Source: the paper, but for the initial weights and the rate's fall, there by hand, here after 6
    validations without a better one.
    Command: `python train.py --data imagenet/`
    Cost: 90 epochs; about 48 images/s at 224 pixels on 2 CPU cores.
    Expected: the paper's own net has 40.7 / 18.2% with ten crops, 1.5 points more with the centre crop.
    """
    return Recipe(_fan_in(PAPER), PlateauSchedule(), colour=ColourNoise("paper"))


def _fan_in(net: Architecture) -> Architecture:
    """The architecture with weights by fan-in, and 0.1 for its biases of 1."""
    middle = {s.name: Init(0.7, 0.1 * float(s.init.bias or 0), by_fan_in=True) for s in net.stages[1:-1]}
    return net.with_init(**middle)


def demo() -> Recipe:
    """`paper` made small: 64-pixel images and a short schedule, for minutes on a laptop's CPU.

    A batch of 32 at 0.004 takes steps as noisy as the paper's 128 at 0.016. No colour noise.

    Source: ours.
    Command: `make demo`, or `python train.py --data FOLDER --recipe demo`
    Cost: 2 minutes on 2 CPU cores for the digits; 14 to 21 on one core for 5,000 images.
    Expected: digits 0.6% top-1 error; ten classes of Tiny ImageNet 16.6% (median of 3 seeds).
    """
    schedule = EpochSchedule(factors=((10, 0.3), (14, 0.1), (17, 0.03), (20, 0.01)))
    return Recipe(_fan_in(PAPER), schedule, epochs=24, batch_size=32, image_size=64, lr=0.004)


def paper_literal() -> Recipe:
    """The paper's text to the letter (sections 3 to 5), its initialisation included.

    Where it gets stuck: at the loss of guessing, ln(classes), once the first 40 steps or so have overshot and
    come back. With weights of 0.01 and biases of 1, the stages from conv4 to fc7 put out their biases and
    hardly anything of the image: at 64 pixels fc7 varies from image to image by 0.2% of its size (by 14% in
    `paper`). All images look alike to fc8, which learns how frequent the classes are and no more. The 2012
    source has 0.03 in conv3 to conv5, which the text leaves out; Caffe found biases of 0.1 necessary.
    `benchmarks/experiments/initialisation.py` compares the four.

    Source: the paper; conv1's padding, which it leaves open, is the 2012 source's.
    Command: `python train.py --data imagenet/ --recipe paper-literal`
    Cost: as `paper`.
    Expected: chance on small folders: ten classes of Tiny ImageNet at 64 pixels, batch 32, have a loss of
    2.303 and 90.0% top-1 error after an epoch.
    """
    return Recipe(PAPER, PlateauSchedule(), colour=ColourNoise("paper"))


def source_2012() -> Recipe:
    """Net 145 of the 2012 source as it was run: geometry, order, norms, initialisation, rates by epoch.

    The weights' rate is 0.01, from epoch 25 0.001, from 51 0.0001, from 79 0.00001; but conv1's is 0.00001 from
    epoch 67, when the colour noise ends, and 0 from 72. Biases have no decay and twice the weights' rate of
    the start, 0.02, to the end, as the layer file was left. (Epochs are counted from 1 here, as there, and
    from 0 in the code.) What differs: one crop and mirror for each image, not for each 32; and conv1's
    biases learn to the end, where the file as left has rate 0 for them, and the notes do not say since when.

    Source: the 2012 source's layer file 145 and the notes at its end.
    Command: `python train.py --data imagenet/ --recipe source-2012`; a folder of ten classes, at 64 pixels,
    needs `--lr 0.002 --batch-size 32` (47.8% top-1 error on Tiny ImageNet's after 2 epochs); 0.01 is too high.
    Cost: as `paper`.
    Expected: 40.66 / 18.21% with ten crops (the notes), about 1.5 points more top-1 with the centre crop.
    """
    rates = EpochSchedule(
        factors=((24, 0.1), (50, 0.01), (78, 0.001)),
        stage_factors=((66, "conv1", 0.001), (71, "conv1", 0.0)),
    )
    colour = ColourNoise("source", until=66)
    return Recipe(
        SOURCE_2012, rates, epochs=91, bias_lr_factor=2.0, bias_lr_scheduled=False, bias_decay=0.0, colour=colour
    )


def caffe() -> Recipe:
    """Caffe's public replication, bvlc_alexnet: 227-pixel crops, biases of 0.1, mirror and crop alone.

    The rate falls tenfold every 100,000 iterations of 256, 20 epochs of ImageNet; it was stopped at 360,000
    of 450,000. Biases learn at twice the weights' rate, without decay.

    Source: Caffe's model zoo.
    Command: `python train.py --data imagenet/ --recipe caffe`
    Cost: 72 epochs, of twice as large batches as `paper`.
    Expected: 42.9 / 19.8% with the centre crop.
    """
    rates = EpochSchedule(factors=((20, 0.1), (40, 0.01), (60, 0.001)))
    return Recipe(CAFFE, rates, epochs=72, batch_size=256, image_size=227, bias_lr_factor=2.0, bias_decay=0.0)


def tensorflow_post() -> Recipe:
    """The TensorFlow post's net and training, with its loss mended.

    One tower of 224-pixel images, SAME padding throughout, TensorFlow's defaults of response normalisation,
    weights from truncated normals, Adam at 0.01, batches of 10, no weight decay. TensorBoard has the post's
    scalars, cross_entropy and accuracy, for every recipe; and the graph.

    The post's defect, not copied: its network ends in a softmax, and its loss applies softmax to that again.
    The logits of the second softmax are probabilities, within 1 of each other, so with 1,000 classes the
    right one gets at most e / (e + 999) = 0.27%, the loss never falls below 5.9, and its gradient all but
    vanishes. And the loss is the sum over the batch: its "mean" is that of one number. So its size, and an
    SGD step's, would depend on the batch (Adam's steps hide it). Here the loss is the mean over the batch of
    the cross-entropy of one softmax.

    What else differs: images are cut at random from squares 256/224 as large, in random order, and their
    mean is subtracted, as for every recipe here. The post has no data, and says that it was never run.

    Source: the post.
    Command: `python train.py --data FOLDER --recipe tensorflow-post`
    Cost: 90 epochs (the post has 1,000), more than `paper`'s: 1.8 times the convolutions' work.
    Expected: the post has no result. At 0.01, ten classes of Tiny ImageNet at 64 pixels are at chance after
    500 steps, 90.0% top-1 error; with `--lr 0.0001` at 44.2%.
    """
    return Recipe(
        TENSORFLOW_POST,
        EpochSchedule(),
        batch_size=10,
        optimizer="adam",
        weight_decay=0.0,
        bias_decay=0.0,
        mirror=False,
    )


def torchvision() -> Recipe:
    """torchvision's alexnet as its reference script trains it: one tower, no norm, torch's initialisation.

    SGD at 0.01 with momentum 0.9 and weight decay 1e-4, biases included, tenfold lower every 30 epochs. Images
    are divided by torchvision's standard deviation of 0.226 (the mean of its three channels') of 255: its
    initial weights are meant for values of about 1. What differs: random 224-pixel crops of 256-pixel squares
    where the script crops at random sizes and shapes; the mean image where it has a mean colour; the paper's
    rule of update.

    Source: torchvision's model and reference script.
    Command: `python train.py --data imagenet/ --recipe torchvision`
    Cost: 90 epochs.
    Expected: 43.48 / 20.93% with the centre crop (torchvision's weights). Ten classes of Tiny ImageNet at 64
    pixels, batch 32: 77.4% top-1 error after 2 epochs.
    """
    net = replace(TORCHVISION, input_scale=1 / (255 * 0.226))
    rates = EpochSchedule(factors=((30, 0.1), (60, 0.01)))
    return Recipe(net, rates, batch_size=256, weight_decay=1e-4, bias_decay=1e-4)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "paper": paper,
    "paper-literal": paper_literal,
    "source-2012": source_2012,
    "caffe": caffe,
    "tensorflow-post": tensorflow_post,
    "torchvision": torchvision,
    "demo": demo,
}
