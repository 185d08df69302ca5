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
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any, TypeVar

LAST = "0.3"
"""Version in which old names stop working."""

MODULES: dict[str, str] = {
    "benchmarks.claims": "reproduction.claims",
    "benchmarks.controller": "reproduction.controller",
    "benchmarks.controller_inputs": "reproduction.controller_inputs",
    "benchmarks.distances": "reproduction.xmgd_study.distances",
    "benchmarks.gallery": "reproduction.gallery.gallery",
    "benchmarks.oddities": "reproduction.gallery.oddities",
    "benchmarks.precision": "reproduction.precision",
    "benchmarks.results": "reproduction.results",
    "benchmarks.run_page": "reproduction.run_page",
    "benchmarks.showcase": "reproduction.gallery.showcase",
    "benchmarks.small_pictures": "reproduction.pictures",
    "benchmarks.study_maps": "reproduction.xmgd_study.study_maps",
    "benchmarks.study_questions": "reproduction.xmgd_study.study_questions",
    "benchmarks.study_verdicts": "reproduction.study_verdicts",
    "benchmarks.verdicts": "reproduction.verdicts",
    "benchmarks.xmgd_study": "reproduction.xmgd_study",
    "callbacks.background_replacement": "callbacks.studies.background",
    "callbacks.chosen": "callbacks.image_selection",
    "callbacks.cost": "callbacks.progress",
    "callbacks.curve_charts": "callbacks.studies.figures",
    "callbacks.extremes": "callbacks.image_selection",
    "callbacks.first_photographs": "callbacks.panels",
    "callbacks.model_sanity": "callbacks.studies.weights",
    "callbacks.panel": "callbacks.panels",
    "callbacks.paper_table": "reproduction.callback",
    "callbacks.projection_gap": "callbacks.studies.projection_gap",
    "callbacks.salient_pixels": "callbacks.panels",
    "callbacks.stability": "callbacks.studies.stability",
    "callbacks.step_study": "callbacks.studies.steps",
    "callbacks.studied": "callbacks.studies.study dre.modules.variants",
    "callbacks.study": "callbacks.studies.study",
    "callbacks.study_maps": "callbacks.studies.figures",
    "data.credits": "data.manifest",
    "dre.arguments": "dre.cli.arguments",
    "dre.chunks": "dre.engine.chunks",
    "dre.classifier_cli": "dre.cli.training",
    "dre.cli": "dre.cli.base dre.cli.training",
    "dre.curves": "dre.statistics.curves",
    "dre.dashboard": "dre.cli.dashboard",
    "dre.environment": "dre.runs.process",
    "dre.evaluation_cli": "dre.cli.evaluation",
    "dre.explain": "dre.api",
    "dre.explainers.ascent": "dre.explainers.ggig",
    "dre.explainers.backgrounds": "dre.images.fill dre.images.randomness dre.explainers.perturbation.meaningful",
    "dre.explainers.blocks": "dre.engine.chunks",
    "dre.explainers.blur_path": "dre.explainers.paths.blur",
    "dre.explainers.catalogue": "dre.api",
    "dre.explainers.deep_lift": "dre.explainers.propagation.deep_lift",
    "dre.explainers.extremal": "dre.explainers.perturbation.extremal",
    "dre.explainers.guided": "dre.explainers.gradient",
    "dre.explainers.guided_path": "dre.explainers.paths.guided",
    "dre.explainers.integration": "dre.explainers.paths.integration",
    "dre.explainers.interception": "dre.explainers.propagation.function_mode",
    "dre.explainers.inversion": "dre.explainers.perturbation.feature_inversion",
    "dre.explainers.lime": "dre.explainers.perturbation.lime",
    "dre.explainers.lrp": "dre.explainers.propagation.lrp",
    "dre.explainers.masks": "dre.explainers.learned",
    "dre.explainers.meaningful": "dre.explainers.perturbation.meaningful",
    "dre.explainers.optimised": "dre.explainers.perturbation.optimised",
    "dre.explainers.paths": "dre.explainers.paths.straight",
    "dre.explainers.propagation": "dre.explainers.propagation.base",
    "dre.explainers.references": "dre.explainers.random",
    "dre.explainers.regions": "dre.explainers.xrai",
    "dre.explainers.relevance": "dre.explainers.propagation.relevance",
    "dre.explainers.relevance_rules": "dre.explainers.propagation.rules",
    "dre.explainers.rescale": "dre.explainers.propagation.rescale",
    "dre.explainers.samp": "dre.explainers.paths.samp",
    "dre.explainers.sampled": "dre.explainers.perturbation.rise",
    "dre.explainers.shared_walks": "dre.explainers.paths.shared",
    "dre.explainers.smooth_max": "dre.explainers.perturbation.smooth_max",
    "dre.explainers.step_gaps": "dre.explainers.paths.projection_gap",
    "dre.imaging": "dre.images.fill dre.images.blur dre.images.maps",
    "dre.information": "dre.images.information",
    "dre.launch": "dre.runs.launch",
    "dre.locks": "dre.runs.locks",
    "dre.losses": "dre.engine.objectives",
    "dre.masking": "dre.engine.masking dre.images.randomness dre.images.fill",
    "dre.memory": "dre.engine.chunks",
    "dre.metering": "dre.engine.cost",
    "dre.metrics.background": "dre.metrics.localisation",
    "dre.metrics.explainability": "dre.metrics.m_e",
    "dre.metrics.faithfulness": "dre.metrics.m_f",
    "dre.metrics.information_curve": "dre.metrics.information_curves",
    "dre.metrics.xmgd": "dre.metrics.xmgd_distance",
    "dre.metrics.feeding": "dre.metrics.base",
    "dre.metrics.image_curve": "dre.metrics.base",
    "dre.metrics.image_mean": "dre.metrics.base",
    "dre.metrics.map_comparison": "dre.metrics.base",
    "dre.metrics.middle_share": "dre.metrics.distribution",
    "dre.metrics.relief": "dre.metrics.distribution",
    "dre.metrics.skewness": "dre.metrics.distribution",
    "dre.metrics.sparsity": "dre.metrics.distribution",
    "dre.metrics.stability": "dre.metrics.squared_error",
    "dre.metrics.states": "dre.metrics.base",
    "dre.mixtures.points": "dre.mixtures.starts",
    "dre.models.borrowing": "dre.models.hooks",
    "dre.models.footprint": "dre.models.memory_estimate",
    "dre.models.mnist_cnn": "dre.models.networks",
    "dre.models.perturbation": "dre.models.randomisation",
    "dre.modules.objectives": "dre.engine.objectives",
    "dre.modules.rates": "dre.modules.schedules",
    "dre.modules.shown": "dre.modules.mask_sampling dre.engine.areas",
    "dre.pictures": "dre.images.decode",
    "dre.probes": "dre.engine.gradients",
    "dre.randomness": "dre.images.randomness",
    "dre.reporting.css": "dre.reporting.html",
    "dre.reporting.networks_mean": "reproduction.papers",
    "dre.reporting.paper_table": "reproduction.paper_table",
    "dre.reporting.papers": "reproduction.papers",
    "dre.reporting.ranks_figure": "dre.reporting.figures",
    "dre.reporting.run_results": "dre.runs.results",
    "dre.reporting.statistics_section": "dre.reporting.page",
    "dre.reporting.studies": "dre.reporting.figures",
    "dre.runs": "dre.runs.directory",
    "dre.scoring": "dre.engine.scoring",
    "dre.segments": "dre.images.segments",
    "dre.smoke": "dre.cli.smoke",
    "dre.statistics.points": "dre.statistics.summary",
    "dre.sweeps": "dre.engine.perturbation dre.engine.chunks",
}
"""Old module -> where its names are now, one module or several."""

