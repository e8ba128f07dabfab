"""A stopped run that a host finds: what it was asked for, against what is asked for now."""

from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from ..debias.core.error import DDMError
from ..debias.core.option import settings_of
from ..training.commands.config import TrainConfig
from ..training.commands.config_file import read_config
from .trainer_process import toml_of

# What a resumed run may change: it does not bear on what was trained until then.
FREE = {
    *("calibrate", "probe", "clip", "measure", "sample_dir", "sample_prompts", "sample_every", "save_every", "card"),
    *("checkpoint", "checkpoint_every", "log", "overwrite", "resume", "restart", "device", "cache", "no_cache"),
    *("gradient_accumulation_steps", "gradient_checkpointing", "tokenizer", "steps"),
}
# Sentences name so many differences.
NAMED = 3


def check_same_run(config: Mapping[str, Any]) -> None:
    """Refuse to resume a run that was asked for something else, and say what differs.

    Args:
        config: fields of a `TrainConfig`, as `train_config` gives them.

    Raises:
        DDMError: something differs that would make another adapter.
    """
    file = toml_of(config["checkpoint"])
    if not config["resume"] or config["restart"] or not file.is_file():
        return
    try:
        began = read_config(file)
    except DDMError:  # of another version; the trainer itself compares the whole runs
        return
    declared = settings_of(TrainConfig)

    def value(given: Mapping[str, Any], name: str) -> Any:
        found = given.get(name, declared[name].default)
        return found.resolve() if isinstance(found, Path) else found

    other = [name for name in declared if name not in FREE and value(began, name) != value(config, name)]
    if not other:
        return
    said = ", ".join(f"{name.replace('_', ' ')} {_short(value(began, name))}" for name in other[:NAMED])
    said += ", …" if other[NAMED:] else ""
    raise DDMError(
        f"A stopped run of this name began with {said}. Give this again to go on, choose another name, or begin anew.",
        *other,
        "restart",
    )


def _short(value: Any) -> str:
    """A value as a page says it: files and folders by their names."""
    if value in (None, MISSING, ""):
        return "left open"
    return value.name if isinstance(value, Path) else str(value)
