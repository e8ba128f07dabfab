"""DDM in txt2img and img2img: an adapter with its α, guidance, and the fairness report over what was made."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from modules import scripts
from modules.ui_components import ToolButton

from ..debias.adapter.alpha_schedule import HIGHEST, LOWEST, SHAPES
from ..debias.core.error import DDMError
from ..debias.methods.distribution_guidance import MODES, SCALE
from ..hosts.infotext import ALPHA, END, POINTS, SETTINGS, SHAPE, SWITCH, Dial
from . import files, guiding, host
from .adapting import ADAPTER, HASH, Adapting
from .cards import card_html, heads_html, recommended_alpha
from .guiding import Guiding
from .report import Images, Reports, add_image
from .settings import Settings

TITLE = "DDM"
HEADING = "DDM: fair adapters"
EACH = "DDM alpha per image"
# What the controls stand at before anything was chosen, by their names in infotexts.
DEFAULTS = {ADAPTER: files.NONE, ALPHA: 1.0, EACH: "", SHAPE: "constant", END: 0.0, SWITCH: 0.5, POINTS: ""}
DEFAULTS |= {guiding.HEADS: "", guiding.SCALE: SCALE, guiding.MODE: MODES[0]}
DEFAULTS |= {guiding.TARGET: "uniform", guiding.WORDS: ""}
ADAPTER_NAMES = (ADAPTER, HASH, EACH, *SETTINGS)
UNGUIDED = "DDM: these images were not guided."
# What the X/Y/Z plot sets on a run.
AXIS_ALPHA = "ddm_alpha"
REPORTS = Reports()


@dataclass
class Run:
    """What this script does in a run: adapter, guidance, and the images for the report, each if there is any."""

    adapting: Adapting | None = None
    guiding: Guiding | None = None
    report: Images | None = None

    def take_off(self) -> None:
        """Take everything off the host's model; once more does no harm."""
        for one in filter(None, (self.adapting, self.guiding)):
            one.take_off()


