import pytest
import torch
import yaml

import dre
from dre.checks import NonFiniteSaliencyError
from dre.explainers import (
    SAMP,
    BlurIG,
    GradCAM,
    GuidedIG,
    IntegratedGradients,
    PathExplainer,
    SAMPPlusPlus,
    StraightPath,
    VanillaGradient,
    idgi,
)
from dre.explainers.paths.shared import SharedWalks, walk_alike
from dre.modules import ExplainerEvaluation
from tests.command_line import REPOSITORY
from tests.networks import small_batch, small_classifier

KINDS = [IntegratedGradients, BlurIG, GuidedIG, SAMP, SAMPPlusPlus]
KEYS = ["a", "b", "c"]


def pair(kind, classifier, **options):
    steps = {} if kind in (SAMP, SAMPPlusPlus) else {"steps": 9}
    return {
        "plain": kind(classifier, **steps, **options),
        "idgi": kind(classifier, rule=idgi, reduce="sum_abs", **steps, **options),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_maps_and_gaps_are_those_of_each_alone_for_the_passes_of_one(kind):
    classifier, (images, targets) = small_classifier(), small_batch()
    alone, together = pair(kind, classifier), pair(kind, classifier)
    walks = SharedWalks(together)
    assert walks.leaders == {"idgi": "plain"}
    for name in together:
        expected = alone[name](images, targets, KEYS)
        assert torch.equal(walks.explain(name, images, targets, KEYS), expected), name
        assert torch.equal(together[name].gap, alone[name].gap)
        assert torch.equal(together[name].dropped_mass, alone[name].dropped_mass)
    assert together["plain"].cost == alone["plain"].cost
    assert together["idgi"].cost.forwards == together["idgi"].cost.backwards == 0


def test_only_the_same_walk_is_shared():
    classifier = small_classifier()
    straight = IntegratedGradients(classifier, steps=9, baseline=["black", "white"])
    assert walk_alike(straight, IntegratedGradients(classifier, steps=9, baseline=["black", "white"], rule=idgi))
    others = [
        IntegratedGradients(classifier, steps=8, baseline=["black", "white"]),
        IntegratedGradients(classifier, steps=9, baseline=["black"]),
        IntegratedGradients(classifier, steps=9, baseline=["black", "white"], score="logit"),
        IntegratedGradients(classifier, steps=9, baseline=["black", "white"], chunk=2),
        IntegratedGradients(small_classifier(), steps=9, baseline=["black", "white"]),
        BlurIG(classifier, steps=9),
        VanillaGradient(classifier),
    ]
    assert not any(walk_alike(straight, other) for other in others)
    baseline = torch.rand(1, 3, 64, 96)
    given = [PathExplainer(classifier, StraightPath(9, one)) for one in (baseline, baseline, baseline.clone())]
    assert walk_alike(given[0], given[1])
    assert not walk_alike(given[0], given[2])
    assert not SharedWalks({"cam": GradCAM(classifier), "ig": straight}).leaders


def test_a_map_waits_for_its_own_images_alone():
    classifier, (images, targets) = small_classifier(), small_batch()
    explainers = pair(IntegratedGradients, classifier)
    expected = explainers["idgi"](images, targets, KEYS)
    follower = explainers["idgi"].cost
    alone = follower.forwards
    walks = SharedWalks(explainers)
    others = [(images.flip(0), targets, KEYS), (images, targets.flip(0), KEYS), (images, targets, ["x", "b", "c"])]
    for times, other in enumerate(others, start=2):
        walks.explain("plain", *other)
        assert torch.equal(walks.explain("idgi", images, targets, KEYS), expected)
        assert follower.forwards == times * alone
    walks.explain("plain", images, targets, KEYS)
    assert torch.equal(walks.explain("idgi", images.clone(), targets, KEYS), expected)
    assert follower.forwards == 4 * alone
    assert walks.waiting("idgi", images, targets, KEYS) is None  # it is handed over once


def test_a_leader_whose_map_is_refused_leaves_the_others_theirs():
    classifier, (images, targets) = small_classifier(), small_batch()

    def broken(here, there):
        return here.grad * torch.nan

    walks = SharedWalks(
        {
            "broken": IntegratedGradients(classifier, steps=9, rule=broken),
            "plain": IntegratedGradients(classifier, steps=9),
        }
    )
    with pytest.raises(NonFiniteSaliencyError):
        walks.explain("broken", images, targets, KEYS)
    expected = IntegratedGradients(classifier, steps=9)(images, targets, KEYS)
    assert torch.equal(walks.explain("plain", images, targets, KEYS), expected)


def test_an_evaluation_walks_once_and_charges_each_for_the_walk():
    classifier, (images, targets) = small_classifier(), small_batch()
    passes: list[int] = []
    classifier.network.register_forward_hook(lambda *_: passes.append(1))
    builders = {
        "plain": lambda one: IntegratedGradients(one, steps=9),
        "random": lambda one: GuidedIG(one, steps=3),
        "idgi": lambda one: IntegratedGradients(one, steps=9, rule=idgi),
    }
    module = ExplainerEvaluation(classifier, builders)
    passes.clear()
    saliency = module.evaluator._explain_all(images, targets, KEYS, module.evaluator.meters)
    taken = len(passes)
    alone = {}
    for name, build in builders.items():
        explainer = build(classifier)
        passes.clear()
        assert torch.equal(saliency[name], explainer(images, targets, KEYS))
        alone[name] = len(passes)
    walk = module.evaluator.meters["plain"].tally
    assert taken == alone["plain"] + alone["random"]
    assert alone["idgi"] == alone["plain"]
    assert module.evaluator.meters["idgi"].tally.summary() == walk.summary() | {"cached": 0}
    assert walk.backwards == 9 * 3
    assert module.evaluator.meters["idgi"].spent == 0


@pytest.mark.parametrize(
    ("explainers", "followers"),
    [
        ("idgi_six", {"integrated_gradients+idgi", "guided_ig+idgi", "blur_ig+idgi"}),
        ("idgi_four", {"integrated_gradients+idgi", "blur_ig+idgi"}),
    ],
)
def test_the_sets_of_paper_002_walk_half_as_often(explainers, followers):
    place = REPOSITORY / "configs" / "explainer" / "sets"
    files = yaml.safe_load((place / f"{explainers}.yaml").read_text())
    built, classifier = {}, small_classifier()
    for name, file in files.items():
        content = yaml.safe_load((place / file).read_text())
        options = content["init_args"]
        if "rule" in options:
            assert options["rule"] == "dre.explainers.idgi"
            options["rule"] = idgi
        built[name] = getattr(dre.explainers, content["class_path"].rpartition(".")[2])(classifier, **options)
    assert set(SharedWalks(built).leaders) == followers


def test_a_map_that_is_refused_alone_is_refused_when_it_was_made_along():
    classifier, (images, targets) = small_classifier(), small_batch()

    def broken(here, there):
        return here.grad * torch.nan

    walks = SharedWalks(
        {
            "plain": IntegratedGradients(classifier, steps=9),
            "broken": IntegratedGradients(classifier, steps=9, rule=broken),
        }
    )
    walks.explain("plain", images, targets, KEYS)
    with pytest.raises(NonFiniteSaliencyError):
        walks.explain("broken", images, targets, KEYS)


def test_an_explainer_of_its_own_ways_walks_alone():
    class Halved(IntegratedGradients):
        def integrals(self, images, targets, rules):
            return [one * 0.5 for one in super().integrals(images, targets, rules)]

    classifier = small_classifier()
    assert not walk_alike(Halved(classifier, steps=9), IntegratedGradients(classifier, steps=9))
    assert not walk_alike(IntegratedGradients(classifier, steps=9), Halved(classifier, steps=9))
