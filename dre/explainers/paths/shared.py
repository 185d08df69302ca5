"""Shared walks: path explainers with equal paths walk once, because only their rules and channels differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor

from dre.checks import NonFiniteError, NonFiniteSaliencyError, check_saliency
from dre.engine.cost import Meter
from dre.explainers.base import Explainer
from dre.explainers.paths.integration import PathExplainer


@dataclass(frozen=True, slots=True)
class Waiting:
    """Hold a map that was made along with another until it is asked for."""

    images: Tensor
    targets: Tensor
    keys: list[str]
    saliency: Tensor

    def is_for(self, images: Tensor, targets: Tensor, keys: Sequence[str]) -> bool:
        """Return whether it is the map of these images and classes."""
        is_same = images is self.images or torch.equal(images, self.images)
        return is_same and self.keys == list(keys) and torch.equal(targets, self.targets)


class WalkForAll(PathExplainer):
    """Walk the path of several explainers once and keep the others' maps in `maps`; the first one bears the cost.

    Args:
        members: Explainers of one path, see `walk_alike`.
    """

    def __init__(self, members: Sequence[PathExplainer]) -> None:
        first = members[0]
        super().__init__(first.classifier, first.path, first.rule, score=first.score, reduce=first.reduce)
        self.cost, self.chunk = first.cost, first.chunk
        self.members = list(members)
        self.maps: list[Tensor] = []

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """See `Explainer.forward`."""
        integrals = self.integrals(images, targets, [member.rule for member in self.members])
        first, *others = [member.read(one) for member, one in zip(self.members, integrals, strict=True)]
        self.maps = [saliency.detach().float() for saliency in others]
        return first


class SharedWalks:
    """Explain with several explainers, walking once for those with equal paths; no map changes by that.

    Args:
        explainers: By name; the first of several with equal paths walks for all of them when it is called.
    """

    def __init__(self, explainers: Mapping[str, Explainer]) -> None:
        self.explainers = dict(explainers)
        groups: dict[str, list[str]] = {}
        for name, one in self.explainers.items():
            leader = next((other for other in groups if walk_alike(self.explainers[other], one)), name)
            groups.setdefault(leader, []).append(name)
        self.followers = {leader: names[1:] for leader, names in groups.items() if len(names) > 1}
        self.leaders = {name: leader for leader, names in self.followers.items() for name in names}
        self._walks = {leader: self._walk_for(leader, names) for leader, names in self.followers.items()}
        self._waiting: dict[str, Waiting] = {}

    def waiting(self, name: str, images: Tensor, targets: Tensor, keys: Sequence[str]) -> Tensor | None:
        """Take the unchecked map [B, 1, H, W] that was made with the leader's; None where these images have none."""
        found = self._waiting.pop(name, None)
        return found.saliency if found is not None and found.is_for(images, targets, keys) else None

    def forget(self) -> None:
        """Drop the maps that nobody asked for."""
        self._waiting.clear()

    def explain(self, name: str, images: Tensor, targets: Tensor, keys: Sequence[str]) -> Tensor:
        """Explain with one of them, and with all that follow it where it leads; see `Explainer.forward`.

        Raises:
            NonFiniteSaliencyError: The map has NaN or infinity in it.
            ValueError: Images or targets of a wrong shape or range.
        """
        if name not in self._walks:
            made = self.waiting(name, images, targets, keys)
            if made is None:
                alone: Tensor = self.explainers[name](images, targets, keys)
                return alone
            check_saliency(made, images)
            return made
        walk = self._walks[name]
        try:
            saliency: Tensor = walk(images, targets, keys)
        finally:  # a map that is not finite is refused; the others may be
            for follower, made in zip(self.followers[name], walk.maps, strict=False):
                self._waiting[follower] = Waiting(images, targets, list(keys), made)
            walk.maps = []
        return saliency

    def explain_measured(
        self, name: str, meters: Mapping[str, Meter], images: Tensor, targets: Tensor, keys: Sequence[str]
    ) -> Tensor:
        """Explain with one of them within its meter; what is not finite is in the maps and raises no error.

        Args:
            name: Of the explainer.
            meters: By name; one that follows another is counted at what the walk for both took.
            images: [B, C, H, W].
            targets: [B].
            keys: Sample names.
        """
        made = self.waiting(name, images, targets, keys)
        if made is not None:
            meters[name].follow(meters[self.leaders[name]], len(images))
            return made
        with meters[name].explaining(len(images), images.device):
            found = self._or_broken(name, images, targets, keys)
            if found is not None:
                return found
            rows = [slice(place, place + 1) for place in range(len(images))]
            parts = [self._or_broken(name, images[row], targets[row], keys[row]) for row in rows]
            blank = images.new_full((1, 1, *images.shape[2:]), torch.nan, dtype=torch.float32)
            return torch.cat([blank if part is None else part for part in parts])

    def _or_broken(self, name: str, images: Tensor, targets: Tensor, keys: Sequence[str]) -> Tensor | None:
        """Return maps, finite or not; None where something in between was not finite."""
        try:
            return self.explain(name, images, targets, keys)
        except NonFiniteSaliencyError as failure:
            return failure.saliency
        except NonFiniteError:
            return None

    def _walk_for(self, leader: str, names: Sequence[str]) -> WalkForAll:
        members = [self.explainers[name] for name in (leader, *names)]
        return WalkForAll([member for member in members if isinstance(member, PathExplainer)])


def walk_alike(one: Explainer, other: Explainer) -> bool:
    """Return whether two explainers take the same gradients at the same waypoints, so that a walk can serve both."""
    return (
        isinstance(one, PathExplainer)
        and isinstance(other, PathExplainer)
        and all(_is_plain(each) for each in (one, other))
        and one.classifier is other.classifier
        and (one.score, one.chunk.size) == (other.score, other.chunk.size)
        and _equal(one.path, other.path)
    )


def _is_plain(explainer: PathExplainer) -> bool:
    """Return whether an explainer walks and reads as every path explainer does, so that another can do it for it."""
    ways = ("forward", "explain", "integrate", "integrals", "read", "probe", "generators")
    return all(getattr(type(explainer), way) is getattr(PathExplainer, way) for way in ways)


def _equal(one: object, other: object) -> bool:
    """Compare settings, tensors by identity."""
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Tensor):
        return False
    if is_dataclass(one) and is_dataclass(other):
        return all(_equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, str | int | float | bool | None) and one == other
