import warnings
from types import SimpleNamespace

import pytest
import torchvision
from timm.data import ImageNetInfo

from dre.models import Classifier, check_class_names
from dre.models.class_names import are_labels_for, imagenet_names, match_classes, same_classes, spellings
from dre.models.heads import load_for_training

INFO = ImageNetInfo("imagenet-1k")


def short(index):
    return INFO.index_to_description(index).split(",")[0]


def silent(data, known, classes=1000):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_class_names(data, known, classes, "net")


@pytest.mark.parametrize(
    "names",
    [
        [short(index) for index in range(1000)],
        INFO.label_names(),
        torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"],
        [short(index).upper().replace(" ", "_") for index in range(1000)],
        ["", "", "great white shark", "tiger_shark"],  # a part, in the numbering of the whole
    ],
)
def test_names_of_imagenet_agree_in_every_spelling(names):
    silent(names, imagenet_names())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tench, Tinca tinca", "n01440764"),
        ("004.Groove_billed_Ani", "Groove billed ani"),
        ("/a/abbey", "abbey"),
        ("7", "7"),
    ],
)
def test_names_that_differ_in_spelling_agree(one, other):
    silent([one], [other], 1)


def test_names_of_other_classes_do_not_share_a_spelling():
    assert not spellings("cat") & spellings("dog")
    assert not spellings("1") & spellings("7")


@pytest.mark.parametrize(
    ("data", "known", "message"),
    [
        (["cat", "dog"], imagenet_names(), r"class 0 is 'cat' in the data and 'tench, Tinca tinca' to net"),
        (["n01440764", "n01484850"], imagenet_names(), r"class 1 is 'n01484850' in the data and 'goldfish"),
        (["dog", "cat"], ["cat", "dog"], "class 0 is 'dog' in the data and 'cat' to net"),
        (["cat", "dog", "emu"], ["cat", "dog"], "class 2 is 'emu' in the data and unknown to net"),
        (["cat", "emu"], ["cat", "dog", "emu"], "class 1 is 'emu' in .* and 'dog' to net.*--model.target predicted"),
    ],
)
def test_other_classes_are_refused(data, known, message):
    with pytest.raises(ValueError, match=message):
        check_class_names(data, known, len(known), "net")


@pytest.mark.parametrize("known", [None, ["", ""]])
def test_another_number_of_classes_is_said_where_names_are_not_known(known):
    with pytest.warns(UserWarning, match="the data name 2 classes, net has 1000 outputs"):
        check_class_names(["cat", "dog"], known, 1000, "net")
    with pytest.warns(UserWarning, match="the data name 4 classes, net has 3 outputs"):
        check_class_names(["", "", "", "dog"], known, 3, "net")


@pytest.mark.parametrize("data", [None, ["", ""], ["cat", "dog"], ["", "dog", "emu"], ["cat", "", "emu"]])
def test_nothing_is_said_where_nothing_is_known_or_all_may_be_well(data):
    silent(data, None, 2 if data == ["cat", "dog"] else 5)


def test_a_class_that_either_side_leaves_without_name_is_not_compared():
    silent(["", "dog", ""], ["cat", "dog"], 2)
    silent(["cat", "dog"], ["cat", ""], 2)


def test_published_weights_know_their_classes_and_random_ones_do_not():
    name = "tf_efficientnet_lite0"
    assert Classifier(name, "package").class_names == imagenet_names()
    assert Classifier(name).class_names is None
    assert load_for_training(name, "package", 10, None).class_names is None


def test_classes_of_imagenet_are_found_in_every_spelling_and_order():
    """Two pairs of classes share a word, and keep apart by their index or by their other words."""
    wnids, names = INFO.label_names(), imagenet_names()
    assert match_classes(wnids, names, (1000, 1000), ("a", "b")) == list(range(1000))
    turned = match_classes(wnids[::-1], names, (1000, 1000), ("a", "b"))
    assert turned == list(range(999, -1, -1))


def test_a_class_that_fits_several_alike_is_unknown():
    assert match_classes(["crane", "cat"], ["cat", "emu", "crane", "crane"], (2, 4), ("a", "b")) == [-1, 0]


@pytest.mark.parametrize(
    ("data", "known", "classes", "expected"),
    [
        (None, ("cat",), 1, True),
        (["cat", "dog"], ("Cat", "dog, Canis"), 2, True),
        (["cat", "dog"], ("dog", "cat"), 2, False),
        (["cat", "dog", "emu"], ("cat", "dog"), 2, False),
        (["cat", "dog"], None, 2, True),
        (["cat", "dog"], None, 3, False),
        (["cat", "", "emu"], None, 9, True),
        (["cat", "", "emu"], None, 2, False),
    ],
)
def test_labels_mean_the_classes_of_a_classifier_as_far_as_names_and_counts_tell(data, known, classes, expected):
    assert same_classes(data, known, classes) == expected
    classifier = SimpleNamespace(class_names=known, num_classes=classes)
    assert are_labels_for(SimpleNamespace(class_names=lambda: data), classifier) == expected


def test_data_that_contradict_themselves_are_no_labels_and_data_without_names_are_believed():
    def contradict():
        raise ValueError("class 0 is 'cat' in one and 'dog' in another root")

    classifier = SimpleNamespace(class_names=("cat",), num_classes=1)
    assert not are_labels_for(SimpleNamespace(class_names=contradict), classifier)
    assert are_labels_for(None, classifier)