# What is on the host's model, which makes the images of one run at a time.
ON_MODEL: list[Run] = []


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
        with gr.Accordion(HEADING, open=False, elem_id=self.elem_id("accordion")) as accordion:
            with gr.Row():
                adapter = gr.Dropdown(
                    files.adapter_names(), value=files.NONE, label="Adapter", elem_id=self.elem_id("adapter")
                )
                refresh = ToolButton("\U0001f504", elem_id=self.elem_id("refresh"))
                alpha = gr.Slider(LOWEST, HIGHEST, 1.0, step=0.05, label="α", elem_id=self.elem_id("alpha"))
            card = gr.HTML("", elem_id=self.elem_id("card"))
            best = gr.Button("", size="sm", visible=False, elem_id=self.elem_id("best"))
            with gr.Row():
                each = gr.Textbox("", label="α per image (such as 0, .5, 1)", lines=1, elem_id=self.elem_id("each"))
                same = gr.Checkbox(True, label="Same seed along these", elem_id=self.elem_id("same_seed"))
            with gr.Accordion("While an image is made", open=False, elem_id=self.elem_id("schedule")) as over_time:
                shape = gr.Radio(list(SHAPES), value="constant", label="α over time", elem_id=self.elem_id("shape"))
                with gr.Row():
                    end = gr.Slider(
                        LOWEST, HIGHEST, 0.0, step=0.05, label="α end", visible=False, elem_id=self.elem_id("end")
                    )
                    switch = gr.Slider(
                        *(0, 1, 0.5), step=0.05, label="Switch", visible=False, elem_id=self.elem_id("switch")
                    )
                points = gr.Textbox(
                    "",
                    label="Points, such as 0:1, .4:.5, 1:0",
                    lines=1,
                    visible=False,
                    elem_id=self.elem_id("points"),
                )
            with gr.Accordion("Distribution guidance", open=False, elem_id=self.elem_id("guidance")) as guided:
                heads = gr.Dropdown(
                    files.head_names(),
                    value=[],
                    multiselect=True,
                    label="Heads in models/ddm, one for each attribute",
                    elem_id=self.elem_id("heads"),
                )
                about = gr.HTML("", elem_id=self.elem_id("about_heads"))
                with gr.Row():
                    scale = gr.Slider(
                        *(0, 30, SCALE),
                        step=0.5,
                        label="Scale",
                        info="8 is usual. Too much hurts the image.",
                        elem_id=self.elem_id("scale"),
                    )
                    mode = gr.Radio(
                        list(MODES),
                        value=MODES[0],
                        label="Mode",
                        info="queue: each gets what is missing. batch: all together, eight or more.",
                        elem_id=self.elem_id("mode"),
                    )
                with gr.Row():
                    targets = gr.Textbox("uniform", label="Target", lines=1, elem_id=self.elem_id("targets"))
                    counts = gr.Checkbox(True, label="Count over runs", elem_id=self.elem_id("keep_counts"))
                    reset = gr.Button("Reset counts", size="sm", elem_id=self.elem_id("reset_counts"))
                words = gr.Textbox(
                    "",
                    label="Words that leave a prompt alone, such as man, woman, boy",
                    placeholder="the heads' own classes",
                    lines=1,
                    elem_id=self.elem_id("words"),
                )
            with gr.Accordion("Fairness report", open=False, elem_id=self.elem_id("report")) as measured:
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
                    clear = gr.Button("Clear the report", size="sm", elem_id=self.elem_id("clear_report"))
        refresh.click(_refreshed, outputs=[adapter, probe, watch, heads])
        adapter.change(_card, inputs=[adapter], outputs=[card, best])
        heads.change(heads_html, inputs=[heads], outputs=[about])
        best.click(recommended_alpha, inputs=[adapter], outputs=[alpha])
        shape.change(_own_inputs, inputs=[shape], outputs=[end, switch, points])
        reset.click(_reset_counts, inputs=[heads, targets], outputs=[reset])
        clear.click(lambda: _clear_report(page), outputs=[clear])
        # What is on is open and named, also after a paste or with the defaults of the user.
        for one in (adapter, shape, heads, probe):
            one.change(_marked, inputs=[adapter, shape, heads, probe], outputs=[accordion, over_time, guided, measured])
        named = [(adapter, ADAPTER), (alpha, ALPHA), (each, EACH)]
        named += [(shape, SHAPE), (end, END), (switch, SWITCH), (points, POINTS)]
        named += [(scale, guiding.SCALE), (mode, guiding.MODE), (targets, guiding.TARGET), (words, guiding.WORDS)]
        self.infotext_fields = [*named, (heads, lambda said: _listed(said.get(guiding.HEADS)))]
        self.paste_field_names = [*(name for _, name in named), guiding.HEADS]
        self.on_after_component(_beside_the_gallery(page), elem_id=f"generation_info_{page}")
        ours = [adapter, alpha, each, same, shape, end, switch, points, probe, watch, target, collect]
        return [*ours, heads, scale, mode, targets, counts, words]

    def before_process(self, p: Any, *values: Any) -> None:
        """Wait where a training has the device's memory, and say so."""
        host.wait_for_model()

    def process(self, p: Any, *values: Any) -> None:
        """Read what is asked for, and check it before any image is made: errors in what follows are swallowed."""
        _clear_model()
        _unsay(p, *ADAPTER_NAMES, *guiding.NAMES)
        run = p.ddm = Run()
        try:
            settings = Settings.of(values)
        except DDMError as error:
            p.comment(f"DDM: nothing was done. {error}")
            return
        try:
            run.adapting = _wanted_adapter(p, settings)
        except DDMError as error:
            p.comment(f"DDM: no adapter was used. {error}")
        try:
            run.guiding = _wanted_guidance(p, settings)
        except DDMError as error:
            p.comment(f"{UNGUIDED} {error}")
        try:
            run.report = _wanted_report(p, settings)
        except DDMError as error:
            p.comment(f"DDM: no report. {error}")
            REPORTS.fail(self.tabname, error)

    def process_batch(self, p: Any, *values: Any, **batch: Any) -> None:
        """Put adapter and guidance on, where the host asks no later."""
        if not host.BEFORE_SAMPLING:
            _put_on(p)

    def process_before_every_sampling(self, p: Any, *values: Any, **sampling: Any) -> None:
        """Put adapter and guidance on; with hires-fix several times for a batch."""
        _put_on(p)

    def postprocess_batch(self, p: Any, *values: Any, **batch: Any) -> None:
        """Count the images that were guided."""
        run = getattr(p, "ddm", Run())
        if run.guiding:
            run.guiding.count()

    def postprocess_image(self, p: Any, shown: Any, *values: Any) -> None:
        """See the image, where the host shows it no later."""
        if host.LAST_LOOK == "postprocess_image":
            _see(p, shown.image)

    def postprocess_image_after_composite(self, p: Any, shown: Any, *values: Any) -> None:
        """See the image as it is saved."""
        _see(p, shown.image)

    def postprocess(self, p: Any, processed: Any, *values: Any) -> None:
        """Take everything off the model, and write the report."""
        run = getattr(p, "ddm", Run())
        _clear_model()
        if run.report:
            try:
                REPORTS.add(self.tabname, run.report)
            except DDMError as error:
                REPORTS.fail(self.tabname, error)
                processed.comments += f"DDM: no report. {error}\n"


