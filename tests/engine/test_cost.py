import sys
from typing import get_args

import numpy as np
import pytest
import torch

from dre.engine.cost import Meter, PeakMemory, Share, Tally, counted
from dre.engine.gradients import Cost
from dre.explainers.base import Explainer
from dre.explainers.methods import catalogue, options_of
from dre.models.estimator import Variant
from tests.explainers.test_explainers import classifier_for
from tests.networks import small_batch, small_classifier, small_estimator

CPU = torch.device("cpu")


class Clock:
    """A clock that goes on only when it is told to."""

    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("dre.engine.cost.time", clock)
    return clock


def explain(clock, meter, images, seconds, forwards=3):
    with meter.explaining(images, CPU):
        clock.now += seconds
        meter.cost.forwards += forwards * images


def test_passes_are_of_all_batches_and_time_of_all_but_the_first(clock):
    meter = Meter(Cost(forwards=7))  # what was spent before does not count
    explain(clock, meter, 4, seconds=8)
    assert meter.tally.summary()["milliseconds"] == 2000
    assert meter.last.seconds is None
    explain(clock, meter, 2, seconds=1)
    assert meter.last == Share(3, 0, 0, 0.5, None)
    explain(clock, meter, 2, seconds=3)
    cost = meter.tally.summary()
    assert (cost["images"], cost["forwards"], cost["backwards"], cost["milliseconds"]) == (8, 3, 0, 1000)


class Foreign(Explainer):
    """Runs the network by itself, and tells nobody."""

    def explain(self, images, targets):
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = self.classifier(torch.cat([leaf, leaf]))
            (gradient,) = torch.autograd.grad(logits[: len(images)].sum(), leaf)
        return self.classifier.network(gradient)[:, :1, None, None].expand(-1, -1, *images.shape[2:])


def test_passes_that_an_explainer_runs_by_itself_are_counted_by_hooks():
    classifier, (images, targets) = small_classifier(), small_batch(2)
    explainer = Foreign(classifier)
    meter = Meter(explainer.cost, classifier.network)
    for _ in range(2):
        with meter.explaining(len(images), CPU):
            explainer(images, targets)
    cost = meter.tally.summary()
    assert (cost["forwards"], cost["backwards"]) == (3, 2)  # of a doubled batch two forward and back, and one more
    with pytest.raises(RuntimeError, match="stop"), meter.explaining(2, CPU):
        raise RuntimeError("stop")
    assert not classifier.network._forward_hooks


FEW = {"steps": 3, "masks": 4, "samples": 4, "iterations": 2, "fragments": 3, "points": 2, "ascents": 2, "areas": [0.5]}
"""Small numbers of what explainers have many of."""


@pytest.mark.parametrize("method", sorted(catalogue()))
def test_hooks_count_what_the_engine_counts_and_nothing_twice(method):
    kind, (images, targets) = catalogue()[method], small_batch(2, height=64, width=64)
    classifier = classifier_for(kind.__name__)
    options = {name: value for name, value in FEW.items() if name in options_of(kind)}
    if method.startswith("dre") or method in get_args(Variant):
        options = {name: value for name, value in options.items() if method == "dre_refined" and name == "steps"}
        variant = "dre" if method.startswith("dre") else method
        explainer = kind.from_estimator(classifier, small_estimator(classifier, variant), **options)
    else:
        explainer = kind(classifier, **options)
    with counted(classifier.network) as passes:
        explainer(images, targets, ["a", "b"])
    cost = explainer.cost
    if method == "feature_inversion":  # in its first iterations it goes back from a feature map, behind no output
        passes.backwards = cost.backwards
    assert (passes.forwards, passes.backwards) == (cost.forwards, cost.backwards + cost.head_backwards)


def test_scoring_is_counted_apart(clock):
    meter = Meter(Cost())
    with meter.scoring(5, CPU):
        clock.now += 2
    meter.tally.score_forwards += 155
    cost = meter.tally.summary()
    assert (cost["score_forwards"], cost["score_milliseconds"]) == (31, 400)
    assert (cost["images"], cost["milliseconds"]) == (0, None)


def test_a_second_classifier_that_scores_is_counted_apart_from_the_first(clock):
    meter = Meter(Cost())
    for by, images, seconds in (("classifier", 5, 2), ("transfer", 4, 3)):
        with meter.scoring(images, CPU, by):
            clock.now += seconds
    meter.tally.transfer_forwards += 48
    cost = meter.tally.summary()
    assert (cost["score_forwards"], cost["score_milliseconds"]) == (0, 400)
    assert (cost["transfer_forwards"], cost["transfer_milliseconds"]) == (12, 750)
    assert meter.spent == 5
    assert Tally().summary()["transfer_milliseconds"] is None


def test_a_map_that_was_read_counts_at_what_it_took():
    meter = Meter(Cost())
    meter.read(Share(12, 4, 0, 0.5, None))
    meter.read(Share(12, 4, 0, None, 2e6))
    cost = meter.tally.summary()
    assert (cost["images"], cost["cached"], cost["forwards"], cost["backwards"]) == (2, 2, 12, 4)
    assert (cost["milliseconds"], cost["peak_bytes"]) == (500, 2e6)


def test_ranks_add_up_and_the_highest_peak_counts():
    ranks = [
        Tally(images=3, forwards=6, timed=2, seconds=1.0, peak_bytes=5),
        Tally(images=1, forwards=2, timed=1, seconds=0.5),
        Tally(),
    ]
    merged = Tally.merged(torch.tensor([tally.values() for tally in ranks], dtype=torch.float64))
    assert merged == Tally(images=4, forwards=8, timed=3, seconds=1.5, peak_bytes=5)
    assert Tally.merged(torch.tensor([Tally().values()])).summary()["peak_bytes"] is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from Linux's /proc")
def test_the_peak_is_what_was_held_at_the_highest_point():
    watch = PeakMemory(CPU)
    held = np.ones(5_000_000)  # 40 MB
    del held
    first = watch.read()
    assert 35e6 < first < 60e6
    watch = PeakMemory(CPU)  # the record starts anew
    held = np.ones(1_000_000)
    assert watch.read() < 20e6
    del held
