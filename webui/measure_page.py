"""The page Measure of the tab DDM."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
from modules.ui_components import ToolButton

from ..debias.core.error import DDMError
from ..debias.probes.probe import Probe
from ..debias.rendering.panel_html import problem
from ..hosts import prompt_lists
from ..hosts.measurement import read_alphas
from . import files, host, measuring, training_set
from .generation import SamplerSettings
from .measuring import Asked, Measuring

PAGE = "measure"
# Seconds between two looks at a measurement.
PAUSE = 0.5
# Stands for a probe that the words below describe.
FROM_WORDS = "from words"
# The measurement of this server: there is one at a time.
_job: Measuring | None = None


def build(page: gr.Blocks) -> None:
    """The inputs, and what was measured beside them."""
    with gr.Row():
        with gr.Column():
            with gr.Row():
                probe = gr.Dropdown(_probes(), label="Probe", elem_id="ddm_measure_probe")
                watch = gr.Dropdown(
                    files.probe_names(), value=files.NONE, label="Also watch", elem_id="ddm_measure_watch"
                )
                refresh = ToolButton("\U0001f504", elem_id="ddm_measure_refresh")
            with gr.Group(visible=False, elem_id="ddm_measure_words") as group:
                words = _words()
            prompts = training_set.prompt_inputs(PAGE, prompt_lists.WRITTEN)
            with gr.Row():
                target = training_set.target_input(PAGE)
                count = gr.Number(
                    60,
                    precision=0,
                    label="Images of each prompt",
                    info="A verdict needs 60. Those that are there already are not made again.",
                    elem_id="ddm_measure_count",
                )
            probe.change(_for_probe, inputs=[probe], outputs=[group, target])
            with gr.Accordion("Sampling", open=False, elem_id="ddm_measure_sampling"):
                sampling = _sampling()
            with gr.Accordion("An adapter at several strengths", open=False, elem_id="ddm_measure_sweep"):
                adapter = gr.Dropdown(
                    files.adapter_names(), value=files.NONE, label="Adapter", elem_id="ddm_measure_adapter"
                )
                alphas = gr.Textbox("0, 0.5, 1", label="α", lines=1, elem_id="ddm_measure_alphas")
                keep = gr.Checkbox(
                    True, label="Write what is measured into the adapter's card", elem_id="ddm_measure_keep"
                )
            with gr.Row():
                start = gr.Button("Measure", variant="primary", elem_id="ddm_measure_start")
                stop = gr.Button("Stop, and show what is there", elem_id="ddm_measure_stop")
        said = gr.HTML("", elem_id="ddm_measure")
    inputs = [probe, watch, *prompts, count, target, adapter, alphas, keep, *sampling, *words]
    refresh.click(_refreshed, outputs=[probe, watch, adapter, words[0]])
    start.click(measure, inputs=inputs, outputs=[said])
    stop.click(cancel, outputs=[said])
    page.load(watch_job, outputs=[said])


def _words() -> list[Any]:
    """What a probe is made from without labels: how often it is right is not known, and reports say so."""
    clip = gr.Dropdown(
        files.clip_names(),
        label="CLIP or SigLIP model",
        info="A folder in models/ddm, with images' and texts' encoder",
        elem_id="ddm_measure_clip",
    )
    attribute = gr.Textbox("gender", label="Attribute", lines=1, elem_id="ddm_measure_attribute")
    classes = gr.Textbox(
        "man: a man, a male person\nwoman: a woman, a female person",
        label="Classes, one in a line, with phrases for it",
        lines=2,
        elem_id="ddm_measure_classes",
    )
    unclear = gr.Textbox(
        "an object, an animal, an empty place, a person who cannot be seen well",
        label="Phrases for images that show none of them",
        lines=1,
        elem_id="ddm_measure_unclear",
    )
    return [clip, attribute, classes, unclear]


def _sampling() -> list[Any]:
    with gr.Row():
        steps = gr.Number(20, precision=0, label="Steps", elem_id="ddm_measure_steps")
        cfg = gr.Number(7, label="CFG scale", elem_id="ddm_measure_cfg")
        names = host.sampler_names()
        sampler = gr.Dropdown(names, value=names[0], label="Sampler", elem_id="ddm_measure_sampler")
    with gr.Row():
        width = gr.Number(512, precision=0, label="Width", info="SDXL: 1024", elem_id="ddm_measure_width")
        height = gr.Number(512, precision=0, label="Height", info="SDXL: 1024", elem_id="ddm_measure_height")
        batch = gr.Number(4, precision=0, label="Batch size", elem_id="ddm_measure_batch")
        seed = gr.Number(0, precision=0, label="Seed", elem_id="ddm_measure_seed")
    negative = gr.Textbox("", label="Negative prompt", lines=1, elem_id="ddm_measure_negative")
    return [steps, cfg, sampler, width, height, batch, seed, negative]


def measure(
    probe: str | None,
    watch: str,
    listed: str,
    written: str,
    count: float,
    target: str,
    adapter: str,
    alphas: str,
    keep: bool,
    steps: float,
    cfg: float,
    sampler: str,
    width: float,
    height: float,
    batch: float,
    seed: float,
    negative: str,
    clip: str | None,
    attribute: str,
    classes: str,
    unclear: str,
) -> Iterator[str]:
    """Start a measurement, and show how it goes; closing the page does not stop it."""
    global _job
    try:
        if _job is not None and _job.running:
            raise DDMError("A measurement is running already. Stop it, or wait for its end.")
        if not files.chosen(probe):
            raise DDMError("No probe is chosen. Choose who to look for.")
        numbers = {
            "Images of each prompt": count,
            "Steps": steps,
            "Width": width,
            "Height": height,
            "Batch size": batch,
        }
        for name, value in numbers.items():
            if not value or value < 1:
                raise DDMError(f"{name} is {value or 0:g}. It must be at least 1.")
        swept = files.chosen(adapter)
        asked = Asked(
            prompt_lists.read(listed, written),
            int(count),
            [_opened(probe, clip, attribute, classes, unclear), *map(files.open_probe, filter(files.chosen, [watch]))],
            target.strip(),
            SamplerSettings(int(steps), float(cfg or 0), sampler, int(width), int(height), negative.strip()),
            int(batch),
            max(0, int(seed or 0)),
            adapter if swept else files.NONE,
            read_alphas(alphas) if swept else (0.0,),
            keep,
        )
        _job = Measuring(asked)
    except DDMError as error:
        yield problem(str(error))
        return
    _job.start()
    yield from watch_job()


def watch_job() -> Iterator[str]:
    """How the measurement goes, until it ends; nothing if there was none."""
    job = _job
    if job is None:
        yield ""
        return
    for _ in job.follow(PAUSE):
        yield job.html


def cancel() -> str:
    """Stop the measurement, and show what was made until then."""
    if _job is None or not _job.running:
        return problem("Nothing is being measured.")
    measuring.stop(_job)
    _job.wait()
    return _job.html


def _opened(name: str, clip: str | None, attribute: str, classes: str, unclear: str) -> Probe:
    """The probe that is chosen, or the one that words describe.

    Raises:
        DDMError: it cannot be opened, or made.
    """
    from ..debias.probes.words_probe import parse_classes, parse_phrases, probe_from_words
    from ..training.models.image_text import ImageText

    if name != FROM_WORDS:
        return files.open_probe(name)
    if not attribute.strip() or not parse_phrases(unclear):
        raise DDMError("The attribute, and the phrases for images that show none of the classes, must not be empty.")
    parsed, both = parse_classes(classes), ImageText(files.clip_path(clip), host.device())
    return probe_from_words(parsed, attribute.strip(), both.embed_texts, both, parse_phrases(unclear), scale=both.scale)


def _for_probe(name: str) -> list[dict[str, Any]]:
    """What goes with a probe: the words for one that is made of words, and the targets that its classes can have."""
    names = () if name == FROM_WORDS else files.classes_of(name)
    return [gr.update(visible=name == FROM_WORDS), training_set.offer_targets(names)]


def _probes() -> list[str]:
    return [*files.probe_names()[1:], FROM_WORDS]


def _refreshed() -> list:
    """The lists of files, read again."""
    names = (_probes(), files.probe_names(), files.adapter_names(), files.clip_names())
    return [gr.update(choices=one) for one in names]
