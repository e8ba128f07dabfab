"""The inputs of DDM Train that may be left as they are, and what the trainer is told of them."""

from typing import Any

from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files, image_folders
from .types import advanced

# What `masks` offers, and the trainer's options for it.
FILES = "mask files"
MASKS = {FILES: ["--masks"], "mask files, else opacity": ["--masks", "--alpha-mask"], "none": ["--no-masks"]}
NONE = "(none)"


def inputs() -> list[io.Input]:
    """The inputs; those that few need are hidden until one asks for advanced ones."""
    probes = [NONE, *files.names(files.DDM, "probe")]
    return [
        io.String.Input(
            "trigger",
            default="",
            optional=True,
            tooltip="A word that is said at the beginning of every caption.",
        ),
        io.Boolean.Input(
            "shuffle_caption",
            default=False,
            optional=True,
            tooltip="Put what a caption has between commas into another order each time; the first part and "
            "the trigger stay.",
        ),
        io.Boolean.Input(
            "flip",
            default=False,
            optional=True,
            tooltip="Learn from mirror images too; not where left and right matter, as in writing.",
        ),
        io.Combo.Input(
            "masks",
            options=list(MASKS),
            default=FILES,
            optional=True,
            tooltip="What is learnt most of all: what is white in the mask beside an image "
            "(face-masklabel.png for face.png), or what is opaque where there is no such file.",
        ),
        io.Boolean.Input(
            "buckets",
            default=True,
            optional=True,
            tooltip="Keep about the shape of each image; off: all are cropped to their centre square.",
        ),
        io.Boolean.Input(
            "text_encoder",
            default=False,
            optional=True,
            tooltip="Let the text encoders learn as well. Then connect clip to DDM Load Adapter too.",
        ),
        io.Int.Input(
            "by_prompt",
            default=0,
            min=0,
            max=200,
            optional=True,
            tooltip="Correct each prompt by itself in the last steps, so that not only all together are in "
            "balance: so many images of each caption are looked at, at three strengths; 16 are enough. Give "
            "more steps then, 500 for instance. 0: no.",
        ),
        *advanced(
            io.Float.Input(
                "learning_rate",
                default=0.0,
                min=0.0,
                max=1.0,
                step=0.00001,
                round=False,
                optional=True,
                tooltip="Peak learning rate. 0: the usual one for a model of this size, which is 0.0003 for Stable "
                "Diffusion.",
            ),
            io.Int.Input(
                "resolution",
                default=0,
                min=0,
                max=4096,
                step=8,
                optional=True,
                tooltip="Side in pixels of the square whose area images are learnt at. Smaller needs less memory and "
                "time; previews and what α is calibrated on have this size too. 0: the model's own.",
            ),
            io.Int.Input("batch_size", default=32, min=1, max=1024, optional=True, tooltip="Images in a step."),
            io.Int.Input(
                "gradient_accumulation_steps",
                default=1,
                min=1,
                max=1024,
                optional=True,
                tooltip="Take the images of a step in so many parts, one after another: less memory, the same "
                "result. When memory runs out, the trainer does so by itself.",
            ),
            io.Boolean.Input(
                "gradient_checkpointing",
                default=False,
                optional=True,
                tooltip="Needs much less memory, and a third more time. Done by itself when memory runs out.",
            ),
            io.Combo.Input(
                "reg_data",
                options=[NONE, *image_folders.names()],
                default=NONE,
                optional=True,
                tooltip="Images that keep what the model knows already: as many of them as of your own are mixed in, "
                "without labels and without the trigger.",
            ),
            io.String.Input(
                "prior_prompts",
                default="",
                optional=True,
                tooltip="Mix in the model's own images of these prompts, so that your subject does not spread to "
                "everyone: 'a doctor;a pilot'.",
            ),
            io.Int.Input(
                "prior_count",
                default=24,
                min=1,
                max=1000,
                optional=True,
                tooltip="How many of the model's own images of each of prior_prompts.",
            ),
            io.Combo.Input(
                "probe",
                options=probes,
                default=NONE,
                optional=True,
                tooltip="Measure the finished adapter with this probe of models/ddm, and write the figures into its "
                "card.",
            ),
            io.Combo.Input(
                "second_probe",
                options=probes,
                default=NONE,
                optional=True,
                tooltip="A probe for another attribute, measured along.",
            ),
            io.Int.Input(
                "measure",
                default=16,
                min=1,
                max=1000,
                optional=True,
                tooltip="Images that the probes measure at each α, for each of at most 20 captions. From 60 on, the "
                "recommended α is the measured one.",
            ),
        ),
    ]


def check(reg_data: str | None, *probes: str | None) -> None:
    """Check what is known of these inputs before the graph runs; None is what comes over a wire, or was left out.

    Raises:
        DDMError: a folder or a file is not there, or a probe cannot be used without a CLIP model.
    """
    if reg_data not in (None, NONE):
        image_folders.resolve(reg_data)
    for name in probes:
        if name not in (None, NONE):
            _check_probe(name)


def _check_probe(name: str) -> None:
    from ..debias.probes.probe import Probe

    probe = Probe.load(files.resolve(files.DDM, name))
    if probe.network is None:
        raise DDMError(
            f"The probe {name} reads the features of {probe.identity}, which the trainer does not have. Choose one "
            "that was fitted without clip_vision, or measure with DDM Alpha Sweep."
        )


def stamp(reg_data: str = NONE, probe: str = NONE, second_probe: str = NONE, **rest: object) -> str:
    """Changes when one of the files behind these inputs does; for `fingerprint_inputs`."""
    probes = [files.stamp(files.resolve(files.DDM, name)) for name in (probe, second_probe) if name not in (None, NONE)]
    return repr([image_folders.stamp(reg_data), probes])


def arguments(
    masks: str = FILES, reg_data: str = NONE, probe: str = NONE, second_probe: str = NONE, **options: Any
) -> list[str]:
    """The options of `ddm train` that these inputs stand for; `options` are those that `more_options` calls alike.

    Raises:
        DDMError: a folder or a probe is not there.
    """
    from ..hosts.trainer_process import more_options

    return MASKS[masks] + more_options(
        reg_data=None if reg_data == NONE else image_folders.resolve(reg_data),
        probes=[files.resolve(files.DDM, name) for name in (probe, second_probe) if name != NONE],
        **options,
    )
