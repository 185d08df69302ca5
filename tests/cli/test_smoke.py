"""`--smoke` cuts a configuration down, whoever builds its classifier."""

import pytest
from jsonargparse import Namespace

from dre.cli.smoke import CLASSES, cut_to_smoke


@pytest.mark.parametrize(
    ("class_path", "expected"),
    [
        ("dre.models.Classifier", {"weights": None, "num_classes": CLASSES}),
        ("my_network.my_classifier", {}),  # a function without such options
    ],
)
def test_options_of_classifier_are_given_to_it_alone(class_path, expected):
    parts = {name: Namespace(class_path=class_path, init_args=Namespace()) for name in ("classifier", "transfer")}
    sections = {"data": Namespace(init_args=Namespace()), "trainer": Namespace(callbacks=[])}
    config = Namespace(model=Namespace(**parts), wandb="auto", **sections)
    cut_to_smoke(config)
    assert [vars(part.init_args) for part in (config.model.classifier, config.model.transfer)] == [expected, expected]
    assert (config.data.init_args.limit, config.wandb) == (1, "off")
