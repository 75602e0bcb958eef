"""The model of a run: its network, and what the images say about the rest."""

from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.weights.model_file import TrainedModel


def run_model(net: AlexNet, prepared: PreparedImages, mirror: bool) -> TrainedModel:
    """Returns a network with the classes and the mean image of the images that it is trained on."""
    return TrainedModel(net, prepared.classes, prepared.mean, mirror, prepared.names)