def _card(name: str) -> tuple[str, dict[str, Any]]:
    """The card of an adapter, and the button that takes the α that it recommends."""
    best = recommended_alpha(name)
    label = "" if best is None else f"Take the recommended α = {best:g}"
    return card_html(name), gr.update(value=label, visible=best is not None)


def _own_inputs(shape: str) -> list[dict[str, Any]]:
    """A schedule shows what it is made of, and nothing else."""
    own = {"ramp": (END,), "early": (END, SWITCH), "custom": (POINTS,)}.get(shape, ())
    return [gr.update(visible=name in own) for name in (END, SWITCH, POINTS)]


def _marked(adapter: str, shape: str, heads: Sequence[str], probe: str) -> list[dict[str, Any]]:
    """The accordions: what is on is open, and the first one's heading names it."""
    on = [adapter if files.chosen(adapter) else "", "guidance" if heads else ""]
    on = list(filter(None, [*on, "report" if files.chosen(probe) else ""]))
    parts = (shape != SHAPES[0] and files.chosen(adapter), bool(heads), files.chosen(probe))
    return [
        gr.update(label=f"{HEADING} (on: {', '.join(on)})" if on else HEADING, **({"open": True} if on else {})),
        *(gr.update(**({"open": True} if part else {})) for part in parts),
    ]


def _reset_counts(heads: Sequence[str], targets: str) -> dict[str, Any]:
    """Forget what the chosen heads have counted towards their targets."""
    try:
        Guiding.load(_listed(heads), SCALE, MODES[0], targets, keep_counts=False)
    except DDMError as error:
        return gr.update(value=str(error))
    return gr.update(value="The counts are reset" if heads else "Choose heads to reset")


def _clear_report(page: str) -> dict[str, Any]:
    """Begin a page's report anew."""
    REPORTS.clear(page)
    return gr.update(value="The report is cleared: the next run begins a new one")


def begin_step() -> None:
    """The host asks its model for the next step."""
    for run in ON_MODEL:
        if run.guiding:
            run.guiding.begin_step()


