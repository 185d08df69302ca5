"""Options of a mask training about what is shown and about its loss."""

from dataclasses import dataclass

from dre.checks import check_shares
from dre.engine.class_masks import ClassMaskTerms
from dre.engine.objectives import Constraints, ObjectiveName
from dre.engine.shapley import ShapleySettings
from dre.images.fill import BLUR, TrainingFill, check_fills
from dre.modules.mask_sampling import MaskSampling


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Hold the options of a mask training about what is shown and about the loss; `MaskTraining` explains them.

    Raises:
        ValueError: A share is outside [0, 1], a width is not positive, `image_noise` is negative, or a fill is unknown.

    Example:
        >>> LossSettings().mask_sampling
        'controller'
    """

    mask_sampling: MaskSampling = "controller"
    area_softness: float = 0.2
    blur_share: float = 0.5
    fills: list[TrainingFill] | None = None
    contrast_share: float = 0.0
    blur_sigma: float = BLUR.sigma
    image_noise: float = 0.0
    objective: ObjectiveName | None = None
    constraints: Constraints | None = None
    mgnet_fake_share: float = 0.3
    fast_shap: ShapleySettings | None = None
    nn_explainer: ClassMaskTerms | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_shares(
            blur_share=self.blur_share, mgnet_fake_share=self.mgnet_fake_share, contrast_share=self.contrast_share
        )
        if self.fills is not None:
            check_fills(self.fills)
        if self.area_softness <= 0:
            raise ValueError(f"`area_softness` must be positive, got {self.area_softness}")
        if self.blur_sigma <= 0:
            raise ValueError(
                f"`blur_sigma` must be positive, got {self.blur_sigma}; --model.blur_share 0 shows no blur"
            )
        if self.image_noise < 0:
            raise ValueError(f"`image_noise` must not be negative, got {self.image_noise}; 0 adds none")
