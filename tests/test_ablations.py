"""Each ablation: its sizes and parameters at the paper's scale, its gradients, and independent plain nets."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from alexnet_torch import AlexNet, DropoutKey
from alexnet_torch.ablations import ARCHITECTURES, ablated
from alexnet_torch.architecture import CAFFE, PAPER, SOURCE_2012, TORCHVISION, Architecture, Init
from alexnet_torch.errors import UserError
from alexnet_torch.model import count_parameters
from alexnet_torch.recipes import Recipe, demo, paper, source_2012
from alexnet_torch.settings import AblationName

PARAMETERS = {
    "no-norm": 60_965_224,
    "plain-pooling": 60_965_224,
    "one-tower": 59_798_312,
    "never-meet": 60_714_408,
    "no-dropout": 60_965_224,
    "tanh": 60_965_224,
    "no-conv4": 60_965_224 - 384 * (192 * 9 + 1),
    "sixth-conv": 60_965_224 + 256 * (256 * 9 + 1),
}