def _wanted_adapter(p: Any, settings: Settings) -> Adapting | None:
    """The adapter of a run, if there is any; the seeds go along the dial.

    Raises:
        DDMError: what is asked for cannot be done.
    """
    if not files.chosen(settings.adapter):
        return None
    dial = settings.dial(getattr(p, AXIS_ALPHA, None))
    if len(dial.schedules) > 1 and not host.is_forge(p.sd_model) and any(" AND " in one for one in p.all_prompts):
        raise DDMError("With AND in a prompt, the images of a batch cannot have an α of their own. Use one for all.")
    adapting = Adapting.load(settings.adapter, files.adapter_path(settings.adapter), dial)
    warning = adapting.check(p.sd_model)
    if warning:
        p.comment(f"DDM: {warning}")
    along = len(dial.schedules)
    if along > len(p.all_prompts):
        p.comment(f"DDM: {_too_few(dial, len(p.all_prompts))}")
    if settings.same_seed:
        p.all_seeds = [p.all_seeds[i // along] for i in range(len(p.all_seeds))]
        p.all_subseeds = [p.all_subseeds[i // along] for i in range(len(p.all_subseeds))]
    return adapting


def _too_few(dial: Dial, images: int) -> str:
    """What to say where there are fewer images than strengths."""
    along = len(dial.schedules)
    made = ", ".join(f"{dial.alpha(i):g}" for i in range(images))
    count = "1 image" if images == 1 else f"{images} images"
    return f"{along} strengths, {count}: only α = {made} was made. Ask for {along} images (batch count, batch size)."


def _wanted_guidance(p: Any, settings: Settings) -> Guiding | None:
    """The guidance of a run, if there is any.

    Raises:
        DDMError: what is asked for cannot be done.
    """
    names = _listed(settings.heads)
    if not names:
        return None
    found = Guiding.load(names, settings.scale, settings.mode, settings.targets, settings.keep_counts, settings.words)
    warning = found.check(p.sd_model, p.all_prompts)
    if warning:
        p.comment(f"DDM: {warning}")
    said = (found.infotext(host.plain_prompt(one)).get(guiding.LEFT_ALONE) for one in p.all_prompts)
    if left := ", ".join(dict.fromkeys(filter(None, said))):
        p.comment(f"DDM: guidance leaves alone what the prompt says itself ({left}).")
    return found


def _listed(heads: Sequence[str] | str | None) -> list[str]:
    """Names of heads, as a list or as an infotext has them."""
    parts = heads.split(",") if isinstance(heads, str) else heads or []
    return [part.strip() for part in parts if files.chosen(part.strip())]


def _wanted_report(p: Any, settings: Settings) -> Images | None:
    """The report that is asked for, if any.

    Raises:
        DDMError: a probe that cannot be opened, or a target that it cannot have.
    """
    from ..debias.groups.target import Target

    if not files.chosen(settings.probe):
        return None
    names = [name for name in (settings.probe, settings.watch) if files.chosen(name)]
    probes = [files.open_probe(name) for name in names]
    Target.parse(settings.target.strip() or "uniform", probes[0].names)
    folder = Path(p.outpath_samples or host.outputs_folder())
    return Images(names, settings.target, settings.collect, host.job(), folder)


def _put_on(p: Any) -> None:
    """Put on the model what the run at hand has; infotexts speak only of what that was done with."""
    run = getattr(p, "ddm", Run())
    _clear_model()
    ON_MODEL.append(run)
    if run.adapting:
        first = p.iteration * p.batch_size
        try:
            run.adapting.put_on(p.sd_model, range(first, first + len(p.seeds)))
            p.extra_generation_params.update(_infotext(p, run.adapting))
        except DDMError as error:
            _unsay(p, *ADAPTER_NAMES)
            p.comment(f"DDM: no adapter was used. {error}")
            run.adapting = None
    if run.guiding:

        def failed(error: DDMError) -> None:
            _unsay(p, *guiding.NAMES)
            p.comment(f"{UNGUIDED} {error}")
            run.guiding = None

        run.guiding.put_on(p.sd_model, p.prompts, failed)
        said = [run.guiding.infotext(host.plain_prompt(one)) for one in p.all_prompts]
        values = {name: [one.get(name) for one in said] for name in guiding.NAMES}
        p.extra_generation_params.update(
            {name: _by_image(own) if host.BEFORE_SAMPLING else _of_all(own) for name, own in values.items()}
        )


def _infotext(p: Any, adapting: Adapting) -> dict[str, Any]:
    """What the infotexts say; hosts before 1.10 say the same of all images of a run."""
    said = adapting.infotext(len(p.all_seeds))
    if isinstance(said[ALPHA], list) and not host.BEFORE_SAMPLING:
        return said | {EACH: ", ".join(one[ALPHA] for one in adapting.dial.settings), ALPHA: None}
    return {name: _by_image(value) if isinstance(value, list) else value for name, value in said.items()}


def _by_image(values: list) -> Callable[..., str | None]:
    """A value for each image of the run; the host counts images within a batch here, and within the run there."""

    def value(p: Any, all_prompts: list, index: int, **_: Any) -> str | None:
        first = 0 if len(all_prompts) == len(p.all_prompts) else p.iteration * p.batch_size
        return values[first + index]

    return value


def _of_all(values: list) -> str | None:
    """Where the host says the same of all images of a run: what there is to say of the image with the most."""
    return max(filter(None, values), key=len, default=None)


def _clear_model() -> None:
    """Take off the model what is on it, also what a run that ended early has left there."""
    while ON_MODEL:
        ON_MODEL.pop().take_off()


def _unsay(p: Any, *names: str) -> None:
    """Take out of the infotexts what was said before."""
    for name in names:
        p.extra_generation_params.pop(name, None)


def _see(p: Any, image: Any) -> None:
    """Keep an image for the report."""
    run = getattr(p, "ddm", Run())
    if run.report is None:
        return
    from ..debias.evaluation.accumulator import ImageMeta

    place = p.batch_index
    prompt, number = host.plain_prompt(p.prompts[place]), p.iteration * p.batch_size + place
    alpha, adapter, said = 0.0, "", {}
    if run.adapting:
        alpha, said["schedule"] = run.adapting.dial.alpha(number), run.adapting.dial.label(number)
        alpha = None if said["schedule"] else alpha
        adapter = "" if alpha == 0 else f"{run.adapting.name} ({run.adapting.hash[:8]})"
    if run.guiding:
        said["guidance"] = run.guiding.label(prompt)
    made = {name: value for name, value in said.items() if value} | host.settings(p, place)
    seed = int(p.seeds[place])
    add_image(
        run.report,
        image,
        ImageMeta(prompt, alpha, seed if seed >= 0 else None, adapter=adapter, made=tuple(made.items())),
    )


def _refreshed() -> list:
    """The lists of files, read again."""
    adapters, probes, heads = files.adapter_names(), files.probe_names(), files.head_names()
    return [gr.update(choices=names) for names in (adapters, probes, probes, heads)]


def _beside_the_gallery(page: str) -> Any:
    """Adds the report below a page's gallery, where it is drawn anew after every run."""

    def add(made: Any) -> None:
        report = gr.HTML(REPORTS.shown.get(page, ""), elem_id=f"ddm_report_{page}")
        with suppress(AttributeError):
            made.component.change(lambda: REPORTS.shown.get(page, ""), inputs=[], outputs=[report], show_progress=False)

    return add
