"""What acts on a diffusers U-Net while it samples, besides LoRAs, as hooks that are gone again afterwards."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError
from ...debias.methods.distribution_guidance import SCALE, Guidance, begin_together, guides_for
from ...debias.methods.guidance_hook import GuidanceHooks
from ...debias.methods.h_space_classifier import HSpaceClassifier
from ...debias.methods.invariant_module import InvariantModule

if TYPE_CHECKING:
    import torch

    from ..models.base import Base


@dataclass(frozen=True)
class SamplingGuidance:
    """Guidance that needs no change of the model's weights. Without any, the model computes what it always did.

    Attributes:
        guides: distribution guidance, one for each attribute.
        invariant: the module of invariant guidance, and `strength`, its r.
    """

    guides: Sequence[Guidance] = ()
    invariant: InvariantModule | None = None
    strength: float = 1.0

    @property
    def facts(self) -> dict[str, Any]:
        """What an image's metadata says of it, as JSON; empty where it changes nothing."""
        facts: dict[str, Any] = {}
        if guides := [guide.facts for guide in self.guides if guide.scale]:
            facts["guides"] = guides
        if self.invariant is not None and self.strength:
            facts["invariant"] = {"module": self.invariant.digest, "strength": self.strength}
        return facts

    def left_alone(self, prompt: str) -> dict[str, Any]:
        """What metadata says of an image that guidance leaves alone: the word of its prompt, by attribute."""
        said = {guide.head.attribute: guide.said(prompt) for guide in self.guides if guide.scale and guide.said(prompt)}
        return {"left_alone": said} if said else {}

    @contextmanager
    def on(self, base: "Base", prompts: Sequence[str]) -> Iterator[None]:
        """Steer the images of these prompts, whose conditional half is the last rows of every batch."""
        with ExitStack() as hooks:
            if self.guides:
                begin_together(self.guides, prompts)
                count = len(prompts)
                space = base.family.h_space(base.denoiser)
                guiding = GuidanceHooks(base.denoiser, space, self.guides, lambda rows, _: [slice(rows - count, None)])
                hooks.callback(guiding.remove)
            if self.invariant is not None and self.strength:
                hooks.enter_context(_corrected(base.denoiser, self.invariant, self.strength))
            yield

    def count(self) -> list[dict[str, str]]:
        """Count the images that are done in the tallies; per image its class of each attribute."""
        counted = [(guide, guide.end()) for guide in self.guides]
        total = len(counted[0][1]) if counted else 0
        return [
            {guide.head.attribute: guide.head.names[classes[row]] for guide, classes in counted} for row in range(total)
        ]

    def recount(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Set the tallies to the images that are there already: their `prompt`, and what `count` gave (`counted`)."""
        rows = [row for row in rows if "counted" in row]
        prompts = [row["prompt"] for row in rows]
        for guide in self.guides:
            guide.tally.clear()
            guide.count(prompts, [guide.head.names.index(row["counted"][guide.head.attribute]) for row in rows])


def load_steering(
    base: "Base",
    heads: Sequence[Path] = (),
    targets: Sequence[str] = (),
    scale: float = SCALE,
    mode: str = "queue",
    invariant: Path | None = None,
    strength: float = 1.0,
    words: Sequence[str] = (),
) -> tuple[SamplingGuidance, list[str]]:
    """Open heads and a module for a base.

    Args:
        targets: one for each head, or none for uniform ones.
        words: of prompts that are left alone, as `guides_for` takes them.

    Returns:
        The steering, and a warning for each file that was made for another base.

    Raises:
        DDMError: a file that cannot be used, targets or words that do not fit, or two heads for one attribute.
    """
    opened = [HSpaceClassifier.load(path).to(base.device) for path in heads]
    guides = guides_for(opened, targets, scale, mode, words)
    module = None if invariant is None else InvariantModule.load(invariant).to(base.device)
    hashes = [(path.name, head.base_hash) for path, head in zip(heads, opened, strict=True)]
    hashes += [] if module is None else [(invariant.name, module.card.base_hash)]
    warnings = [
        f"{name} was made for another base model: look at the images before you rely on it."
        for name, made_for in hashes
        if made_for != base.hash
    ]
    return SamplingGuidance(guides, module, strength), warnings


@contextmanager
def _corrected(unet: "torch.nn.Module", module: InvariantModule, strength: float) -> Iterator[None]:
    import torch

    # Both halves of a batch: the module has learnt the empty caption too.
    config, card = unet.config, module.card
    if (config.in_channels, config.get("cross_attention_dim")) != (card.channels, card.text_width):
        raise DDMError(
            "The module for invariant guidance was trained on another kind of model. Use that one, or train a module "
            "for this one."
        )

    def act(_module: object, inputs: tuple, _named: dict, output: tuple) -> tuple:
        x, t, text = inputs
        return (output[0].float() + strength * module(x, torch.as_tensor(t, device=x.device), text), *output[1:])

    handle = unet.register_forward_hook(act, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
