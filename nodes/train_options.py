"""The inputs of DDM Train that may be left as they are: the trainer's own options, and choices of files."""

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import files, image_folders
from .types import advanced

if TYPE_CHECKING:
    from ..debias.core.option import Setting

# What `masks` offers, and what that is for the trainer.
FILES = "mask files"
MASKS = {
    FILES: {"masks": True},
    "mask files, else opacity": {"masks": True, "alpha_mask": True},
    "none": {"masks": False},
}
NONE = "(none)"
# The input that is not called like the option.
NAMES = {"base": "weights"}


def inputs() -> list[io.Input]:
    """The inputs; those that few need are hidden until one asks for advanced ones."""
    from ..hosts.train_inputs import asked

    return [one for setting in asked() for one in _inputs(setting)]


def _inputs(setting: "Setting") -> "tuple[io.Input, ...]":
    """The inputs that stand for an option."""
    from ..hosts.train_inputs import choices, explained

    option, kind, named = setting.option, setting.kind, {"id": setting.name, "optional": True}
    named["tooltip"] = explained(setting)
    if setting.name == "masks":
        named["tooltip"] = (
            "What is learnt most of all: what is white in the mask beside an image (face-masklabel.png for face.png), "
            "or what is opaque where there is no such file."
        )
        made = [io.Combo.Input(options=list(MASKS), default=FILES, **named)]
    elif setting.name == "reg_data":
        made = [io.Combo.Input(options=[NONE, *image_folders.names()], default=NONE, **named)]
    elif setting.name == "probe":
        probes = [NONE, *files.names(files.DDM, "probe")]
        made = [io.Combo.Input(options=probes, default=NONE, **named)]
        second = named | {"id": "second_probe", "tooltip": "A probe for another attribute, measured along."}
        made.append(io.Combo.Input(options=probes, default=NONE, **second))
    elif option.choices:
        made = [io.Combo.Input(options=choices(setting), default=choices(setting)[0], **named)]
    elif kind is bool:
        made = [io.Boolean.Input(default=setting.default, **named)]
    elif kind is str:
        made = [io.String.Input(default=setting.default or "", **named)]
    else:
        # 0 stands for a number that is not given.
        least = 0 if setting.default is None else option.least
        named |= {"default": setting.default or 0, "min": least, "max": option.most or 2**31 - 1}
        if kind is int:
            made = [io.Int.Input(**named | ({"control_after_generate": False} if setting.name == "seed" else {}))]
        else:
            step = 0.00001 if setting.default is None else 0.001
            made = [io.Float.Input(step=step, round=False, **named)]
    return advanced(*made) if option.expert else tuple(made)


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


def options(
    masks: str = FILES, reg_data: str = NONE, probe: str = NONE, second_probe: str = NONE, **rest: Any
) -> dict[str, Any]:
    """The options of `ddm train` that these inputs stand for; those of other commands are left out.

    Raises:
        DDMError: a folder or a probe is not there.
    """
    from ..hosts.train_inputs import asked

    declared = {one.name for one in asked()}
    return (
        {name: value for name, value in rest.items() if name in declared}
        | MASKS[masks]
        | {
            "reg_data": None if reg_data == NONE else image_folders.resolve(reg_data),
            "probe": [files.resolve(files.DDM, name) for name in (probe, second_probe) if name != NONE],
        }
    )
