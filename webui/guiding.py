"""Distribution guidance on the host's model while it makes the images of a run, in hooks on its U-Net."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..debias.core.error import DDMError
from ..debias.methods.class_counts import PromptCounts
from ..debias.methods.distribution_guidance import NO_UNET, Guidance, begin_together, guides_for
from ..debias.methods.guidance_hook import GuidanceHooks
from ..debias.methods.h_space import HSpace
from ..debias.methods.h_space_classifier import HSpaceClassifier
from . import files
from .adapting import unet_of
from .host import checkpoint_hash, is_forge

# How an image's infotext names what guided it.
NAMES = tuple(f"DDM guidance{one}" for one in ("", " hash", " scale", " mode", " target", " words", " left alone"))
HEADS, HASH, SCALE, MODE, TARGET, WORDS, LEFT_ALONE = NAMES
# What is guided is counted over the runs.
TALLIES = PromptCounts()
CONDITIONAL = 0  # as Forge marks it


@dataclass
class Guiding:
    """Guidance in a run.

    Attributes:
        names: of the heads, as the page lists them.
        guides: one for each.
        targets, words: as they were asked for.
    """

    names: Sequence[str]
    guides: Sequence[Guidance]
    targets: str
    words: str = ""
    hooks: GuidanceHooks | None = field(default=None, repr=False)
    _calls: int = 0

    @classmethod
    def load(
        cls, names: Sequence[str], scale: float, mode: str, targets: str, keep_counts: bool, words: str = ""
    ) -> "Guiding":
        """Read the heads.

        Args:
            targets: one, or one for each head, separated by semicolons.
            keep_counts: go on with what was counted in earlier runs; otherwise it is forgotten.
            words: of prompts that are left alone, one list for each head, separated by semicolons; empty for the
                classes' own names.

        Raises:
            DDMError: a head that cannot be used, a scale that is no number, or targets or words that do not fit
                (`guides_for`).
        """
        try:
            scale = float(scale)
        except (TypeError, ValueError):
            scale = math.nan
        if not 0 <= scale < math.inf:
            raise DDMError("The scale of guidance is a number from 0 on; 8 is usual.")
        heads = [HSpaceClassifier.load(files.head_path(name)) for name in names]
        asked = [part.strip() or "uniform" for part in (targets or "uniform").split(";")]
        said = [part.strip() for part in words.split(";")] if words.strip() else []
        guides = guides_for(heads, asked if asked != ["uniform"] else (), scale, mode, said)
        for guide in guides:
            guide.tally = TALLIES.get((guide.head.digest, str(guide.target)), guide.target.shares)
            if not keep_counts:
                guide.tally.clear()
        return cls(names, guides, "; ".join(asked), "; ".join(said))

    def check(self, model: Any, prompts: Sequence[str]) -> str | None:
        """Whether the host's model can be guided; returns a warning if it is another one than a head was made for.

        Raises:
            DDMError: it cannot.
        """
        middle = getattr(unet_of(model), "middle_block", None)
        if middle is None:
            raise DDMError(NO_UNET)
        if not is_forge(model) and any(" AND " in one for one in prompts):
            raise DDMError("Prompts with AND cannot be guided here.")
        base = checkpoint_hash(model)
        others = [
            name for name, one in zip(self.names, self.guides, strict=True) if not base or one.head.base_hash != base
        ]
        if not others:
            return None
        return (
            f"{', '.join(others)} was made for another model than the one that is selected, or for one that is not "
            "known here: look at a report before you rely on it."
        )

    def put_on(self, model: Any, prompts: Sequence[str], failed: Callable[[DDMError], None]) -> None:
        """Put it on the model for a pass over the images of a batch; once more does no harm.

        Args:
            model: the host's.
            prompts: of the batch.
            failed: told what went wrong while images are made; from then on they are not guided.
        """
        self.take_off()
        begin_together(self.guides, prompts)
        unet = unet_of(model)

        def conditional(rows: int, named: Mapping[str, Any]) -> list[slice]:
            copies = rows // len(prompts)
            marks = named.get("transformer_options", {}).get("cond_or_uncond")
            if marks is None:  # A1111: what is asked for comes first
                marks = [int(self._calls + copy > 0) for copy in range(copies)]
                self._calls += copies
            step = rows // max(1, len(marks))
            return [slice(i * step, (i + 1) * step) for i, mark in enumerate(marks) if mark == CONDITIONAL]

        self.hooks = GuidanceHooks(unet, HSpace(unet.middle_block), self.guides, conditional, failed)

    def begin_step(self) -> None:
        """Tell that the host asks its model for the next step; only A1111 must, which does not mark its rows."""
        self._calls = 0

    def count(self) -> None:
        """Count the images of the batch: they are done."""
        for guide in self.guides:
            guide.end()

    def take_off(self) -> None:
        """Remove the hooks, if there are any."""
        if self.hooks is not None:
            self.hooks.remove()
            self.hooks = None

    def label(self, prompt: str) -> str:
        """What a report says of the guidance of a prompt's images; empty where they are left alone."""
        said = self.infotext(prompt)
        return ", ".join(said[name] for name in (HEADS, HASH, SCALE, MODE, TARGET)) if HEADS in said else ""

    def infotext(self, prompt: str) -> dict[str, str]:
        """What the infotexts of a prompt's images say: of the heads that guided them, and of the words that forbade it.

        Of heads that left them alone only these words are said.
        """
        acting = [i for i, guide in enumerate(self.guides) if not guide.said(prompt)]
        left = ", ".join(dict.fromkeys(filter(None, (guide.said(prompt) for guide in self.guides))))
        said = {LEFT_ALONE: left} if left else {}
        if not acting:
            return said

        def own(listed: str) -> str:
            parts = listed.split("; ")
            return listed if len(parts) < len(self.guides) else "; ".join(parts[i] for i in acting)

        said |= {
            HEADS: ", ".join(self.names[i] for i in acting),
            HASH: ", ".join(self.guides[i].head.digest for i in acting),
            SCALE: f"{self.guides[0].scale:g}",
            MODE: self.guides[0].mode,
            TARGET: own(self.targets),
        }
        return said | ({WORDS: own(self.words)} if self.words else {})
