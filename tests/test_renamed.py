"""Old names: imports, class paths, options, values, keys, flags and files of 0.1 work and say what replaced them."""

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Iterator

import pytest
import torch
import yaml

import dre
from dre import renamed
from dre.explainers import RISE, MeaningfulPerturbation
from dre.metrics import InformationSettings
from dre.types import Sweep
from tests.command_line import REPOSITORY
from tests.networks import small_batch, small_classifier

OLD_MODULES = sorted(name for name in renamed.MODULES if not name.startswith("benchmarks"))
PLACES = ("dre.explainers", "dre.metrics", "dre.modules")
CLASSES = {name: place for place in PLACES for name in dir(importlib.import_module(place))} | {
    "CurveSettings": "dre.metrics.score_curve",
    "InformationSettings": "dre.metrics.information_curves",
    "Sweep": "dre.types",
}


@pytest.fixture(autouse=True)
def _said_nothing_yet(monkeypatch) -> None:
    monkeypatch.setattr(renamed, "_said", set())


def own_names(module: str) -> Iterator[str]:
    """Name what a module defines in public."""
    for name, value in vars(importlib.import_module(module)).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module:
            yield name


@pytest.mark.parametrize("old", OLD_MODULES)
def test_an_old_module_gives_what_its_successors_define(old):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        stand_in = importlib.import_module(old)
        for new in renamed.MODULES[old].split():
            for name in own_names(new):
                if f"{old}.{name}" not in renamed.NAMES:  # that name means something else now
                    assert getattr(stand_in, name) is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize("old", [name for name in renamed.MODULES if name.startswith("benchmarks")])
def test_an_old_command_runs_its_successor(old):
    finder = renamed.OldModules()
    new = renamed.MODULES[old]
    files = [REPOSITORY / f"{new.replace('.', '/')}{end}" for end in (".py", "/__main__.py")]
    assert [finder.get_source(old)] == [file.read_text() for file in files if file.is_file()]
    assert finder.get_code(old) is not None


