"""Properties of every metric that `dre.metrics` exports: merging, batching, reset, direction."""

import pytest
import torch
import torch.distributed as dist

from tests.metrics.examples import IMAGES, example, make, metric_classes, part
from tests.ranks import run_ranks


def measure(metric_class, *bounds):
    metric = make(metric_class)
    batch = example(metric)
    for start, stop in bounds:
        metric.update(**part(batch, start, stop))
    return metric


def assert_same(one, other):
    assert set(one.metric_state) == set(other.metric_state)
    torch.testing.assert_close(one.compute(), other.compute(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric_class", metric_classes())
@pytest.mark.parametrize("cut", [1, 5, 11])
def test_merging_parts_equals_the_whole(metric_class, cut):
    merged = measure(metric_class, (0, cut))
    merged.compute()  # an earlier result must not be remembered
    merged.merge_state(measure(metric_class, (cut, IMAGES)))
    assert_same(merged, measure(metric_class, (0, IMAGES)))


@pytest.mark.parametrize("metric_class", metric_classes())
def test_several_batches_equal_one(metric_class):
    assert_same(measure(metric_class, (0, 2), (2, 3), (3, IMAGES)), measure(metric_class, (0, IMAGES)))


@pytest.mark.parametrize("metric_class", metric_classes())
def test_a_reset_metric_starts_anew(metric_class):
    metric = measure(metric_class, (0, 4))
    metric.reset()
    metric.update(**part(example(metric), 4, IMAGES))
    assert_same(metric, measure(metric_class, (4, IMAGES)))


@pytest.mark.parametrize("metric_class", metric_classes())
def test_direction_is_declared_and_updates_are_cheap(metric_class):
    assert "higher_is_better" in vars(metric_class)
    assert metric_class.full_state_update is False


def compare_on_rank():
    """Give every rank its share of the images, the last one none, and compare what each rank then reads."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    try:
        size = -(-IMAGES // (ranks - 1))
        shares = [(start, min(start + size, IMAGES)) for start in range(0, IMAGES, size)]
        for metric_class in metric_classes():
            merged = measure(metric_class, *shares[rank : rank + 1])
            torch.testing.assert_close(merged.compute(), whole(metric_class), rtol=1e-12, atol=0)
            torch.testing.assert_close(merged.compute(), whole(metric_class), rtol=1e-12, atol=0)
            if hasattr(merged, "to_frame"):
                assert len(merged.to_frame()) == IMAGES
    finally:
        dist.destroy_process_group()


def whole(metric_class):
    """Return the value of one process for all images, although a process group is up."""
    metric = make(metric_class)
    metric.distributed_available_fn = lambda: False
    metric.update(**example(metric))
    return metric.compute()


@pytest.mark.ddp
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_merge_to_the_whole_even_if_one_saw_no_image(ranks):
    run_ranks(compare_on_rank, ranks)
