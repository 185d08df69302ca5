"""Temporary hooks and modes leave a network as it was."""

import pytest
import torch
from torch import nn

from dre.models.hooks import in_eval_mode, watching


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)))


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_what_is_watched_is_seen_in_the_order_in_which_it_ran_and_may_be_replaced():
    network, seen = small_network().eval(), []

    def see(name, module, inputs, output):
        seen.append((name, type(module), inputs[0].shape, output.shape))
        return output + 1 if name == "0" else None

    images = torch.rand(4, 2)
    with watching([("2", network[2]), ("0", network[0])], see):
        replaced = network(images)
    assert seen == [("0", nn.Linear, (4, 2), (4, 3)), ("2", nn.Sequential, (4, 3), (4, 3))]
    torch.testing.assert_close(replaced, network[1:](network[0](images) + 1))
    assert hooks_of(network) == 0


def test_hooks_come_off_when_the_network_fails_and_when_a_module_is_missing():
    network = small_network()
    with pytest.raises(RuntimeError), watching(network.named_modules(), lambda *_: None):
        network(torch.rand(1, 7))
    assert hooks_of(network) == 0

    def modules():
        yield "0", network[0]
        raise KeyError("gone")

    with pytest.raises(KeyError), watching(modules(), lambda *_: None):
        pass
    assert hooks_of(network) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_modes_go_back_each_to_its_own(fails):
    network = small_network()
    network[1].eval()
    before = [module.training for module in network.modules()]
    try:
        with in_eval_mode(network):
            assert not any(module.training for module in network.modules())
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [module.training for module in network.modules()] == before
    assert before.count(True) == 5
