"""Memory estimate of a network: bytes for each pixel of an image, counted in one forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dre.types import MemoryEstimate

LIVE_AT_ONCE = 4
"""Tensors of the largest size that are alive at the same time: input and output of an operation, the tensor that a
residual branch keeps, and the memory of the operation itself."""


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the bytes of what operations return while the mode is on; views and in-place results are left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self.largest = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled here, and to be left out by the compiler it would have to be imported."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation as it is and count its results."""
        results = func(*args, **(kwargs or {}))
        together = results if isinstance(results, tuple | list) else (results,)
        for result, returned in zip(together, func._schema.returns, strict=False):
            if isinstance(result, Tensor) and returned.alias_info is None:
                self.total += result.nbytes
                self.largest = max(self.largest, result.nbytes)
        return results


def estimate_memory(run: Callable[[Tensor], object], sample: Tensor) -> MemoryEstimate:
    """Run a network once and return the estimate: bytes per pixel of the input, in float32.

    Without a backward pass a few of the largest tensors are alive at once; with one, at most everything that was
    computed is kept, and two gradients of the largest size pass through.

    Args:
        run: Runs the network on images.
        sample: [1, C, H, W].
    """
    with Allocations() as seen:
        run(sample)
    area = sample[0, 0].numel() * sample.element_size() / 4
    return MemoryEstimate(LIVE_AT_ONCE * seen.largest / area, (seen.total + 2 * seen.largest) / area)
