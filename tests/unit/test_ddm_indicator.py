"""The paper's indicator, its loss, and what a run with it says of itself."""

import math

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.methods.ddm_indicator import DDMIndicator, indicator_entropy, paper_loss
from comfyui_ddm.training.commands.config import TrainConfig
from comfyui_ddm.training.objectives.ddm_paper import DDMPaperRun

from .runs import prepare, write_folder


@pytest.mark.parametrize("classes", [2, 5])
def test_the_indicator_has_the_papers_layers(classes):
    indicator = DDMIndicator(256, classes)
    shapes = [tuple(layer.weight.shape) for layer in indicator.layers if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(1024, 256), (512, 1024), (classes, 512)]
    assert indicator(torch.randn(3, 4, 8, 8)).shape == (3, classes)


def test_the_loss_weighs_noise_against_classes():
    predicted, noise = torch.ones(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    logits, classes = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), torch.tensor([2, 0])
    cross = torch.nn.functional.cross_entropy(logits, classes, reduction="none")
    for alpha in (0.0, 0.25, 1.0):
        found = paper_loss(predicted, noise, logits, classes, alpha)
        assert torch.allclose(found, (1 - alpha) * torch.ones(2) + alpha * cross)


def test_entropy_is_that_of_the_softmax():
    assert indicator_entropy(torch.zeros(4, 3)) == pytest.approx((math.log(3), 0.0))
    mean, deviation = indicator_entropy(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    assert (mean, deviation) == pytest.approx((math.log(2) / 2, math.log(2) / 2))


def test_a_run_changes_attentions_q_and_v_alone_and_says_what_it_measured(tiny_base, tmp_path):
    folder, out = write_folder(tmp_path / "images"), tmp_path / "paper.safetensors"
    changes = {"objective": "ddm-paper", "paper_alpha": 0.1}
    assert prepare(tiny_base, folder, out, kind=DDMPaperRun, changes=changes).train()
    adapter = load_adapter(out)
    assert {name.rsplit("to_", 1)[1] for name in adapter.modules} == {"q", "v"}
    card = adapter.card
    assert (card.objective, card.recommended_alpha, card.predicted) == ("ddm-paper", 1.0, [])
    assert card.training["paper_alpha"] == 0.1
    assert 0 <= card.training["indicator_entropy"]["mean"] <= round(math.log(2), 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "paper"}, "is not possible"),
        ({"objective": "ddm-paper"}, "learns from labels"),
        ({"objective": "ddm-paper", "groups": "labels:gender,tone"}, "learns one attribute"),
        ({"objective": "ddm-paper", "groups": "labels:gender", "by_prompt": 8}, "no shares to correct prompts by"),
        ({"objective": "ddm-paper", "groups": "labels:gender", "style": "s.safetensors"}, "learns no style"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(tmp_path, options, said):
    if "style" in options:
        options = options | {"style": tmp_path / options["style"]}
    with pytest.raises(DDMError, match=said):
        TrainConfig(out=tmp_path / "x.safetensors", folder=tmp_path, **options)
