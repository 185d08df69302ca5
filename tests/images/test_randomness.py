import torch

from dre.images.randomness import image_generators, image_names, pixel_order, scattered_pixels

NAMES = [b"cat", b"dog"]


def test_orders_are_permutations_that_name_seed_and_draw_decide():
    order = pixel_order(b"cat", 40, seed=0, draw=0)
    assert sorted(order.tolist()) == list(range(40))
    assert torch.equal(order, pixel_order(b"cat", 40, seed=0, draw=0))
    for other in (pixel_order(b"dog", 40, 0, 0), pixel_order(b"cat", 40, 1, 0), pixel_order(b"cat", 40, 0, 1)):
        assert not torch.equal(order, other)


def test_every_pixel_is_first_equally_often():
    firsts = torch.stack([pixel_order(b"%d" % number, 4, 0, 0)[0] for number in range(400)])
    counts = torch.bincount(firsts, minlength=4)
    assert (counts - 100).abs().max() < 5 * (400 * 0.25 * 0.75) ** 0.5


def test_a_share_of_the_pixels_and_the_corners_are_scattered():
    chosen = scattered_pixels(b"cat", (20, 30), share=0.1, seed=0)
    assert chosen.shape == (20, 30)
    assert 60 <= chosen.sum() <= 64
    assert chosen[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    assert scattered_pixels(b"cat", (20, 30), share=0, seed=0).sum() == 4
    assert scattered_pixels(b"cat", (1, 3), share=0, seed=0).tolist() == [[True, False, True]]
    assert scattered_pixels(b"cat", (20, 30), share=1, seed=0).all()


def test_scattered_pixels_are_not_those_that_a_random_map_ranks_first():
    """Both are seeded by the image's key: one stream for both would show a random map its own first pixels."""
    shared = 0
    for number in range(50):
        name = f"image {number}"
        generator = image_generators(torch.zeros(1, 1, 1, 1), [name], 0)[0]
        first = torch.rand(400, generator=generator).argsort(descending=True)[:40]
        shared += scattered_pixels(name.encode(), (20, 20), share=0.1, seed=0).flatten()[first].sum().item()
    assert abs(shared / 50 - 4.4) < 1.5  # a tenth of 40, and the corners


def test_images_without_keys_are_told_apart_by_their_pixels():
    images = torch.rand(2, 3, 4, 4)
    one, other = image_names(images, None)
    assert one != other
    assert image_names(images[1:], None) == [other]
    assert image_names(images, ["cat", "dog"]) == NAMES
