"""Class names: check that data and classifier number the same classes alike."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from dre.models.timm_library import timm_library

IMAGENET = 1000
OTHERWISE = {134: "crane bird", 639: "maillot tank suit"}
"""Names that torchvision gives to two classes of ImageNet-1k."""

NUMBERING = re.compile(r"^(\d+\.|/\w/)")
"""Numbering before the name of a bird, as in `004.Groove_billed_Ani`, or of a place, as in `/a/abbey`."""


@lru_cache
def imagenet_names() -> tuple[str, ...]:
    """Name each class of ImageNet-1k by all its words, as in `tench, Tinca tinca`."""
    info = timm_library().data.ImageNetInfo("imagenet-1k")
    words = [info.index_to_description(index) for index in range(IMAGENET)]
    return tuple(f"{word}, {OTHERWISE[index]}" if index in OTHERWISE else word for index, word in enumerate(words))


@lru_cache
def _imagenet_indices() -> dict[str, int]:
    return {wnid: index for index, wnid in enumerate(timm_library().data.ImageNetInfo("imagenet-1k").label_names())}


def spellings(name: str) -> frozenset[str]:
    """Return the words of which a name consists, without case, numbering, punctuation; a wnid stands for its words."""
    index = _imagenet_indices().get(name)
    words = [name] if index is None else [name, *imagenet_names()[index].split(",")]
    parts = [part for word in words for part in word.split(",")]
    return frozenset(re.sub(r"[\W_]+", " ", NUMBERING.sub("", part.strip())).strip().lower() for part in parts)


def check_class_names(data: Sequence[str] | None, known: Sequence[str] | None, classes: int, classifier: str) -> None:
    """Check that labels mean the same classes to the classifier; warn where only the counts differ.

    Args:
        data: Name of each class by index, empty where no image shows it; `None` where the data name none.
        known: The same of the classifier.
        classes: How many outputs the classifier has.
        classifier: What messages call it.

    Raises:
        ValueError: A class of the data has another name in the classifier.

    Example:
        >>> check_class_names(["cat", "dog"], ["Cat", "Dog"], classes=2, classifier="mine")  # they agree
    """
    if same_classes(data, known, classes):
        return
    if data is not None and known is not None and any(known):
        _compare(data, known, classifier)
    else:
        rank_zero_warn(
            f"the data name {len(data or ())} classes, {classifier} has {classes} outputs and does not say what they "
            "are: labels are right only if both number the same classes"
        )


def same_classes(data: Sequence[str] | None, known: Sequence[str] | None, classes: int) -> bool:
    """Return whether labels of the data mean the classes of a classifier, as far as names and counts tell.

    Data that name no class are taken to number them as the classifier does.

    Example:
        >>> same_classes(["cat", "dog"], ["Cat", "Dog"], 2), same_classes(["cat", "dog"], ["dog", "cat"], 2)
        (True, False)
    """
    if data is None or not any(data):
        return True
    if known is not None and any(known):
        return next(_differences(data, known), None) is None
    return len(data) == classes or (len(data) < classes and not all(data))  # with gaps: a part of another numbering


def are_labels_for(data: Any, classifier: Any) -> bool:
    """Return whether labels of a data module, or of none, mean the classes of a classifier, see `same_classes`."""
    try:
        names = data.class_names() if hasattr(data, "class_names") else None
    except ValueError:  # two of its data sets give one index different names
        return False
    return same_classes(names, classifier.class_names, classifier.num_classes)


def names_of(indices: Iterable[int], known: Sequence[str] | None) -> list[str]:
    """Return the names of classes; of one without a name its index as text, of no class, which is -1, nothing.

    Example:
        >>> names_of([1, 0, -1], ["", "dog"])
        ['dog', '0', '']
    """
    names = known or ()
    return [(names[index] if index < len(names) else "") or str(index) if index >= 0 else "" for index in indices]


def check_count_of_names(names: Sequence[str] | None, classes: int, classifier: str) -> None:
    """Check that there is a name for each output of a classifier, or none at all.

    Raises:
        ValueError: There are more or fewer names.
    """
    if names is not None and len(names) != classes:
        raise ValueError(
            f"`class_names` has {len(names)} names, {classifier} has {classes} outputs; give one name for each, "
            "empty where there is none"
        )


def class_index(name: str, known: Sequence[str] | None, classifier: str) -> int:
    """Return the index of a class by its name, by one of its words, or by its wnid.

    Args:
        name: In any case, such as `school bus` or `n04146614`.
        known: Name of each class of the classifier.
        classifier: What messages call it.

    Raises:
        ValueError: The classifier names no classes, or none or several by this name.

    Example:
        >>> class_index("dog", ["tabby, cat", "Dog"], "mine")
        1
    """
    if known is None or not any(known):
        raise ValueError(
            f"{classifier} does not name its classes, so {name!r} cannot be looked up; give its index, or "
            "`class_names` to Classifier.wrap"
        )
    words = spellings(name)
    exact = [index for index, one in enumerate(known) if one.lower() == name.lower()]
    found = exact or [index for index, one in enumerate(known) if one and spellings(one) & words]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{name!r} is the name of {len(found)} classes of {classifier}, {found}; give the index")
    parts = dict.fromkeys(part.strip() for one in known if one for part in (one.lower(), *one.lower().split(",")))
    near = get_close_matches(name.lower(), list(parts), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see its `class_names`"
    raise ValueError(f"{classifier} has no class {name!r}; {hint}")


def _compare(data: Sequence[str], known: Sequence[str], classifier: str) -> None:
    for index, ours, theirs in _differences(data, known):
        there = f"{theirs!r} to" if theirs else "unknown to"
        raise ValueError(
            f"class {index} is {ours!r} in the data and {there} {classifier}; labels need a classifier of the same "
            "classes: --model.target predicted with --model.images all uses none, and names that mean the same "
            "can be changed in the data"
        )


def _differences(data: Sequence[str], known: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the classes that are named otherwise: the index, and both names."""
    for index, (ours, theirs) in enumerate(zip_longest(data, known, fillvalue="")):
        if ours and (index >= len(known) or (theirs and not spellings(ours) & spellings(theirs))):
            yield index, ours, theirs


