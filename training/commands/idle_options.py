"""Options of a training that were given, and that have no effect beside what else was given or left out."""

from collections.abc import Collection, Iterator

from ...debias.core.option import settings_of
from .config import TrainConfig

# What does nothing without what else.
NEEDS = {
    "measure": "probe",
    "clip": "probe",
    "sample_every": "sample_dir",
    "sample_prompts": "sample_dir",
    "prior_loss_weight": "folder",
    "keep_tokens": "shuffle_caption",
    "prior_count": "prior_prompts",
    "trigger": "folder",
    "caption": "folder",
    "flip": "folder",
    "alpha_mask": "folder",
}
# The published objective learns centre squares as they are, each loss alike and with its whole caption, and calibrates
# nothing.
NOT_PUBLISHED = (
    "calibrate",
    "min_snr_gamma",
    "caption_dropout_rate",
    "shuffle_caption",
    "buckets",
    "flip",
    "masks",
    "alpha_mask",
)
# What is right says the model itself, for the whole of an image and at every timestep.
NOT_TAUGHT = ("masks", "alpha_mask", "prior_loss_weight", "min_snr_gamma")


def idle_options(config: TrainConfig, given: Collection[str] = ()) -> Iterator[tuple[str, ...]]:
    """A sentence for each option that does nothing, and the options that it is about.

    Args:
        given: fields that the command line names. Others count as given if they are not as usual: a printed file names
            all of them.
    """
    usual = {name: setting.default for name, setting in settings_of(TrainConfig).items()}
    used = [name for name in usual if name in given or getattr(config, name) != usual[name]]
    for name in used:
        other = NEEDS.get(name)
        if other and not getattr(config, other):
            yield f"{_words(name)} has no effect without {_words(other)}.", name, other
        if name == "paper_alpha" and config.objective != "ddm-paper":
            yield "paper alpha has no effect without the objective ddm-paper.", name, "objective"
        if name in NOT_PUBLISHED and config.objective == "ddm-paper":
            yield f"{_words(name)} has no effect with the objective ddm-paper.", name, "objective"
        if name in NOT_TAUGHT and config.teacher == "model":
            yield f"{_words(name)} has no effect where the model itself is the teacher.", name, "teacher"


def _words(option: str) -> str:
    return option.replace("_", " ")
