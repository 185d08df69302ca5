"""Cut "every image in several versions" into blocks of bounded size, the same way for every explainer."""

from collections.abc import Iterator

from dre.sweeps import CHUNKS, slices


def blocks(batch: int, versions: int, chunk: int | None, device: str) -> Iterator[tuple[slice, slice]]:
    """Give slices of the batch and of the versions of each image, versions in ascending order.

    Args:
        batch: Images.
        versions: Versions of each image: noise samples, points of a line.
        chunk: Most images in one block; chosen by device when not given.
        device: Type of the device that the block is meant for.
    """
    size = chunk or CHUNKS.get(device, CHUNKS["cpu"])
    for rows in slices(batch, max(1, size // versions)):
        for columns in slices(versions, size):
            yield rows, columns


def check_count(name: str, value: int, least: int = 1) -> None:
    """Refuse a number of samples, points or steps that is too small to explain anything."""
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}")


def check_chunk(chunk: int | None) -> None:
    """Refuse a chunk of no image; None chooses by device."""
    if chunk is not None:
        check_count("chunk", chunk)
