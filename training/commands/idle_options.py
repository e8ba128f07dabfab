"""Options of a training that were given, and that have no effect beside what else was given or left out."""

from collections.abc import Collection, Iterator
from dataclasses import fields

from .config import TrainConfig
from .config_file import key_of

# What does nothing without what else.
NEEDS = {
    "measure": "probe",
    "clip": "probe",
    "sample_every": "sample_dir",
    "keep_tokens": "shuffle_caption",
    "prior_count": "prior_prompts",
    "trigger": "folder",
    "caption": "folder",
    "flip": "folder",
    "alpha_mask": "folder",
}
# The published objective learns centre squares as they are, each loss alike and with its whole caption, and calibrates
# nothing.
NOT_PUBLISHED = ("calibrate", "min_snr", "caption_dropout", "shuffle_caption", "buckets", "flip", "masks", "alpha_mask")


def idle_options(config: TrainConfig, given: Collection[str] = ()) -> Iterator[str]:
    """A sentence for each option that does nothing.

    Args:
        given: fields that the command line names. Others count as given if they are not as usual: a printed file names
            all of them.
    """
    usual = {field.name: field.default for field in fields(config)}

    def said(name: str) -> bool:
        return name in given or getattr(config, name) != usual[name]

    published = config.objective == "ddm-paper"
    for name, other in NEEDS.items():
        if said(name) and not getattr(config, other):
            wanted = "a FOLDER" if other == "folder" else _option(other)
            yield f"{_option(name)} has no effect without {wanted}."
    if said("paper_alpha") and not published:
        yield "--paper-alpha has no effect without --objective ddm-paper."
    for name in NOT_PUBLISHED if published else ():
        if said(name):
            yield f"{_option(name, getattr(config, name))} has no effect with --objective ddm-paper."


def _option(name: str, value: object = True) -> str:
    """An option as it is given."""
    return f"--{'no-' if value is False else ''}{key_of(name)}"
