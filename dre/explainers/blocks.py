"""Cut "every image in several versions" into blocks of bounded size, the same way for every explainer."""

from collections.abc import Iterator

import torch

from dre.chunks import Chunk
from dre.sweeps import slices


def blocks(batch: int, versions: int, chunk: Chunk, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Give slices of the batch and of the versions of each image, versions in ascending order.

    A block is built at once and is no larger than the chunk was at the start; where a smaller one turns out to be
    needed, the probe halves what it is given.

    Args:
        batch: Images.
        versions: Versions of each image: noise samples, points of a line.
        chunk: Most images in one block.
        device: That the block is meant for.
    """
    size = chunk.limit(device)
    for rows in slices(batch, max(1, size // versions)):
        for columns in slices(versions, size):
            yield rows, columns
