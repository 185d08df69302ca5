"""Adapter base class: imports a library when it is used, and checks names of its methods and their options."""

import contextlib
import difflib
import importlib
import inspect
import io
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from dre.checks import check_choice
from dre.engine.chunks import is_out_of_memory
from dre.explainers.base import UnsupportedError
from dre.explainers.cam import feature_map
from dre.explainers.function import ExplainedModel, Maps, OutsideExplainer
from dre.models import Classifier
from dre.models.outputs import first_line
from dre.models.taps import Tap
from dre.types import ScoreName


class ScoredModel(nn.Module):
    """Return the scores [B, K] of all classes in place of the logits.

    Args:
        model: Maps images to logits [B, K].
        score: Which output of a class is its score.
    """

    def __init__(self, model: nn.Module, score: ScoreName) -> None:
        super().__init__()
        self.model, self.score = model, score

    def forward(self, images: Tensor) -> Tensor:
        """Return scores [B, K]."""
        logits: Tensor = self.model(images)
        if self.score == "logit":
            return logits
        return logits.softmax(dim=1) if self.score == "probability" else logits.log_softmax(dim=1)


class Adapter(OutsideExplainer):
    """Explain by a method of another library; a subclass says how it is called.

    The library is imported when the explainer is built. Its errors become one line, its bars of progress are not shown,
    and activations do not work in place while it runs. See `OutsideExplainer` for what is put back and seeded.

    Args:
        classifier: What is explained.
        score: Which output of the target class is explained.
        layer: Name of the layer that is read.
        chunk: Most images in one call.
        seed: Of the method's draws.

    Raises:
        UnsupportedError: The library is not installed.
        ValueError: There is no such score.
    """

    library: ClassVar[tuple[str, str]]
    """Module and distribution of the library."""

    def __init__(
        self,
        classifier: Classifier,
        *,
        score: ScoreName = "logit",
        layer: str | None = None,
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, chunk=chunk, seed=seed, layer=layer)
        check_choice("score", score, get_args(ScoreName))
        self.score: ScoreName = score
        module, distribution = self.library
        self.module(module)
        try:
            self.version = f"{distribution} {version(distribution)}"  # a part of the cache key
        except PackageNotFoundError:
            self.version = distribution

    def module(self, name: str) -> Any:
        """Import a module of the library.

        Raises:
            UnsupportedError: It is not installed.
        """
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = (
                f"{type(self).__name__} needs {self.library[1]}, which cannot be imported ({error}); the extra "
                "`rivals` brings it: pip install -e '.[rivals]'"
            )
            raise UnsupportedError(reason, self.classifier) from None

    def tap(self) -> Tap:
        """Return the feature map that is read: that of `layer`, or the one that our Grad-CAM reads.

        Raises:
            ValueError: No module gives it, so that no hook of the library could read it.
        """
        tap = feature_map(self.classifier, self.called, self.layer)
        if tap.function or tap.item is not None or tap.call:
            raise ValueError(
                f"{self.called} reads the output of a module, and {tap.name!r} of {self.classifier.name} is none; name "
                "one with `layer`"
            )
        return tap

    def attribute(self, model: ExplainedModel, images: Tensor, targets: Tensor) -> Maps:
        """See `OutsideExplainer`.

        Raises:
            ValueError: The library fails on this network; the message has the first line of its own.
        """
        for part in self.classifier.network.modules():
            if getattr(part, "inplace", False) is True:
                part.inplace = False  # type: ignore[assignment]  # hooks of the library must see what was computed
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                return self.call(model, images, targets)
        except Exception as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            raise ValueError(f"{self.called} fails on {self.classifier.name}: {first_line(error)}") from error

    @abstractmethod
    def call(self, model: ExplainedModel, images: Tensor, targets: Tensor) -> Maps:
        """Call the library; images and targets are those of `attribute`."""

    def passes_at_once(self, images: Tensor) -> int:
        """Return the most images in one pass, which methods are told that build copies."""
        return self.chunk.limit(images.device)


def chosen(name: str, known: Mapping[str, Any], what: str) -> Any:
    """Return what a library has under a name.

    Raises:
        ValueError: It has nothing under this name; the message has the nearest ones.

    Example:
        >>> chosen("Oclusion", {"Occlusion": 1}, "method of captum")
        Traceback (most recent call last):
        ValueError: unknown method of captum 'Oclusion'; did you mean Occlusion?
    """
    if name in known:
        return known[name]
    raise ValueError(f"unknown {what} {name!r}; {_nearest(name, known)}")


def check_option_names(options: Collection[str], allowed: Collection[str], owner: str) -> None:
    """Check that a method takes all options that are given.

    Raises:
        ValueError: It does not take one; the message has the nearest ones.

    Example:
        >>> check_option_names(["stride"], ["strides", "baselines"], "captum's Occlusion")
        Traceback (most recent call last):
        ValueError: captum's Occlusion takes no option 'stride'; did you mean strides?
    """
    for option in options:
        if option not in allowed:
            raise ValueError(f"{owner} takes no option {option!r}; {_nearest(option, allowed, 'it takes')}")


def _nearest(name: str, known: Collection[str], all_of: str = "choose one of") -> str:
    spelled = {one.lower(): one for one in known}
    shown = [spelled[near] for near in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(shown)}?" if shown else f"{all_of} {', '.join(sorted(known)) or 'none'}"


def options_in(function: Callable[..., Any], without: Collection[str] = ()) -> list[str]:
    """Return the names of a function's parameters that are options: not `self`, and not those that are left out."""
    parameters = inspect.signature(function).parameters.values()
    named = (one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))
    return [name for name in named if name != "self" and name not in without]


def subset(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the options of these names."""
    return {name: value for name, value in options.items() if name in names}


def as_tuples(value: Any) -> Any:
    """Return lists, as run files give them, as tuples, which libraries ask for; at any depth."""
    if isinstance(value, list | tuple):
        return tuple(as_tuples(one) for one in value)
    return {name: as_tuples(one) for name, one in value.items()} if isinstance(value, dict) else value


def classes_in(module: Any, base: type) -> Iterator[tuple[str, type]]:
    """Yield the public classes of a module that derive from another one, by name."""
    for name, kind in vars(module).items():
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base and not name.startswith("_"):
            yield name, kind


def one_hot(targets: Tensor, classes: int, like: Tensor) -> Tensor:
    """Return [B, K], 1 at the target of each image."""
    return torch.nn.functional.one_hot(targets, classes).to(like)
