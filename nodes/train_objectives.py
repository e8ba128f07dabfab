"""The objectives of DDM Train that have a command of their own, and which inputs of the node each objective uses."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files, prompt_lists, train_options, training_set
from .train_options import NONE
from .types import advanced

ALIGNMENT, INVARIANT = "alignment", "invariant"
OTHERS = (ALIGNMENT, INVARIANT)
ABOUT = (
    "ddm: learn from images, without labels if you like. alignment: no images; the model's own of prior_prompts are "
    "taught until the probe sees the target. invariant: without labels, a module for DDM Invariant Guidance. "
    "ddm-paper: the published method, to compare with."
)
# What an objective cannot do without: not hidden among what few need.
NEEDED = {ALIGNMENT: ("probe", "prior_prompts"), INVARIANT: ("prior_prompts",)}
# What is usual where it is not what is usual for the objective ddm; the page sets it when the objective is chosen.
USUAL = {ALIGNMENT: {"steps": 60, "batch_size": 16}, INVARIANT: {"steps": 400, "batch_size": 64}}
EVERY = {"weights", "name", "objective", "overwrite", "steps", "batch_size", "learning_rate", "seed", "background"}
EVERY |= {"prior_prompts", "clip_skip", "prediction"}
USED = {
    ALIGNMENT: EVERY
    | {"target", "probe", "second_probe", "rank", "text_encoder", "gradient_checkpointing", "sample_every"}
    | {"keep", "cfg"},
    INVARIANT: EVERY | {"folder", "caption", "prior_count", "inferred_groups", "beta", "variance"},
}


def inputs() -> list[io.Input]:
    """What only these objectives ask for."""
    return list(
        advanced(
            io.Combo.Input(
                "keep",
                options=[NONE, *files.names(files.DDM, "probe")],
                default=NONE,
                optional=True,
                tooltip="alignment: images shall keep the features of this probe, such as one for the role.",
            ),
            io.Float.Input(
                "cfg",
                default=3.0,
                min=0.0,
                max=100.0,
                step=0.1,
                optional=True,
                tooltip="alignment: the guidance scale to train at, that of your images.",
            ),
            io.Int.Input(
                "inferred_groups",
                default=8,
                min=2,
                max=1000,
                optional=True,
                tooltip="invariant: how many groups are looked for.",
            ),
            io.Float.Input(
                "beta",
                default=3.0,
                min=0.0,
                max=100.0,
                step=0.1,
                optional=True,
                tooltip="invariant: β, how much the smallest group counts in looking for them.",
            ),
            io.Float.Input(
                "variance",
                default=1.0,
                min=0.0,
                max=100.0,
                step=0.1,
                optional=True,
                tooltip="invariant: λ, how much the differences between groups count in training.",
            ),
        )
    )


def marked(made: Sequence[io.Input]) -> list[io.Input]:
    """The inputs of the node; that of the objective tells the page what each objective does not use."""
    from ..training.commands.idle_options import NOT_PUBLISHED

    names = {one.id for one in made}
    own = {one.id for one in inputs()}
    hidden = {name: sorted(names - used) for name, used in USED.items()}
    hidden |= {"ddm": sorted({*own, "paper_alpha"})}
    hidden |= {"ddm-paper": sorted({*own, *NOT_PUBLISHED, "style", "text_encoder", "by_prompt"} & names)}
    for one in made:
        if one.id == "objective":
            one.options, one.tooltip = [*one.options, *OTHERS], ABOUT
            one.extra_dict = {"ddm_hidden": hidden, "ddm_usual": USUAL, "ddm_needed": NEEDED}
    return list(made)


def check(objective: str | None, probe: str | None, prior_prompts: str | None) -> None:
    """Refuse what such an objective cannot do without; None is what comes over a wire.

    Raises:
        DDMError: there is no probe or prompt for alignment.
    """
    if objective == ALIGNMENT and probe == NONE:
        raise DDMError("The objective alignment teaches by a probe. Choose one in probe.")
    if objective == ALIGNMENT and prior_prompts is not None and not prior_prompts.strip():
        raise DDMError("The objective alignment teaches the model's own images. Write what they show in prior_prompts.")


def arguments(
    objective: str, out: Path, base: Path, checkpoint: Path, sample_dir: Path, overwrite: bool, **given: Any
) -> list[str]:
    """The arguments of `ddm` that stand for the node's inputs.

    Raises:
        DDMError: a folder or a probe is not there, or not given.
    """
    given = {one.id: one.default for one in (*train_options.inputs(), *inputs())} | given
    check(objective, given["probe"], given["prior_prompts"])
    folder = training_set.folder_of(given["folder"]) if objective == INVARIANT else None
    made = ["align"] if objective == ALIGNMENT else ["invariant", *([] if folder is None else [str(folder)])]
    made += [f"--out={out}", f"--checkpoint={checkpoint}", *training_set.opening(base)]
    if checkpoint.exists():
        made.append("--restart" if overwrite else "--resume")
    return [*made, *(_alignment(sample_dir, **given) if objective == ALIGNMENT else _invariant(**given))]


def _alignment(sample_dir: Path, probe: str, prior_prompts: str, **given: Any) -> Iterator[str]:
    for name in (probe, given["second_probe"]):
        if name != NONE:
            yield f"--probe={files.resolve(files.DDM, name)}"
    yield f"--prompts={prompt_lists.as_option(prompt_lists.split(prior_prompts))}"
    yield from (f"--target={part.strip()}" for part in given["target"].split(";") if part.strip())
    yield f"--train={'both' if given['text_encoder'] else 'unet'}"
    if given["keep"] != NONE:
        yield f"--keep={files.resolve(files.DDM, given['keep'])}"
    if given["gradient_checkpointing"]:
        yield "--gradient-checkpointing"
    yield f"--sample-dir={sample_dir}"
    yield from _numbers(given, "rank", "cfg", "sample_every")


def _invariant(prior_prompts: str, **given: Any) -> Iterator[str]:
    if given["caption"].strip():
        yield f"--caption={given['caption'].strip()}"
    if prior_prompts.strip():
        yield f"--prior-prompts={prompt_lists.as_option(prompt_lists.split(prior_prompts))}"
        yield f"--prior-count={given['prior_count']}"
    yield f"--groups={given['inferred_groups']}"
    yield from _numbers(given, "beta", "variance")


def _numbers(given: dict[str, Any], *names: str) -> Iterator[str]:
    """These numbers and those of both objectives; 0 is not given where it means what is usual."""
    for name in (*names, "steps", "batch_size", "learning_rate", "seed", "clip_skip"):
        if given[name] or name in ("seed", "beta", "variance", "cfg"):
            yield f"--{name.replace('_', '-')}={given[name]}"
    if given["prediction"] != "auto":
        yield f"--prediction={given['prediction']}"
