"""The small module of invariant guidance (arXiv 2412.08480): what is added to a frozen model's answer, at strength r.

answer = base(x_t, t, c) + r · δ(x_t, t, c). Its last layer starts at zero, so before training δ is 0. The answer is
whatever the base predicts, noise or v.
"""

import hashlib
import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any, get_type_hints

import torch
import torch.nn.functional as F
from torch import nn

from ..core.error import DDMError
from ..core.io import fill, load_tensors, save_tensors
from ..core.strict_json import read_fields, write_json

KIND, VERSION = "invariant", "1"
GROUPS = 8  # of the normalisation; widths are multiples of it
SHARE = 0.05  # of the base's parameters
WIDEST = 256


@dataclass(frozen=True)
class InvariantCard:
    """What a module was trained for. All values must be JSON.

    Attributes:
        channels: of the latents.
        text_width: of the text embeddings.
        width: channels inside.
        base_hash: of the base that it was trained on.
        prediction: what that base predicts, "epsilon" or "v_prediction".
        training: settings.
    """

    channels: int
    text_width: int
    width: int
    base_hash: str = ""
    prediction: str = "epsilon"
    training: dict[str, Any] = field(default_factory=dict)


class Block(nn.Module):
    """Two convolutions and a residue; time and text scale and shift what lies between."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, width), nn.GroupNorm(GROUPS, width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.condition = nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Features [B, W, h, w] under conditions [B, W]."""
        scale, shift = self.condition(condition)[..., None, None].chunk(2, 1)
        inner = self.conv1(F.silu(self.norm1(x)))
        inner = self.norm2(inner) * (1 + scale) + shift
        return x + self.conv2(F.silu(inner))


class InvariantModule(nn.Module):
    """δ(x_t, t, c): three residual blocks on the latents, conditioned on timestep and mean text embedding."""

    def __init__(self, card: InvariantCard):
        super().__init__()
        self.card = card
        width = card.width
        self.enter = nn.Conv2d(card.channels, width, 3, padding=1)
        self.time, self.text = nn.Linear(width, width), nn.Linear(card.text_width, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.norm = nn.GroupNorm(GROUPS, width)
        self.leave = nn.Conv2d(width, card.channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """What is to be added to the base's answer.

        Args:
            x: latents [B, C, h, w] as the U-Net gets them.
            t: timesteps [B], or one for all.
            text: token embeddings [B, L, D].

        Returns:
            float32 [B, C, h, w].
        """
        x, text = x.float(), text.float()
        condition = F.silu(self.time(_waves(t.float().expand(len(x)), self.card.width)) + self.text(text.mean(1)))
        inner = self.enter(x)
        for block in self.blocks:
            inner = block(inner, condition)
        return self.leave(F.silu(self.norm(inner)))

    @property
    def parameter_count(self) -> int:
        """How many numbers it has."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(self, path: str | os.PathLike) -> None:
        """Write the module as safetensors, atomically.

        Raises:
            DDMError: it is not finite, or the disk refuses.
        """
        if not all(torch.isfinite(parameter).all() for parameter in self.parameters()):
            raise DDMError(
                f"The module is not saved to {path}: it is not finite. Train again with a lower learning rate.",
                "learning_rate",
            )
        metadata = {f"ddm.{key}": write_json(value) for key, value in asdict(self.card).items()}
        save_tensors(path, self.state_dict(), metadata | {"ddm.kind": KIND, "ddm.version": VERSION})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "InvariantModule":
        """Read a module that `save` wrote; it is frozen.

        Raises:
            DDMError: no such file, not safetensors, no such module, or made by a later version.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("ddm.kind") != KIND:
            raise DDMError(f"{path} is not a module for invariant guidance. Choose another file, or train one.")
        if metadata.get("ddm.version") != VERSION:
            raise DDMError(
                f"{path} is a module of format {metadata.get('ddm.version')}, and this version of ComfyUI-DDM reads "
                f"format {VERSION}. Update ComfyUI-DDM, or train the module again."
            )
        try:
            card = InvariantCard(**read_fields(metadata, get_type_hints(InvariantCard), "it"))
            with torch.device("meta"):
                module = cls(card)
        except (DDMError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
            raise DDMError(f"{path} is not a complete module ({error}). Train it again.") from error
        fill(path, module, tensors)
        return module.eval().requires_grad_(False)

    @property
    def digest(self) -> str:
        """Twelve hex digits of its weights' hash, to tell modules apart."""
        weights = b"".join(value.cpu().numpy().tobytes() for value in self.state_dict().values())
        return hashlib.sha256(weights).hexdigest()[:12]


def new_module(
    channels: int,
    text_width: int,
    base_parameters: int,
    base_hash: str = "",
    prediction: str = "epsilon",
    training: dict[str, Any] | None = None,
    seed: int = 0,
) -> InvariantModule:
    """A module of the greatest width whose parameters are at most a twentieth of the base's.

    Raises:
        DDMError: the base is so small that there is none.
    """
    fitting = [
        card
        for width in range(GROUPS, WIDEST + 1, GROUPS)
        for card in [InvariantCard(channels, text_width, width, base_hash, prediction, training or {})]
        if _count(card) <= SHARE * base_parameters
    ]
    if not fitting:
        raise DDMError(
            f"The base has {base_parameters:,} parameters, and a twentieth of that holds no module. Use a larger base."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InvariantModule(fitting[-1])


def _count(card: InvariantCard) -> int:
    with torch.device("meta"):
        return InvariantModule(card).parameter_count


def _waves(t: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines [B, width] of timesteps [B] (arXiv 2006.11239, appendix B)."""
    speeds = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t[:, None] * speeds
    return torch.cat([angles.cos(), angles.sin()], 1)