@pytest.mark.parametrize("old", renamed.NAMES)
def test_an_old_name_stands_for_the_new_one(old):
    module, _, name = old.rpartition(".")
    new_module, _, new_name = renamed.NAMES[old].rpartition(".")
    with pytest.warns(FutureWarning, match="works until 0.3"):
        found = renamed.find(module, name)
    assert found is getattr(importlib.import_module(new_module), new_name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert getattr(importlib.import_module(module), name) is found


@pytest.mark.parametrize("kind", sorted({*renamed.OPTIONS, *renamed.VALUES}))
def test_old_options_and_values_are_translated_to_what_the_class_takes(kind):
    takes = inspect.signature(getattr(importlib.import_module(CLASSES[kind]), kind)).parameters
    anything = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    for old, new in renamed.OPTIONS.get(kind, {}).items():
        assert renamed.options(kind, {old: 1}) == {new: 1}
        assert old not in takes
        if renamed.OPTIONS[kind] is not renamed.KEYS:  # a key of one of the Lightning modules
            assert new in takes or anything
    for option, table in renamed.VALUES.get(kind, {}).items():
        assert option in takes or anything
        for old, new in table.items():
            with pytest.warns(FutureWarning, match=new):
                assert renamed.options(kind, {option: old}) == {option: new}


def test_keyword_arguments_take_old_names_and_say_so_once():
    classifier = small_classifier()
    with pytest.warns(FutureWarning, match=r"`background` of MeaningfulPerturbation is now `fill`"):
        old = MeaningfulPerturbation(classifier, iterations=2, background="mixture")
    assert old.fill == "mixture"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MeaningfulPerturbation(classifier, iterations=2, background="mixture")
    with pytest.warns(FutureWarning, match="'dataset_mean'"):
        assert RISE(classifier, fill="mean").fill == "dataset_mean"
    with pytest.warns(FutureWarning, match="`substrate` of Sweep is now `fill`"):
        assert Sweep((0.0, 1.0), substrate="neutral").fill == "dataset_mean"
    with pytest.warns(FutureWarning, match="`background`"):
        assert InformationSettings(background="black").fill == "black"
    with pytest.raises(TypeError, match="both `fill` and `background`, which is its old name"):
        MeaningfulPerturbation(classifier, fill="blur", background="blur")


def test_maps_under_old_options_are_those_under_new_ones():
    classifier, (images, _) = small_classifier(), small_batch()
    with pytest.warns(FutureWarning, match="neutral"):
        old = dre.explain(classifier, images, method="samp", deletion_end="neutral")
    assert torch.equal(old, dre.explain(classifier, images, method="samp", deletion_baseline="dataset_mean"))


RUN_FILE = """
trainer: {callbacks: [{class_path: callbacks.PaperTables}, {class_path: callbacks.panel.SaliencyPanel}]}
model:
  unsuited: leave_out
  explainers:
    cam: ../explainer/cam.yaml
    dre: ../explainer/dre.yaml
    samp:
      class_path: dre.explainers.samp.SAMP
      init_args: {deletion_end: neutral, rule: dre.explainers.integration.idgi}
    two: {class_path: dre.explainers.IntegratedGradients, init_args: {baseline: [black, mean]}}
  metrics:
    inside: dre.metrics.EnergyInside
    deletion: {class_path: dre.metrics.Deletion, init_args: {settings: {substrate: mean, steps: 4}}}
"""


def test_a_run_file_of_before_says_the_same_in_present_names():
    with pytest.warns(FutureWarning, match="works until 0.3"):
        found = renamed.content(yaml.safe_load(RUN_FILE))
    callbacks = [one["class_path"] for one in found["trainer"]["callbacks"]]
    assert callbacks == ["reproduction.PaperTables", "callbacks.panels.SaliencyPanel"]
    model = found["model"]
    assert model["unsupported"] == "leave_out"
    assert model["explainers"] == {
        "cam": "dre.explainers.CAM",
        "dre": {"class_path": "dre.explainers.DRE", "init_args": {"checkpoint": None}},
        "samp": {
            "class_path": "dre.explainers.paths.samp.SAMP",
            "init_args": {"deletion_baseline": "dataset_mean", "rule": "dre.explainers.paths.integration.idgi"},
        },
        "two": {"class_path": "dre.explainers.IntegratedGradients", "init_args": {"baseline": ["black", "image_mean"]}},
    }
    assert model["metrics"]["inside"] == "dre.metrics.EnergyPointingGame"
    assert model["metrics"]["deletion"]["init_args"] == {"settings": {"fill": "image_mean", "steps": 4}}


@pytest.mark.parametrize("old", renamed.KEYS)
def test_old_keys_of_the_model_work_in_files_and_as_flags(old):
    new = renamed.KEYS[old]
    with pytest.warns(FutureWarning, match=new):
        assert renamed.content({"model": {old: 1}}) == {"model": {new: 1}}
    with pytest.warns(FutureWarning, match=f"--model.{new}"):
        assert renamed.flags([f"--model.{old}=2"]) == [f"--model.{new}=2"]
    assert renamed.flags([f"--model.{new}", "3", f"--data.{old}"]) == [f"--model.{new}", "3", f"--data.{old}"]


def test_old_options_work_as_flags():
    with pytest.warns(FutureWarning, match="init_args.fill"):
        found = renamed.flags(["--model.explainers.mp.init_args.background", "mixture"])
    assert found == ["--model.explainers.mp.init_args.fill", "mixture"]
    kept = ["--model.explainers.rise.init_args.masks=9"]  # an option of RISE that is no key of a training
    assert renamed.flags(kept) == kept


@pytest.mark.parametrize("old", renamed.FILES)
def test_a_fragment_that_is_gone_stands_for_its_class(old):
    assert not (REPOSITORY / old).exists()
    for spelling in (old, f"../{old.removeprefix('configs/')}"):
        with pytest.warns(FutureWarning, match="works until 0.3"):
            found = renamed.content(spelling)
        path = found if isinstance(found, str) else found["class_path"]
        assert getattr(importlib.import_module("dre.explainers"), path.rpartition(".")[2])
        renamed._said.clear()


def test_a_fragment_of_the_users_own_is_read(tmp_path, monkeypatch):
    own = tmp_path / "configs" / "explainer"
    own.mkdir(parents=True)
    (own / "cam.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for text in ("configs/explainer/cam.yaml", "mine/explainer/dre.yaml", str(own / "cam.yaml")):
        assert renamed.content(text) == text
    (tmp_path / "configs" / "evaluate").mkdir()
    monkeypatch.chdir(tmp_path / "configs" / "evaluate")
    assert renamed.content("../explainer/cam.yaml") == "../explainer/cam.yaml"


def test_the_table_imports_nothing_of_the_package():
    assert "from dre" not in inspect.getsource(renamed)
    assert "import dre" not in inspect.getsource(renamed)


def test_the_migration_page_lists_every_old_name():
    page = (REPOSITORY / "docs" / "migration.md").read_text()
    assert renamed.migration_tables() in page


def test_functions_are_functions_and_no_module_takes_their_place():
    modules = [found.name for found in pkgutil.walk_packages(dre.__path__, "dre.")]
    for name in modules:
        importlib.import_module(name)
    assert inspect.isfunction(dre.explain)
    assert inspect.isfunction(dre.list_explainers)
    called = ("dre.cli.compare", "dre.cli.explain")  # commands, which have the name of what they call
    last_words = {name.rpartition(".")[2]: name for name in modules if name not in called}
    for name in modules:
        for function in own_names(name):
            if inspect.isfunction(vars(importlib.import_module(name))[function]):
                assert function not in last_words, f"{name}.{function} shares its name with {last_words[function]}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        importlib.import_module("dre.explain")
        importlib.import_module("dre.metrics.faithfulness")
    assert inspect.isfunction(dre.explain)
    assert inspect.isfunction(importlib.import_module("dre.metrics").faithfulness)