NAMES: dict[str, str] = {
    "callbacks.PaperTables": "reproduction.PaperTables",
    "callbacks.chosen.ChosenImages": "callbacks.image_selection.ImageSelection",
    "callbacks.extremes.Extremes": "callbacks.image_selection.BestWorst",
    "dre.explainers.backgrounds.Backgrounds": "dre.images.fill.FillDraws",
    "dre.explainers.base.UnsuitedError": "dre.explainers.base.UnsupportedError",
    "dre.explainers.blocks.blocks": "dre.engine.chunks.chunk_slices",
    "dre.explainers.catalogue.suitable_explainers": "dre.api.supported_explainers",
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

OPTIONS: dict[str, dict[str, str]] = {
    "AverageDrop": {"substrate": "fill"},
    "AverageDropInDeletion": {"substrate": "fill"},
    "CurveSettings": {"substrate": "fill"},
    "ClassifierTraining": KEYS,
    "ExplainerEvaluation": KEYS,
    "ExtremalPerturbation": {"perturbation": "fill"},
    "FeatureInversion": {"background": "fill"},
    "IncreaseInConfidence": {"substrate": "fill"},
    "InformationSettings": {"background": "fill"},
    "MaskTraining": KEYS,
    "MeaningfulPerturbation": {"background": "fill"},
    "SAMP": {"deletion_end": "deletion_baseline", "insertion_start": "insertion_baseline"},
    "SAMPPlusPlus": {"deletion_end": "deletion_baseline", "insertion_start": "insertion_baseline"},
    "SampPath": {"deletion_end": "deletion_baseline", "insertion_start": "insertion_baseline"},
    "SensitivityN": {"substrate": "fill"},
    "Sweep": {"substrate": "fill"},
}
"""Class -> old option -> new one."""

VALUES: dict[str, dict[str, dict[str, str]]] = {
    "AverageDrop": {"fill": FILLS},
    "AverageDropInDeletion": {"fill": FILLS},
    "CompletenessGap": {"baseline": FILLS},
    "CurveSettings": {"fill": FILLS},
    "DeepLift": {"baseline": BASELINES},
    "ExtremalPerturbation": {"fill": {"fade": "dataset_mean"}},
    "GuidedIG": {"baseline": BASELINES},
    "GuidedPath": {"baseline": BASELINES},
    "IncreaseInConfidence": {"fill": FILLS},
    "InformationSettings": {"fill": FILLS},
    "IntegratedGradients": {"baseline": BASELINES},
    "LIME": {"fill": OF_CLASSIFIER},
    "RISE": {"fill": OF_CLASSIFIER},
    "SAMP": {"deletion_baseline": BASELINES, "insertion_baseline": BASELINES},
    "SAMPPlusPlus": {"deletion_baseline": BASELINES, "insertion_baseline": BASELINES},
    "SampPath": {"deletion_baseline": BASELINES, "insertion_baseline": BASELINES},
    "SensitivityN": {"fill": FILLS},
    "StraightPath": {"baseline": BASELINES},
    "Sweep": {"fill": FILLS},
}
"""Class -> option -> old value -> new one."""

FILES: dict[str, str] = {
    "configs/explainer/cam.yaml": "dre.explainers.CAM",
    "configs/explainer/centred_gaussian.yaml": "dre.explainers.CentredGaussian",
    "configs/explainer/deep_lift.yaml": "dre.explainers.DeepLift",
    "configs/explainer/dre.yaml": "dre.explainers.DRE",
    "configs/explainer/dre_plus.yaml": "dre.explainers.DREPlus",
    "configs/explainer/edge_detector.yaml": "dre.explainers.EdgeDetector",
    "configs/explainer/extremal_perturbation.yaml": "dre.explainers.ExtremalPerturbation",
    "configs/explainer/feature_inversion.yaml": "dre.explainers.FeatureInversion",
    "configs/explainer/ggig.yaml": "dre.explainers.GGIG",
    "configs/explainer/grad_cam.yaml": "dre.explainers.GradCAM",
    "configs/explainer/grad_cam_plus_plus.yaml": "dre.explainers.GradCAMPlusPlus",
    "configs/explainer/guided_backprop.yaml": "dre.explainers.GuidedBackprop",
    "configs/explainer/input_x_gradient.yaml": "dre.explainers.InputXGradient",
    "configs/explainer/lime.yaml": "dre.explainers.LIME",
    "configs/explainer/lrp.yaml": "dre.explainers.LRP",
    "configs/explainer/meaningful_perturbation.yaml": "dre.explainers.MeaningfulPerturbation",
    "configs/explainer/mgnet.yaml": "dre.explainers.MGnet",
    "configs/explainer/random.yaml": "dre.explainers.Random",
    "configs/explainer/rise.yaml": "dre.explainers.RISE",
    "configs/explainer/smooth_grad.yaml": "dre.explainers.SmoothGrad",
    "configs/explainer/vanilla_gradient.yaml": "dre.explainers.VanillaGradient",
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

    @functools.wraps(init)
    def translated(self: Any, *args: Any, **given: Any) -> None:
        init(self, *args, **options(name, given))

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
        if text == old or text.endswith(f"/{old.removeprefix('configs/')}"):
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
        new = next((table[last] for table in OPTIONS.values() if last in table), None)
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
        return importlib.util.spec_from_loader(fullname, self)

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
