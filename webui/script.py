"""DDM in txt2img and img2img: an adapter with its α, and the fairness report over what was made with it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from modules import extra_networks, scripts
from modules.ui_components import ToolButton

from ..debias.dial import ALPHA, END, POINTS, SHAPE, SWITCH, Dial, parse_alphas
from ..debias.error import DDMError
from ..debias.schedule import HIGHEST, LOWEST, SHAPES
from . import files, host
from .adapting import ADAPTER, HASH, Adapting
from .cards import card_html
from .report import Pictures, Reports, add_picture

TITLE = "DDM"
EACH = "DDM alpha per picture"
# What the controls stand at before anything was chosen, by their names in infotexts.
DEFAULTS = {ADAPTER: files.NONE, ALPHA: 1.0, EACH: "", SHAPE: "constant", END: 0.0, SWITCH: 0.5, POINTS: ""}
# What the X/Y/Z plot sets on a run.
AXIS_ALPHA = "ddm_alpha"
REPORTS = Reports()


@dataclass
class Settings:
    """The values of the controls, in their order; what a call over the API leaves out is as it is at the start."""

    adapter: str = files.NONE
    alpha: float = 1.0
    each: str = ""
    same_seed: bool = True
    shape: str = "constant"
    end: float = 0.0
    switch: float = 0.5
    points: str = ""
    probe: str = files.NONE
    watch: str = files.NONE
    target: str = "uniform"
    collect: bool = True

    def dial(self, alpha: float | None) -> Dial:
        """The strengths that are asked for; `alpha` is the X/Y/Z plot's, which goes before all others.

        Raises:
            DDMError: see `Dial.of`.
        """
        alphas = [alpha] if alpha is not None else parse_alphas(self.each) or parse_alphas(str(self.alpha))
        return Dial.of(alphas, self.shape, float(self.end), float(self.switch), self.points)


@dataclass
class Run:
    """What this script does in a run: the adapter, the pictures for the report, each if there is any."""

    adapting: Adapting | None = None
    report: Pictures | None = None
    warning: str | None = None


class DDMScript(scripts.Script):
    """The accordion DDM."""

    def title(self) -> str:
        """Its name, in lower case, is how the API calls it."""
        return TITLE

    def show(self, is_img2img: bool) -> object:
        """In both pages."""
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list:
        """The controls, in the order of `Settings`."""
        page = "img2img" if is_img2img else "txt2img"
        with gr.Accordion("DDM: fair adapters", open=False, elem_id=self.elem_id("accordion")):
            with gr.Row():
                adapter = gr.Dropdown(
                    files.adapter_names(), value=files.NONE, label="Adapter", elem_id=self.elem_id("adapter")
                )
                refresh = ToolButton("\U0001f504", elem_id=self.elem_id("refresh"))
                alpha = gr.Slider(LOWEST, HIGHEST, 1.0, step=0.05, label="α", elem_id=self.elem_id("alpha"))
            card = gr.HTML("", elem_id=self.elem_id("card"))
            with gr.Row():
                each = gr.Textbox("", label="α per picture (such as 0, .5, 1)", lines=1, elem_id=self.elem_id("each"))
                same = gr.Checkbox(True, label="Same seed along these", elem_id=self.elem_id("same_seed"))
            with gr.Accordion("While a picture is made", open=False, elem_id=self.elem_id("schedule")):
                shape = gr.Radio(list(SHAPES), value="constant", label="α over time", elem_id=self.elem_id("shape"))
                with gr.Row():
                    end = gr.Slider(LOWEST, HIGHEST, 0.0, step=0.05, label="α end", elem_id=self.elem_id("end"))
                    switch = gr.Slider(0, 1, 0.5, step=0.05, label="Switch (early)", elem_id=self.elem_id("switch"))
                points = gr.Textbox(
                    "", label="Points (custom), such as 0:1, .4:.5, 1:0", lines=1, elem_id=self.elem_id("points")
                )
            with gr.Accordion("Fairness report", open=False, elem_id=self.elem_id("report")):
                with gr.Row():
                    probe = gr.Dropdown(
                        files.probe_names(), value=files.NONE, label="Probe", elem_id=self.elem_id("probe")
                    )
                    watch = gr.Dropdown(
                        files.probe_names(), value=files.NONE, label="Also watch", elem_id=self.elem_id("watch")
                    )
                with gr.Row():
                    target = gr.Textbox("uniform", label="Target", lines=1, elem_id=self.elem_id("target"))
                    collect = gr.Checkbox(True, label="Add to earlier runs", elem_id=self.elem_id("collect"))
        refresh.click(_refreshed, outputs=[adapter, probe, watch])
        adapter.change(card_html, inputs=[adapter], outputs=[card])
        named = [(adapter, ADAPTER), (alpha, ALPHA), (each, EACH)]
        named += [(shape, SHAPE), (end, END), (switch, SWITCH), (points, POINTS)]
        self.infotext_fields, self.paste_field_names = named, [name for _, name in named]
        self.on_after_component(_beside_the_gallery(page), elem_id=f"generation_info_{page}")
        return [adapter, alpha, each, same, shape, end, switch, points, probe, watch, target, collect]

    def process(self, p: Any, *values: Any) -> None:
        """Read what is asked for, and check it before any picture is made: errors in what follows are swallowed."""
        _forget(p)
        run = p.ddm = Run()
        settings = Settings(*values)
        try:
            run.adapting, run.warning = _prepare(p, settings)
        except DDMError as error:
            p.comment(f"DDM: no adapter was used. {error}")
        try:
            run.report = _wanted_report(p, settings)
        except DDMError as error:
            p.comment(f"DDM: no report. {error}")
            REPORTS.fail(self.tabname, error)

    def process_batch(self, p: Any, *values: Any, **batch: Any) -> None:
        """Put the adapter on, where the host asks no later."""
        if not host.BEFORE_SAMPLING:
            _put_on(p)

    def process_before_every_sampling(self, p: Any, *values: Any, **sampling: Any) -> None:
        """Put the adapter on; with hires-fix several times for a batch."""
        _put_on(p)

    def postprocess_image(self, p: Any, shown: Any, *values: Any) -> None:
        """See the picture, where the host shows it no later."""
        if host.LAST_LOOK == "postprocess_image":
            _see(p, shown.image)

    def postprocess_image_after_composite(self, p: Any, shown: Any, *values: Any) -> None:
        """See the picture as it is saved."""
        _see(p, shown.image)

    def postprocess(self, p: Any, processed: Any, *values: Any) -> None:
        """Take the adapter off, and write the report."""
        run = getattr(p, "ddm", Run())
        if run.adapting:
            run.adapting.take_off()
        if run.report:
            try:
                REPORTS.add(self.tabname, run.report)
            except DDMError as error:
                REPORTS.fail(self.tabname, error)
                processed.comments += f"DDM: no report. {error}\n"


def _prepare(p: Any, settings: Settings) -> tuple[Adapting | None, str | None]:
    """The adapter of a run and a warning, if there are any; the seeds go along the dial.

    Raises:
        DDMError: what is asked for cannot be done.
    """
    if not files.chosen(settings.adapter):
        return None, None
    dial = settings.dial(getattr(p, AXIS_ALPHA, None))
    if len(dial.schedules) > 1 and not host.is_forge(p.sd_model) and any(" AND " in one for one in p.all_prompts):
        raise DDMError("With AND in a prompt, the pictures of a batch cannot have an α of their own. Use one for all.")
    adapting = Adapting.load(settings.adapter, files.adapter_path(settings.adapter), dial)
    warning = adapting.check(p.sd_model)
    if warning:
        p.comment(f"DDM: {warning}")
    if settings.same_seed:
        along = len(dial.schedules)
        p.all_seeds = [p.all_seeds[i // along] for i in range(len(p.all_seeds))]
        p.all_subseeds = [p.all_subseeds[i // along] for i in range(len(p.all_subseeds))]
    return adapting, warning


def _wanted_report(p: Any, settings: Settings) -> Pictures | None:
    """The report that is asked for, if any.

    Raises:
        DDMError: a probe that cannot be opened, or a target that it cannot have.
    """
    from ..debias.target import Target

    if not files.chosen(settings.probe):
        return None
    names = [name for name in (settings.probe, settings.watch) if files.chosen(name)]
    probes = [files.open_probe(name) for name in names]
    Target.parse(settings.target.strip() or "uniform", probes[0].names)
    folder = Path(p.outpath_samples or host.outputs_folder())
    return Pictures(names, settings.target, settings.collect, host.job(), folder)


def _put_on(p: Any) -> None:
    """Put the adapter on the model for the batch at hand; infotexts speak of it only if that was done."""
    run = getattr(p, "ddm", Run())
    if run.adapting is None:
        return
    first = p.iteration * p.batch_size
    try:
        run.adapting.put_on(p.sd_model, range(first, first + len(p.seeds)))
    except DDMError as error:
        _forget(p)
        p.comment(f"DDM: no adapter was used. {error}")
        run.adapting = None
        return
    p.extra_generation_params.update(_infotext(p, run.adapting))


def _infotext(p: Any, adapting: Adapting) -> dict[str, Any]:
    """What the infotexts say; hosts before 1.10 say the same of all pictures of a run."""
    said = adapting.infotext(len(p.all_seeds))
    if isinstance(said[ALPHA], list) and not host.BEFORE_SAMPLING:
        return said | {EACH: ", ".join(one[ALPHA] for one in adapting.dial.settings), ALPHA: None}
    return {name: _by_picture(value) if isinstance(value, list) else value for name, value in said.items()}


def _by_picture(values: list) -> Callable[..., str | None]:
    """A value for each picture of the run; the host counts pictures within a batch here, and within the run there."""

    def value(p: Any, all_prompts: list, index: int, **_: Any) -> str | None:
        first = 0 if len(all_prompts) == len(p.all_prompts) else p.iteration * p.batch_size
        return values[first + index]

    return value


def _forget(p: Any) -> None:
    """Take off what a run that ended early left on the model, and out of the infotexts what an earlier one said."""
    run = getattr(p, "ddm", None)
    if run and run.adapting:
        run.adapting.take_off()
    for name in (*DEFAULTS, HASH):
        p.extra_generation_params.pop(name, None)


def _see(p: Any, picture: Any) -> None:
    """Keep a picture for the report."""
    run = getattr(p, "ddm", Run())
    if run.report is None:
        return
    place = p.batch_index
    prompt, _ = extra_networks.parse_prompt(p.prompts[place])
    number = p.iteration * p.batch_size + place
    dial = run.adapting.dial if run.adapting else None
    alpha, name = (dial.alpha(number), dial.label(number)) if dial else (0.0, "")
    add_picture(run.report, picture, " ".join(prompt.split()), int(p.seeds[place]), alpha, name)


def _refreshed() -> list:
    """The lists of files, read again."""
    adapters, probes = files.adapter_names(), files.probe_names()
    return [gr.update(choices=adapters), gr.update(choices=probes), gr.update(choices=probes)]


def _beside_the_gallery(page: str) -> Any:
    """Adds the report below a page's gallery, where it is drawn anew after every run."""

    def add(made: Any) -> None:
        report = gr.HTML(REPORTS.shown.get(page, ""), elem_id=f"ddm_report_{page}")
        with suppress(AttributeError):
            made.component.change(lambda: REPORTS.shown.get(page, ""), inputs=[], outputs=[report], show_progress=False)

    return add
