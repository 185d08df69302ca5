import pytest
import torch

from dre.metrics import InputSimilarity


def measured(measure, saliency, images):
    metric = InputSimilarity(measure)
    metric.update(saliency, images)
    return float(metric.compute())


@pytest.mark.parametrize("measure", ["spearman", "weighted_jaccard", "structural_similarity", "reverse_squared_error"])
def test_the_image_itself_has_one_whatever_its_scale(measure):
    images = torch.rand(3, 3, 9, 8)
    assert measured(measure, 5 * images.mean(dim=1, keepdim=True) - 1, images) == pytest.approx(1, abs=1e-6)


def test_values_worked_out_by_hand():
    image = torch.tensor([[[[0.0, 0.5, 1.0]]]])
    saliency = torch.tensor([[[[0.0, 1.0, 0.5]]]])
    assert measured("weighted_jaccard", saliency, image) == pytest.approx(1.0 / 2.0)
    assert measured("reverse_squared_error", saliency, image) == pytest.approx(1 - 0.5 / 1.25)
    assert measured("spearman", saliency, image) == pytest.approx(0.5)


def test_a_constant_map_has_no_correlation():
    metric = InputSimilarity()
    metric.update(torch.ones(2, 1, 4, 4), torch.rand(2, 1, 4, 4))
    assert (int(metric.count), int(metric.dropped)) == (0, 2)


def test_other_sizes_and_measures_are_refused():
    with pytest.raises(ValueError, match=r"`images` must be 2 of \[4, 4\] pixels.*got \[2, 1, 4, 5\]"):
        measured("spearman", torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 5))
    with pytest.raises(ValueError, match="no measure 'ssim' of similarity; choose spearman"):
        InputSimilarity("ssim")
