"""The edge detector against scipy and by hand."""

import numpy as np
import scipy.ndimage
import torch

from dre.explainers import EdgeDetector
from tests.networks import small_batch, small_classifier


def test_edges_are_those_of_scipy():
    images, targets = small_batch()
    saliency = EdgeDetector(small_classifier())(images, targets)
    for image, found in zip(images.mean(1).double().numpy(), saliency[:, 0], strict=True):
        sobel = [scipy.ndimage.sobel(image, axis=axis, mode="nearest") / 8 for axis in (0, 1)]
        torch.testing.assert_close(found, torch.from_numpy(np.hypot(*sobel)).float(), rtol=1e-4, atol=1e-6)


def test_a_ramp_has_its_slope_everywhere_inside_and_a_flat_image_has_no_edge():
    ramp = (torch.arange(16) * 0.03 + torch.arange(8)[:, None] * 0.04).expand(1, 3, 8, 16)
    saliency = EdgeDetector(small_classifier())(torch.cat([ramp, torch.full_like(ramp, 0.7)]), torch.tensor([0, 0]))
    torch.testing.assert_close(saliency[0, 0, 1:-1, 1:-1], torch.full((6, 14), 0.05))
    assert saliency[1].max() < 1e-6
