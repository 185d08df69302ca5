"""Convergence: counts images that are explained to a tolerance, and warns once of those that stop at a bound."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Convergence:
    """Hold the errors that a call left, and warn of those above the tolerance, once in the life of an explainer.

    Args:
        errors: Of the images since the last report, as shares of `scale`.
        tolerance: That they were to reach.
        bound: Option that stops an image, as the user writes it.
        scale: What the errors are shares of.
        was_said: Whether there was a warning before.

    Example:
        >>> found = Convergence()
        >>> found.count([0.002, 0.03], 0.01, "max_steps=32", "the change in score")
        1
    """

    errors: list[float] = field(default_factory=list)
    tolerance: float = 0.0
    bound: str = ""
    scale: str = ""
    was_said: bool = False

    def count(self, errors: Sequence[float], tolerance: float, bound: str, scale: str) -> int:
        """Add the errors of images, as shares of `scale`; return how many are above the tolerance."""
        self.errors += errors
        self.tolerance, self.bound, self.scale = tolerance, bound, scale
        return sum(error > tolerance for error in errors)

    def report(self) -> None:
        """Warn, the first time, of images that stopped at the bound, with what to do; forget the errors."""
        errors, self.errors = self.errors, []
        above = [error for error in errors if error > self.tolerance]
        if above and not self.was_said:
            warnings.warn(
                f"{len(above)} of {len(errors)} explanations stopped at {self.bound} before the error was "
                f"{self.tolerance:g} of {self.scale}, the largest is {max(above):.2g} of it; raise "
                f"`{self.bound.partition('=')[0]}` or `tolerance` (said once; cost.json of an evaluation counts all)",
                stacklevel=3,
            )
            self.was_said = True
