"""What others do for the same work: captum, the `saliency` package, and published loops written plainly.

Each function builds a call that explains a batch as a user of that library would, or raises ImportError where the
library is not installed. All get the same images, targets and counts as ours.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dre.explainers.sampled import CellMasks
from dre.models import Classifier
from dre.scoring import ScoreName, score

Peer = Callable[[Classifier, Tensor, Tensor], Callable[[], object]]


def captum_integrated_gradients(steps: int, together: int) -> Peer:
    """Captum's, with `together` rows in a pass: its loop cuts the expanded batch into such parts."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        from captum.attr import IntegratedGradients

        explainer = IntegratedGradients(lambda pixels: classifier(pixels).softmax(1))
        return lambda: explainer.attribute(images, target=targets, n_steps=steps, internal_batch_size=together)

    return peer


def captum_smooth_grad(samples: int, together: int) -> Peer:
    """Captum's noise tunnel over its saliency."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        from captum.attr import NoiseTunnel, Saliency

        explainer = NoiseTunnel(Saliency(lambda pixels: classifier(pixels).softmax(1)))
        return lambda: explainer.attribute(
            images,
            target=targets,
            nt_samples=samples,
            nt_samples_batch_size=max(1, together // len(images)),
            stdevs=0.15,
        )

    return peer


def captum_deep_lift(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """Captum's rescale rule from a black baseline; it needs networks without reused or functional activations."""
    from captum.attr import DeepLift

    explainer = DeepLift(classifier)
    return lambda: explainer.attribute(images.clone(), torch.zeros_like(images), target=targets)


def saliency_blur_ig(steps: int) -> Peer:
    """Run the package's BlurIG image by image, eight steps in one call of the network."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        from saliency.core import BlurIG

        explainer = BlurIG()
        return _each_image(
            classifier, images, targets, lambda image, ask: explainer.GetMask(image, ask, steps=steps, batch_size=8)
        )

    return peer


def saliency_guided_ig(steps: int) -> Peer:
    """Run the package's Guided IG image by image."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        from saliency.core import GuidedIG

        explainer = GuidedIG()
        _repair_quantile()
        return _each_image(
            classifier,
            images,
            targets,
            lambda image, ask: explainer.GetMask(
                image, ask, x_baseline=np.zeros_like(image), x_steps=steps, fraction=0.5, max_dist=1.0
            ),
        )

    return peer


def plain_rise(masks: int, together: int) -> Peer:
    """TorchRay's loop, which does not import on today's packages: masks built and shown one part at a time."""

    def peer(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
        size = (images.shape[-2], images.shape[-1])

        @torch.no_grad()
        def explain() -> Tensor:
            total = torch.zeros(len(images), 1, *size)
            drawn = CellMasks.draw(masks, 7, 0.5, size, 0, like=images)
            for row, target in enumerate(targets.tolist()):
                for start in range(0, masks, together):
                    part = drawn.build(slice(start, min(start + together, masks)))
                    scores = classifier(images[row : row + 1] * part).softmax(1)[:, target]
                    total[row, 0] += (scores[:, None, None] * part[:, 0]).sum(0)
            return total / masks / 0.5

        return explain

    return peer


def plain_grad_cam(classifier: Classifier, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """Grad-CAM as pytorch-grad-cam runs it: a whole forward and backward pass, image maps enlarged on numpy."""
    from skimage.transform import resize

    def explain() -> np.ndarray:
        pixels = images.clone().requires_grad_()
        maps, logits = classifier.activations(pixels)
        score(logits, targets, "logit").sum().backward(inputs=[maps, pixels])
        weights = maps.grad.mean((2, 3), keepdim=True)
        cams = (weights * maps).sum(1).relu().detach().numpy()
        return np.stack([resize(cam, images.shape[-2:], order=1) for cam in cams])

    return explain


def _each_image(
    classifier: Classifier, images: Tensor, targets: Tensor, explain: Callable[..., np.ndarray]
) -> Callable[[], object]:
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()

    def run() -> np.ndarray:
        asked = (_gradients(classifier, target, "probability") for target in targets.tolist())
        return np.stack([explain(array, ask) for array, ask in zip(arrays, asked, strict=True)])

    return run


def _gradients(classifier: Classifier, target: int, name: ScoreName) -> Callable[..., dict[str, np.ndarray]]:
    """Build what the package calls: images [B, H, W, C] to their gradients."""

    def gradients(images: np.ndarray, call_model_args: object = None, expected_keys: object = None) -> dict:
        from saliency.core import INPUT_OUTPUT_GRADIENTS

        pixels = torch.as_tensor(np.asarray(images)).float().permute(0, 3, 1, 2).requires_grad_()
        value = score(classifier(pixels), torch.full((len(pixels),), target), name).sum()
        (gradient,) = torch.autograd.grad(value, pixels)
        return {INPUT_OUTPUT_GRADIENTS: gradient.permute(0, 2, 3, 1).numpy()}

    return gradients


@functools.cache
def _repair_quantile() -> None:
    """Give numpy's quantile the argument name back that the package's last release uses."""
    quantile = np.quantile

    def old_quantile(values, q, interpolation="linear", **options):
        return quantile(values, q, method=interpolation, **options)

    np.quantile = functools.wraps(quantile)(old_quantile)
