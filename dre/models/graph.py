"""Graph of autograd: which tensors of a pass lie on every way from the pixels to the logits."""

from typing import Any

from torch import Tensor


def depths(total: Tensor, pixels: Tensor) -> tuple[dict[tuple[Any, int], int], set[tuple[Any, int]]]:
    """Return the tensors that every way from the pixels to the total passes, by depth, and all that lie on some way.

    A tensor is its node of the autograd graph with the number of its output. It lies on every way when as many ways
    pass it as there are.
    """
    root = (total.grad_fn, 0)
    order = _in_order(root)
    below = dict.fromkeys(order, 0)  # ways from the pixels
    for vertex in order:
        node = vertex[0]
        is_pixels = getattr(node, "variable", None) is pixels
        below[vertex] = 1 if is_pixels else sum(below[following] for following in _next(node))
    above = dict.fromkeys(order, 0)  # ways to the total
    above[root] = 1
    for vertex in reversed(order):
        for following in _next(vertex[0]):
            above[following] += above[vertex]
    everywhere = [vertex for vertex in order if below[vertex] * above[vertex] == below[root] > 0]
    return {vertex: depth for depth, vertex in enumerate(everywhere)}, {v for v in order if below[v] and above[v]}


def _next(node: Any) -> list[tuple[Any, int]]:
    return [(following, number) for following, number in node.next_functions if following is not None]


def _in_order(root: tuple[Any, int]) -> list[tuple[Any, int]]:
    """Return all tensors that the root was computed from, each behind those that it was computed from."""
    order: list[tuple[Any, int]] = []
    known: set[tuple[Any, int]] = set()
    stack = [(root, False)]
    while stack:
        vertex, is_done = stack.pop()
        if is_done:
            order.append(vertex)
        elif vertex not in known:
            known.add(vertex)
            stack.append((vertex, True))
            stack.extend((following, False) for following in _next(vertex[0]) if following not in known)
    return order
