"""A head for distribution guidance, as hosts have it made by `ddm head`."""

from pathlib import Path
from typing import Any

from ..debias.core.error import DDMError
from ..debias.core.io import check_output
from . import prompt_lists
from .progress_panel import TrainPanel
from .trainer_process import Command

# Options that pages call by other names.
NAMES = {"prior_prompts": "prompts", "prior_count": "count"}


def command(
    out: Path,
    images: Path | None,
    opened: list[str],
    *,
    groups: str,
    probe: Path | None,
    prompts: list[str],
    count: int,
    caption: str = "",
    seed: int = 0,
) -> Command:
    """The command for a head.

    Args:
        out: the file to write.
        images: a folder to learn from; None for the model's own images alone.
        opened: see `train_inputs.opening`.
        groups: who is in the images; not used with a probe.
        probe: a file.
        prompts: of the model's own images; none for a folder alone.
        count: of these images for each prompt.

    Raises:
        DDMError: there is nothing to learn from, or the file is of another kind.
    """
    check_output(out, "head")
    if images is None and not (prompts and count):
        raise DDMError("There is nothing to learn from. Choose a folder, or a count of the model's own images.")
    arguments = ["head", *([] if images is None else [str(images)]), f"--out={out}", *opened, f"--seed={seed}"]
    arguments.append(f"--groups={groups.strip()}" if probe is None else f"--probe={probe}")
    arguments += [f"--caption={caption.strip()}"] if caption.strip() else []
    if prompts and count:
        arguments += [f"--prior-prompts={prompt_lists.as_option(prompts)}", f"--prior-count={count}"]
    return Command.of(*arguments)


def finish(out: Path, place: str, panel: TrainPanel) -> None:
    """Say what the head tells apart, and how often it is right.

    Args:
        place: a sentence on where it is and what to do with it.
    """
    from ..debias.methods.h_space_classifier import HSpaceClassifier

    head = HSpaceClassifier.load(out)
    panel.values["accuracy"] = [list(one) for one in zip(head.timesteps, head.accuracy, strict=True)]
    panel.finish(None, f"{place} {told(head)}")


def told(head: Any) -> str:
    """What a head tells apart, and how often it is right."""
    best, chance = max(head.accuracy), 1 / len(head.names)
    said = (
        f"It tells {', '.join(head.names)} apart: right in {best:.0%} of images that it had not seen, at the noise "
        "where it sees best."
    )
    if best < chance + (1 - chance) / 3:
        said += " That is little better than guessing: give it more images of each prompt, or a probe."
    return said
