"""Old names and what replaced them: modules, classes, options, values, keys and files, until 0.3.

One table serves imports, class paths and keys in run files (those that runs saved, too), flags, and keyword arguments.
A name is said once in a process, by a FutureWarning that gives the new one. This module imports nothing of `dre`.

It has more than 300 lines because it is one table.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any, TypeVar

LAST = "0.3"
"""Version in which old names stop working."""

_MOVED = """
callbacks < callbacks: image_selection=chosen progress=cost image_selection=extremes panels=first_photographs
callbacks < callbacks: panels=panel panels=salient_pixels
callbacks.studies < callbacks: background=background_replacement figures=curve_charts weights=model_sanity
callbacks.studies < callbacks: projection_gap stability steps=step_study study figures=study_maps
data < data: manifest=credits
dre < dre: api=explain
dre < dre.explainers: api=catalogue
dre.cli < dre: arguments training=classifier_cli dashboard evaluation=evaluation_cli smoke
dre.engine < dre: chunks objectives=losses chunks=memory cost=metering gradients=probes scoring
dre.engine < dre.explainers: chunks=blocks
dre.engine < dre.modules: objectives
dre.explainers < dre.explainers: ggig=ascent gradient=guided learned=masks random=references xrai=regions
dre.explainers.paths < dre.explainers: blur=blur_path guided=guided_path integration straight=paths samp
dre.explainers.paths < dre.explainers: shared=shared_walks projection_gap=step_gaps
dre.explainers.perturbation < dre.explainers: extremal feature_inversion=inversion lime meaningful optimised
dre.explainers.perturbation < dre.explainers: rise=sampled smooth_max
dre.explainers.propagation < dre.explainers: deep_lift function_mode=interception lrp base=propagation relevance
dre.explainers.propagation < dre.explainers: rules=relevance_rules rescale
dre.images < dre: information decode=pictures randomness segments
dre.images < data: boxes
dre.metrics < dre.metrics: localisation=background m_e=explainability m_f=faithfulness
dre.metrics < dre.metrics: information_curves=information_curve xmgd_distance=xmgd base=feeding base=image_curve
dre.metrics < dre.metrics: base=image_mean distribution=middle_share distribution=relief
dre.metrics < dre.metrics: distribution=skewness distribution=sparsity squared_error=stability base=states
dre.mixtures < dre.mixtures: starts=points
dre.models < dre.models: hooks=borrowing memory_estimate=footprint networks=mnist_cnn randomisation=perturbation
dre.modules < dre.modules: schedules=rates
dre.reporting < dre.reporting: html=css figures=ranks_figure page=statistics_section figures=studies
dre.runs < dre: process=environment launch locks directory=runs
dre.runs < dre.reporting: results=run_results
dre.statistics < dre: curves
dre.statistics < dre.statistics: summary=points
reproduction < benchmarks: claims controller controller_inputs precision results run_page pictures=small_pictures
reproduction < benchmarks: study_verdicts verdicts xmgd_study
reproduction < callbacks: callback=paper_table
reproduction < dre.reporting: papers=networks_mean paper_table papers
reproduction.gallery < benchmarks: gallery oddities showcase
reproduction.xmgd_study < benchmarks: distances study_maps study_questions
"""
"""New package < old package: modules, each as its name or, where that changed, as NEW=OLD."""

MODULES: dict[str, str] = {
    "callbacks.studied": "callbacks.studies.study dre.modules.variants",
    "dre.cli": "dre.cli.base dre.cli.training",
    "dre.explainers.backgrounds": "dre.images.fill dre.images.randomness dre.explainers.perturbation.meaningful",
    "dre.imaging": "dre.images.fill dre.images.blur dre.images.maps",
    "dre.masking": "dre.engine.masking dre.images.randomness dre.images.fill",
    "dre.modules.shown": "dre.modules.mask_sampling dre.engine.areas",
    "dre.sweeps": "dre.engine.perturbation dre.engine.chunks",
}
"""Old module -> where its names are now, one module or several; those of `_MOVED` are added below."""

for _line in _MOVED.strip().splitlines():
    _places, _, _names = _line.partition(": ")
    _new, _old = _places.split(" < ")
    for _name in _names.split():
        _now, _, _before = _name.rpartition("=")
        MODULES[f"{_old}.{_before}"] = f"{_new}.{_now or _before}"

NAMES: dict[str, str] = {
    "callbacks.PaperTables": "reproduction.PaperTables",
    "callbacks.chosen.ChosenImages": "callbacks.image_selection.ImageSelection",
    "callbacks.extremes.Extremes": "callbacks.image_selection.BestWorst",
    "dre.explainers.backgrounds.Backgrounds": "dre.images.fill.FillDraws",
    "dre.explainers.base.UnsuitedError": "dre.explainers.base.UnsupportedError",
    "dre.explainers.blocks.blocks": "dre.engine.chunks.chunk_slices",
    "dre.explainers.catalogue.suitable_explainers": "dre.api.supported_explainers",
    "dre.explainers.gradient.SmoothGrad": "dre.explainers.smooth_grad.SmoothGrad",
    "dre.explainers.gradient.SmoothKind": "dre.explainers.smooth_grad.SmoothKind",
    "dre.explainers.interception.Interceptor": "dre.explainers.propagation.function_mode.FunctionMode",
    "dre.imaging.background_mixture": "dre.images.fill.mixture_fill",
    "dre.imaging.baseline_images": "dre.images.fill.fill_images",
    "dre.information.information": "dre.images.information.information_content",
    "dre.losses.total_variation": "dre.engine.objectives.smoothness",
    "dre.masking.substrate": "dre.images.fill.fill_images",
    "dre.metrics.EnergyInside": "dre.metrics.EnergyPointingGame",
    "dre.metrics.energy_inside": "dre.metrics.energy_pointing_game",
    "dre.metrics.localisation.EnergyInside": "dre.metrics.localisation.EnergyPointingGame",
    "dre.metrics.localisation.energy_inside": "dre.metrics.localisation.energy_pointing_game",
    "dre.metrics.relief.relief": "dre.metrics.distribution.normalised_saliency",
    "dre.models.footprint.Footprint": "dre.types.MemoryEstimate",
    "dre.modules.rates.StageRates": "dre.modules.schedules.StageSchedules",
    "dre.modules.shown.ShownName": "dre.modules.mask_sampling.MaskSampling",
    "dre.pictures.rescale": "dre.images.decode.scale_shorter_side",
    "dre.types.Footprint": "dre.types.MemoryEstimate",
    "dre.types.Substrate": "dre.types.Fill",
}
"""Old class or function -> new one, by dotted path."""

BASELINES = {"mean": "image_mean", "neutral": "dataset_mean", "random": "noise"}
FILLS = {"mean": "image_mean", "neutral": "dataset_mean"}
OF_CLASSIFIER = {"mean": "dataset_mean"}

LEARNING_RATES = {
    "embedding_rate": "embedding_lr",
    "head_rate": "head_lr",
    "rate": "lr",
    "rate_epochs": "lr_epochs",
    "rate_factor": "lr_factor",
}

KEYS: dict[str, str] = {**LEARNING_RATES, "masks": "mask_sampling", "unsuited": "unsupported"}
"""Old key of a run file's `model` section -> new one; of the Lightning modules also as keyword arguments."""

