import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dre.caching.description import describe, digest
from dre.caching.sources import UndescribableError, fingerprint
from tests.networks import SmallNetwork, small_classifier, small_estimator


@dataclass(frozen=True, slots=True)
class Options:
    steps: int = 3
    share: float = 0.5


class Plain:
    def __init__(self, value):
        self.value = value


def scaled(factor):
    return lambda value: factor * value


def test_equal_content_gives_equal_descriptions():
    assert describe(Options()) == describe(Options())
    assert describe(small_classifier().network) == describe(small_classifier().network)
    assert describe(scaled(2)) == describe(scaled(2))
    values = torch.rand(2, 3, 4, 4)
    assert describe(values) == describe(values.contiguous(memory_format=torch.channels_last).requires_grad_())


DIFFERENT = {
    "numbers": (1, 2),
    "an integer and a truth": (1, True),
    "an integer and a float": (1, 1.0),
    "an integer and a word": (1, "1"),
    "the last bit": (0.1, np.nextafter(0.1, 1).item()),
    "nothing and a word": (None, "None"),
    "a list and a tuple": ([1, 2], (1, 2)),
    "fields": (Options(), Options(steps=4)),
    "float fields": (Options(), Options(share=0.25)),
    "attributes": (Plain(1), Plain(2)),
    "nested attributes": (Plain([Plain(1)]), Plain([Plain(2)])),
    "tensors": (torch.zeros(3), torch.ones(3)),
    "shapes": (torch.zeros(4), torch.zeros(2, 2)),
    "precisions": (torch.zeros(4), torch.zeros(4, dtype=torch.float64)),
    "arrays": (np.zeros(3), np.ones(3)),
    "captured values": (scaled(2), scaled(3)),
    "functions without a name": (lambda value: value + 1, lambda value: value - 1),
    "constants": (lambda value: value + 1, lambda value: value + 2),
    "partial arguments": (functools.partial(max, 1), functools.partial(max, 2)),
    "builtin functions": (torch.relu, torch.sigmoid),
    "methods": (Plain(1).__init__, Plain(2).__init__),
    "classes": (Options, Plain),
    "module options": (nn.Conv2d(2, 2, 3, stride=1), nn.Conv2d(2, 2, 3, stride=2)),
    "weights": (small_classifier(seed=0).network, small_classifier(seed=1).network),
    "trained masks": (small_estimator(small_classifier(), seed=0), small_estimator(small_classifier(), seed=1)),
    "generators": (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)),
    "types": (torch.float32, torch.float16),
    "sets": ({1, 2}, {1, 3}),
    "bytes": (b"a", b"b"),
    "entries": ({"a": 1}, {"a": 2}),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_different_content_gives_different_descriptions(pair):
    one, other = (digest(describe(value)) for value in pair)
    assert one != other


def test_a_change_of_one_weight_is_seen():
    network = SmallNetwork()
    before = describe(network)
    with torch.no_grad():
        network.head.bias[0] += 1e-6
    assert describe(network) != before


def test_descriptions_agree_between_processes():
    program = (
        "from tests.caching.test_description import Options, Plain\n"
        "from dre.caching.description import describe, digest\n"
        "print(digest(describe([Options(), Plain({'b', 'a', 'c'}), frozenset('xyz')])))"
    )
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    said = {
        subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=root, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_what_holds_itself_is_described():
    loop = Plain(None)
    loop.value = [loop]
    other = Plain(None)
    other.value = [other]
    assert describe(loop) == describe(other)


def test_what_cannot_be_described_is_named():
    class Local:
        pass

    hooked = nn.Sequential(nn.ReLU())
    hooked[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(UndescribableError, match=r"mine\.value\[1\] is generator"):
        describe(Plain([0, (one for one in [1])]), place="mine")
    with pytest.raises(UndescribableError, match=r"mine\.0 is ReLU with hooks"):
        describe(hooked, place="mine")
    with pytest.raises(UndescribableError, match="a class that a function makes anew"):
        describe(Local())


def test_what_was_typed_in_has_no_source():
    program = "from dre.caching.description import describe\nclass Mine: pass\ndescribe(Mine())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert "UndescribableError: the source of __main__ is in no file" in done.stderr


def test_the_source_counts_by_content_and_place(tmp_path):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("1")
    second.write_text("2")
    before = fingerprint([first, second], tmp_path)
    assert fingerprint([second, first], tmp_path) == before
    first.write_text("2")
    second.write_text("1")
    assert fingerprint([first, second], tmp_path) != before


def test_a_module_that_the_users_module_reads_counts(tmp_path):
    (tmp_path / "my_explainer.py").write_text(
        "import my_helper\n\n\ndef explain(image):\n    return my_helper.scaled(image)\n"
    )
    program = (
        "import my_explainer\nfrom dre.caching.description import describe, digest\n"
        "print(digest(describe(my_explainer.explain)))"
    )
    said = []
    for factor in (1, 1, 2):
        (tmp_path / "my_helper.py").write_text(f"def scaled(image):\n    return {factor} * image\n")
        path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
        command = [sys.executable, "-B", "-c", program]
        environment = {**os.environ, "PYTHONPATH": path}
        said.append(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert said[0] == said[1] != said[2]