def match_classes(
    ours: Sequence[str] | None, theirs: Sequence[str] | None, counts: tuple[int, int], names: tuple[str, str]
) -> list[int]:
    """Return for each class of one classifier its index in another, -1 where the other does not know it.

    Names are compared in any of ImageNet's spellings; of several classes that fit, that of the same index, or else that
    with the largest share of spellings in common, is taken. Where one of the two does not name its classes, they must
    have equally many, and are numbered alike.

    Args:
        ours: Name of each class of the first by index; `None` or all empty where it names none.
        theirs: The same of the second.
        counts: How many outputs the first and the second have.
        names: What messages call them.

    Raises:
        ValueError: They have no class in common, or that cannot be known.

    Example:
        >>> match_classes(["cat", "dog", "emu"], ["Emu", "Cat"], (3, 2), ("mine", "yours"))
        [1, -1, 0]
    """
    if not (ours and any(ours) and theirs and any(theirs)):
        if counts[0] == counts[1]:
            return list(range(counts[0]))
        raise ValueError(
            f"{names[0]} has {counts[0]} classes and {names[1]} has {counts[1]}, and not both say what they are: which "
            "targets both know cannot be told; give two classifiers of the same classes"
        )
    spelled = [spellings(name) if name else frozenset() for name in theirs[: counts[1]]]
    known: dict[str, list[int]] = {}
    for index, words in enumerate(spelled):
        for word in words:
            known.setdefault(word, []).append(index)
    found = [_match(index, name, spelled, known) for index, name in enumerate(ours[: counts[0]])]
    found += [-1] * (counts[0] - len(found))
    if max(found) < 0:
        raise ValueError(
            f"{names[0]} and {names[1]} have no class in common: the first knows {next(filter(None, ours))!r}, the "
            f"second {next(filter(None, theirs))!r}; give two classifiers that share classes"
        )
    return found


def _match(index: int, name: str, spelled: Sequence[frozenset[str]], known: Mapping[str, Sequence[int]]) -> int:
    """Return the class whose spellings are most like those of a name, -1 where there is none or several are."""
    words = spellings(name) if name else frozenset()
    others = {other for word in words for other in known.get(word, ())}
    if index in others or not others:
        return index if index in others else -1
    alike = {other: len(words & spelled[other]) / len(words | spelled[other]) for other in others}
    most = max(alike.values())
    best = [other for other, value in alike.items() if value == most]
    return best[0] if len(best) == 1 else -1