_HIDES = ("AverageDrop", "AverageDropInDeletion", "CurveSettings", "IncreaseInConfidence", "SensitivityN", "Sweep")
_SAMP = ("SAMP", "SAMPPlusPlus", "SampPath")
_FROM_BASELINE = ("DeepLift", "GuidedIG", "GuidedPath", "IntegratedGradients", "StraightPath")

OPTIONS: dict[str, dict[str, str]] = {
    **{key: {"substrate": "fill"} for key in _HIDES},
    **{key: {"deletion_end": "deletion_baseline", "insertion_start": "insertion_baseline"} for key in _SAMP},
    **{key: {"background": "fill"} for key in ("FeatureInversion", "InformationSettings", "MeaningfulPerturbation")},
    **dict.fromkeys(("ClassifierTraining", "ExplainerEvaluation", "MaskTraining"), KEYS),
    "ExtremalPerturbation": {"perturbation": "fill"},
}
"""Class -> old option -> new one."""

VALUES: dict[str, dict[str, dict[str, str]]] = {
    **{key: {"fill": FILLS} for key in (*_HIDES, "InformationSettings")},
    **{key: {"deletion_baseline": BASELINES, "insertion_baseline": BASELINES} for key in _SAMP},
    **{key: {"baseline": BASELINES} for key in _FROM_BASELINE},
    **{key: {"fill": OF_CLASSIFIER} for key in ("LIME", "RISE")},
    "CompletenessGap": {"baseline": FILLS},
    "ExtremalPerturbation": {"fill": {"fade": "dataset_mean"}},
}
"""Class -> option -> old value -> new one."""

