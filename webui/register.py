"""What the host is asked to call: for the tab, the axis, pasted infotexts and the pages of reports."""

from pathlib import Path
from typing import Any

from modules import script_callbacks, scripts

from ..debias.core.error import DDMError
from . import files, pages
from .script import AXIS_ALPHA, DEFAULTS, TITLE, begin_step
from .settings import Settings
from .tab import build

AXIS = "DDM α"


def register() -> None:
    """Register everything; the host forgets it before it loads its scripts again."""
    script_callbacks.on_before_ui(add_axis)
    script_callbacks.on_ui_tabs(lambda: [(build(), "DDM", "ddm")])
    script_callbacks.on_infotext_pasted(fill_in)
    script_callbacks.on_cfg_denoiser(lambda step: begin_step())
    script_callbacks.on_app_started(lambda demo, app: pages.serve(app))


def add_axis() -> None:
    """Add α to the X/Y/Z plot, once."""
    for data in scripts.scripts_data:
        if Path(data.path).name == "xyz_grid.py" and AXIS not in {one.label for one in data.module.axis_options}:
            option = data.module.AxisOption(AXIS, float, data.module.apply_field(AXIS_ALPHA), confirm=confirm_alphas)
            data.module.axis_options.append(option)


def confirm_alphas(p: Any, values: list[float]) -> None:
    """Refuse an axis whose cells would be labelled with strengths that are not applied, as the host's own axes do.

    Raises:
        RuntimeError: an α is out of range, no adapter is chosen, or a custom schedule says α itself.
    """
    ours = next((one for one in p.scripts.alwayson_scripts if one.title() == TITLE), None)
    try:
        asked = Settings.of(p.script_args[ours.args_from : ours.args_to]) if ours else Settings()
    except DDMError as error:
        raise RuntimeError(f"{AXIS}: {error}") from error
    if not files.chosen(asked.adapter):
        raise RuntimeError(f"{AXIS}: choose an adapter in the accordion DDM first.")
    if asked.shape == "custom":
        raise RuntimeError(f"{AXIS}: the points of a custom schedule say α already. Choose another schedule.")
    try:
        for alpha in values:
            asked.dial(alpha)
    except DDMError as error:
        raise RuntimeError(f"{AXIS}: {error}") from error


def fill_in(infotext: str, params: dict[str, Any]) -> None:
    """An image whose infotext says nothing of a setting was made without it: so is the next one."""
    for name, value in DEFAULTS.items():
        params.setdefault(name, value)
