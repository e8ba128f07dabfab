"""Encoded prompts index and join as tensors do, pooled embeddings with them."""

import pytest
import torch
from comfyui_ddm.training.models.text import Text


def text(pooled):
    rows = torch.arange(4, dtype=torch.float16)
    return Text(rows.view(-1, 1, 1).expand(-1, 3, 2), rows.view(-1, 1) * 10 if pooled else None)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("rows", [[2, 0, 2], torch.tensor([2, 0, 2])])
def test_rows_are_chosen_alike_everywhere(pooled, rows):
    chosen = text(pooled)[rows]
    assert len(chosen) == 3 and chosen.tokens[:, 0, 0].tolist() == [2, 0, 2]
    assert (chosen.pooled.flatten().tolist() == [20, 0, 20]) if pooled else chosen.pooled is None


@pytest.mark.parametrize("pooled", [True, False])
def test_texts_are_joined_and_cast(pooled):
    both = Text.cat([text(pooled)[:1], text(pooled)[2:]]).float()
    assert both.tokens[:, 0, 0].tolist() == [0, 2, 3] and both.tokens.dtype == torch.float32
    assert both.to(torch.float64).tokens.dtype == torch.float64
    assert (both.pooled.flatten().tolist() == [0, 20, 30]) if pooled else both.pooled is None