_FRAGMENTS = """
cam=CAM centred_gaussian=CentredGaussian deep_lift=DeepLift dre=DRE dre_plus=DREPlus edge_detector=EdgeDetector
extremal_perturbation=ExtremalPerturbation feature_inversion=FeatureInversion ggig=GGIG grad_cam=GradCAM
grad_cam_plus_plus=GradCAMPlusPlus guided_backprop=GuidedBackprop input_x_gradient=InputXGradient lime=LIME
lrp=LRP meaningful_perturbation=MeaningfulPerturbation mgnet=MGnet random=Random rise=RISE
smooth_grad=SmoothGrad vanilla_gradient=VanillaGradient
"""

FILES: dict[str, str] = {
    f"configs/explainer/{_name}.yaml": f"dre.explainers.{_kind}"
    for _name, _kind in (_pair.split("=") for _pair in _FRAGMENTS.split())
}
"""Old fragment in configs/ -> the class that a run file names instead, with its defaults."""

LEARNED = ("dre.explainers.DRE", "dre.explainers.DREPlus", "dre.explainers.MGnet")
"""Classes that take the run's checkpoint where a run file names none."""

NESTED = {"settings": ("CurveSettings", "InformationSettings")}
"""Option -> classes of which a run file writes the options alone."""

Kind = TypeVar("Kind", bound=type)

_said: set[str] = set()


