"""Memory estimate, against a network whose tensors are counted by hand."""

import torch
from torch import nn

from dre.models import Classifier
from tests.networks import SmallNetwork


def test_the_footprint_of_a_network_that_is_counted_by_hand():
    """8 x 8 pixels of 3 channels; 4 channels after the convolution, in place after the ReLU, 4 averages, 2 logits."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    memory_estimate = Classifier.wrap(network, size=(8, 8)).memory_estimate
    maps, rest = 4 * 64 * 4, (4 + 2) * 4
    assert memory_estimate.forward == 4 * maps / 64
    assert (
        maps + 2 * maps <= memory_estimate.backward * 64 <= maps + 2 * maps + rest + 4 * (4 * 2 + 4)
    )  # its transposed weight


def test_the_footprint_does_not_depend_on_the_type_of_the_weights():
    torch.manual_seed(0)
    single = Classifier.wrap(SmallNetwork().eval(), size=(64, 64)).memory_estimate
    double = Classifier.wrap(SmallNetwork().double().eval(), size=(64, 64)).memory_estimate
    assert single == double
