"""A LoRA by forward hooks does what one in the weights does, with a strength for every row."""

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import Lora
from comfyui_ddm.debias.adapter.lora_hook import LoraHooks
from torch import nn


class Net(nn.Module):
    """A U-Net in name: called with x [B, 4, 8, 8] and timesteps [B]."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.linear = nn.Linear(6, 5)

    def forward(self, x, timesteps, context=None):
        hidden = self.conv(x).flatten(2).transpose(1, 2)  # [B, 16, 6]
        # As tokens that are looked at in two halves, one after the other, each as a row of its own.
        halves = hidden.reshape(len(x) * 2, 8, 6)
        return self.linear(halves).reshape(len(x), 16, 5)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().requires_grad_(False)


@pytest.fixture
def lora(net):
    draw = torch.Generator().manual_seed(1)
    conv = Lora(torch.randn(2, 4, 3, 3, generator=draw), torch.randn(6, 2, 1, 1, generator=draw), 1.0)
    linear = Lora(torch.randn(3, 6, generator=draw), torch.randn(5, 3, generator=draw), 3.0)
    return {net.conv: conv, net.linear: linear}


X, T = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.full((4,), 700.0)


def merged(net, lora, alpha):
    state = {module: module.weight.clone() for module in lora}
    for module, (down, up, scale) in lora.items():
        module.weight += (alpha * scale / len(down) * up.flatten(1) @ down.flatten(1)).view_as(module.weight)
    made = net(X, T)
    for module, weight in state.items():
        module.weight.copy_(weight)
    return made


def test_every_row_has_the_strength_that_it_is_given(net, lora):
    alphas = [0.0, 0.5, 1.0, -1.0]
    hooks = LoraHooks(net, lora, lambda timestep, rows: alphas)
    made = net(X, T)
    for row, alpha in enumerate(alphas):
        torch.testing.assert_close(made[row], merged_without(hooks, net, lora, alpha)[row])


def merged_without(hooks, net, lora, alpha):
    strengths, hooks.strengths = hooks.strengths, lambda timestep, rows: [0.0] * rows
    made = merged(net, lora, alpha)
    hooks.strengths = strengths
    return made


def test_at_0_and_when_it_is_removed_nothing_is_computed_otherwise(net, lora):
    before = net(X, T)
    hooks = LoraHooks(net, lora, lambda timestep, rows: [0.0] * rows)
    assert torch.equal(net(X, T), before)
    hooks.strengths = lambda timestep, rows: [1.0] * rows
    assert not torch.equal(net(X, T), before)
    hooks.remove()
    hooks.remove()
    assert torch.equal(net(X, T), before)


def test_it_is_asked_at_each_call_for_its_timestep_and_rows(net, lora):
    asked = []
    LoraHooks(net, lora, lambda timestep, rows: asked.append((timestep, rows)) or [1.0] * rows)
    net(X, T)
    net(X[:2], T[:2] / 7, context=None)
    assert asked == [(700.0, 4), (100.0, 2)]


def test_it_computes_in_the_type_of_the_layer(net, lora):
    LoraHooks(net.double(), lora, lambda timestep, rows: [1.0] * rows)
    assert net(X.double(), T).dtype == torch.float64


@pytest.mark.parametrize("held", [(), (1, 1)])
def test_a_convolution_of_one_by_one_and_a_linear_layer_take_the_matrices_of_each_other(held):
    draw = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, 4, generator=draw), torch.randn(4, 2, generator=draw)
    update = Lora(down.view(2, 4, *held), up.view(4, 2, *held), 2.0)
    x = torch.randn(1, 4, 3, 3, generator=draw)
    for layer, rows in ((nn.Conv2d(4, 4, 1), x), (nn.Linear(4, 4), x.movedim(1, 3))):
        before = layer(rows)
        LoraHooks(layer, {layer: update}, lambda timestep, rows: [1.0]).alpha = torch.ones(1)
        (hook,) = list(layer._forward_hooks.values())[-1:]
        change = torch.einsum("oi,bihw->bohw", up @ down, x)
        expected = change if rows is x else change.movedim(1, 3)
        torch.testing.assert_close(hook(layer, (rows,), before) - before, expected)