def say(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn once in a process, and in the first of several, that a name has been replaced."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if old in _said or any(rank not in ("", "0") for rank in ranks):
        return
    _said.add(old)
    warnings.warn(f"{old} is now {new}; the old name works until {LAST}", FutureWarning, stacklevel=stacklevel)


def class_path(path: str) -> str:
    """Return the present path of a class or function; a path that is not old as it is."""
    if path in NAMES:
        return NAMES[path]
    module, _, name = path.rpartition(".")
    if module not in MODULES or not name:
        return path
    places = [place for place in MODULES[module].split() if hasattr(importlib.import_module(place), name)]
    own = [place for place in places if getattr(getattr(sys.modules[place], name), "__module__", None) == place]
    return f"{[*own, *places][0]}.{name}" if places else path


def options(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a class with their present names and values.

    Args:
        kind: Name of the class, without its module.
        given: By old or new name.

    Raises:
        TypeError: An option is given by its old and by its new name.
    """
    names, values = OPTIONS.get(kind, {}), VALUES.get(kind, {})
    found: dict[str, Any] = {}
    for name, value in given.items():
        new = names.get(name, name)
        if new != name:
            if new in given:
                raise TypeError(f"{kind} is given both `{new}` and `{name}`, which is its old name; leave `{name}` out")
            say(f"`{name}` of {kind}", f"`{new}`", 5)
        found[new] = _value(kind, new, value, values.get(new, {}))
    return found


def _value(kind: str, option: str, value: Any, table: Mapping[str, str]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_value(kind, option, one, table) for one in value)
    if isinstance(value, str) and value in table:
        say(f"{option}={value!r} of {kind}", repr(table[value]), 6)
        return table[value]
    return value


def accepts_old_options(kind: Kind) -> Kind:
    """Let the constructor of a class take its old options as keyword arguments; a class decorator."""
    init = kind.__init__  # type: ignore[misc]
    name = kind.__name__
    parameters = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def translated(self: Any, *args: Any, **given: Any) -> None:
        values = VALUES.get(name, {})
        present = [_value(name, *pair, values.get(pair[0], {})) for pair in zip(parameters, args, strict=False)]
        init(self, *present, *args[len(present) :], **options(name, given))

    kind.__init__ = translated  # type: ignore[misc]
    return kind


def content(found: Any, section: str = "") -> Any:
    """Return what a run file, or a fragment of one, says, in present names.

    Args:
        found: Dicts, lists and plain values, as YAML gives them.
        section: Key under which it stands.
    """
    if isinstance(found, list):
        return [content(one) for one in found]
    if isinstance(found, str):
        return _text(found)
    if not isinstance(found, dict):
        return found
    if isinstance(found.get("class_path"), str):
        found = {**found, "class_path": _text(found["class_path"])}
        if isinstance(found.get("init_args"), dict):
            found["init_args"] = options(found["class_path"].rpartition(".")[2], found["init_args"])
    elif section in NESTED:
        for kind in NESTED[section]:
            found = options(kind, found)
    elif section == "model":
        found = {_key(key): value for key, value in found.items()}
    return {key: content(value, key) for key, value in found.items()}


def _key(key: str) -> str:
    if key in KEYS:
        say(f"`model.{key}` of a run file", f"`model.{KEYS[key]}`")
    return KEYS.get(key, key)


def _text(text: str) -> Any:
    for old, new in FILES.items():
        bare = text.lstrip("./").removeprefix("configs/")
        if bare == old.removeprefix("configs/") and not os.path.exists(text):  # a file of the user's own is read
            say(text, new)
            return {"class_path": new, "init_args": {"checkpoint": None}} if new in LEARNED else new
    new = class_path(text) if text.partition(".")[0] in ("dre", "callbacks", "data") else text
    if new != text:
        say(text, new)
    return new


def flags(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with the present names of options, values as they are."""
    return [_flag(word) if word.startswith("--") else word for word in words]


def _flag(word: str) -> str:
    option, equals, value = word.partition("=")
    head, _, last = option.rpartition(".")
    new = KEYS.get(last) if head == "--model" else None
    if new is None and ".init_args" in head:
        new = next((table[last] for table in OPTIONS.values() if table is not KEYS and last in table), None)
    if new is None:
        return word
    say(option, f"{head}.{new}")
    return f"{head}.{new}{equals}{value}"


def find(module: str, name: str) -> Any:
    """Return what an old name of a module stands for.

    Raises:
        AttributeError: It has no such name.
    """
    path = f"{module}.{name}"
    new = path if name.startswith("__") else class_path(path)  # the interpreter asks modules for many of these
    if new == path:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    say(path, new, 4)
    place, _, attribute = new.rpartition(".")
    return getattr(importlib.import_module(place), attribute)


def getter(module: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module of which names have been replaced."""
    return functools.partial(find, module)


class OldModule(ModuleType):
    """Stands for a module of before: looks its names up where they are now."""

    def __getattr__(self, name: str) -> Any:
        """See `find`."""
        return find(self.__name__, name)


class OldModules(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds old modules, for `import` and for `python -m`."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for a module that stands in the table."""
        if fullname not in MODULES:
            return None
        say(fullname, MODULES[fullname].replace(" ", " and "))
        command = importlib.util.find_spec(_run(fullname)) if fullname.startswith("benchmarks.") else None
        return importlib.util.spec_from_loader(fullname, self, origin=command.origin if command else None)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the stand-in."""
        return OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: names are looked up when they are asked for."""

    def is_package(self, fullname: str) -> bool:
        """No stand-in has modules of its own."""
        return False

    def get_source(self, fullname: str) -> str | None:
        """Return the source of the first module that took its place."""
        source: str | None = _loader(fullname).get_source(_run(fullname))
        return source

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the code of the first module that took its place, for `python -m`."""
        code: CodeType | None = _loader(fullname).get_code(_run(fullname))
        return code


def _run(fullname: str) -> str:
    """Name the module whose code runs as `python -m`: of a package, its `__main__`."""
    new = MODULES[fullname].split()[0]
    spec = importlib.util.find_spec(new)
    return f"{new}.__main__" if spec is not None and spec.submodule_search_locations else new


def _loader(fullname: str) -> Any:
    spec = importlib.util.find_spec(_run(fullname))
    if spec is None:
        raise ImportError(f"no module {_run(fullname)}")
    return spec.loader


FUNCTIONS_NOW = ("dre.explain", "dre.metrics.faithfulness", "dre.metrics.information_curve", "dre.metrics.xmgd")
"""Old modules whose name is that of a public function: an import must not put a module in its place."""


def install() -> None:
    """Make old modules importable."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
    for name in FUNCTIONS_NOW:
        sys.modules.setdefault(name, OldModule(name))


def migration_tables() -> str:
    """Return all old names as Markdown, for the page about migration: `python -m dre.renamed`."""
    commands = {f"python -m {old}": f"python -m {new}" for old, new in MODULES.items() if old.startswith("benchmarks")}
    flat = {f"`{kind}({old}=...)`": f"`{new}=...`" for kind, names in OPTIONS.items() for old, new in names.items()}
    values = {
        f"`{kind}({option}={old!r})`": f"`{option}={new!r}`"
        for kind, table in VALUES.items()
        for option, names in table.items()
        for old, new in names.items()
    }
    sections = {
        "Commands": _coded(commands),
        "Keys of the `model` section": _coded(KEYS),
        "Options": {old: new for old, new in flat.items() if OPTIONS[old[1:].partition("(")[0]] is not KEYS},
        "Values": values,
        "Classes and functions": _coded(NAMES),
        "Fragments of configs": _coded(FILES),
        "Modules": {f"`{old}`": ", ".join(f"`{one}`" for one in new.split()) for old, new in MODULES.items()},
    }
    return "\n".join(
        f"### {title}\n| old | new |\n|---|---|\n" + "".join(f"| {old} | {new} |\n" for old, new in found.items())
        for title, found in sections.items()
    )


def _coded(found: Mapping[str, str]) -> dict[str, str]:
    return {f"`{old}`": f"`{new}`" for old, new in found.items()}


if __name__ == "__main__":
    print(migration_tables())
