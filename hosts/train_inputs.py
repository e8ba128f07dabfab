"""What a host's page asks of a training: the declared options that it has inputs for, and what becomes of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..debias.core.option import Setting, settings_of
from ..training.commands.config import TrainConfig

# What a page has places, choices or buttons of its own for, or decides by itself.
NOT_ASKED = {
    *("folder", "base", "tokenizer", "device", "out", "style", "overwrite", "resume", "restart", "checkpoint", "card"),
    *("groups", "target", "caption", "alpha_mask", "cache", "no_cache", "log", "clip", "sample_dir"),
    *("vae", "init_from", "text_encoder_file", "calibrate_on"),
}
# How pages call what they ask for in their own way.
OWN_INPUTS = {name: name for name in ("folder", "groups", "target", "caption", "style", "overwrite")} | {
    "out": "name",
    "restart": "overwrite",
}
DEVICES = ("cpu", "cuda", "mps")
# Stands for no choice, where there may be none.
AUTO = "auto"


def asked() -> list[Setting]:
    """The options that a page asks for: those that few need last, and what later versions brought after all."""
    found = [one for name, one in settings_of(TrainConfig).items() if name not in NOT_ASKED]
    return sorted(found, key=lambda one: (one.option.since, one.option.expert))


def choices(setting: Setting) -> list[str]:
    """What an input offers for an option that has choices."""
    return [*([AUTO] if setting.default is None else []), *setting.option.choices]


def explained(setting: Setting) -> str:
    """The help of an option whose input has 0 or nothing for what is not given."""
    option = setting.option
    empty = AUTO if option.choices else "0" if setting.kind in (int, float) else "Empty"
    return option.help + (f" {empty}: {option.unset}." if option.unset else "")


def train_config(
    images: Path | None,
    base: Path,
    out: Path,
    *,
    checkpoint: Path,
    sample_dir: Path,
    device: str,
    style: bool,
    overwrite: bool,
    **options: Any,
) -> dict[str, Any]:
    """The fields of the `TrainConfig` of a run that goes on where one of the same name was stopped.

    Args:
        images: the folder to learn from; None for the model's own images alone.
        base: the model, as a folder or a checkpoint.
        out: the adapter file; a style goes beside it.
        checkpoint: where a stopped run is kept.
        sample_dir: a folder for images that are made while it trains.
        device: the host's; another one than cpu, cuda or mps leaves the choice to the trainer.
        overwrite: replace an adapter of this name, and a stopped run with other settings.
        options: other fields. Text without anything is not given, and 0 is not where a number may be left open.
    """
    declared = settings_of(TrainConfig)
    found = {name: _given(value, declared[name]) for name, value in options.items()}
    for name in ("prior_prompts", "sample_prompts"):
        if found.get(name):
            # The semicolon at the end makes it a list of prompts, whatever files there are: a page's text names none.
            found[name] += ";"
    found |= {
        "folder": images,
        "base": base,
        "out": out,
        "checkpoint": checkpoint,
        "sample_dir": sample_dir,
        "device": device if device in DEVICES else "auto",
        "style": out.with_stem(f"{out.stem}_style") if style else None,
        "overwrite": overwrite,
        "resume": checkpoint.exists(),
        "restart": checkpoint.exists() and overwrite,
    }
    return {name: value for name, value in found.items() if value is not None}


def opening(base: Path, tokenizer: Path | None, device: str) -> list[str]:
    """How commands other than `ddm train` are told which base to open, and on which device."""
    tokenizers = [f"--tokenizer={tokenizer}"] if tokenizer else []
    return [f"--base={base}", *tokenizers, f"--device={device if device in DEVICES else 'auto'}"]


def _given(value: Any, setting: Setting) -> Any:
    """A page's value; None where nothing was given."""
    value = value.strip() if isinstance(value, str) else value
    empty = value in ("", [], ()) or (setting.default is None and value in (0, AUTO))
    return None if empty else value


def input_name(names: Mapping[str, str], option: str) -> str | None:
    """What a page calls an option (see `debias.core.error.named`).

    Args:
        names: inputs of this page alone that are not called like the option.
    """
    return {**OWN_INPUTS, **names}.get(option, None if option in NOT_ASKED else option)
