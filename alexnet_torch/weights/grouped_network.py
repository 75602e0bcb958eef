"""A network's weights in the grouped layout."""

from torch import Tensor

from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.tower import parameter_name
from alexnet_torch.weights.grouped import towers_to_grouped


def grouped_state_dict(net: AlexNet) -> dict[str, Tensor]:
    """Returns a copy of the weights in the grouped layout, contiguous, on the first parameter's device.

    conv1's weights are multiplied by the architecture's `input_scale`, which a state dict does not contain.
    """
    device = next(net.parameters()).device
    weights = towers_to_grouped({name: value.detach().to(device) for name, value in net.state_dict().items()})
    weights = {name: value.contiguous() for name, value in weights.items()}
    first, scale = parameter_name(net.architecture.stage_names[0], "weight"), net.architecture.input_scale
    return {**weights, first: weights[first] * scale} if scale != 1 else weights
