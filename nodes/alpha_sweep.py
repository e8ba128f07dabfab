"""DDM Alpha Sweep: the same seeds at several strengths of an adapter, measured, with the strength to recommend."""

import re
from typing import TYPE_CHECKING, Any

import comfy.samplers
import comfy.sd
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..debias.core.error import DDMError
from . import adapter_file, files
from .target import check_target
from .types import CATEGORY, Probe, Report, known

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..debias.evaluation.accumulator import Accumulator
    from ..debias.evaluation.compare import Evaluation

ROWS, COLUMNS = 3, 8
WEAKEST, STRONGEST, MOST = -2.0, 3.0, 12


class AlphaSweep(io.ComfyNode):
    """Generates at every α with the same seeds, looks at the images, and recommends an α."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMAlphaSweep",
            display_name="DDM Alpha Sweep",
            category=CATEGORY,
            description="Makes images of the same seeds at several strengths α of a fair adapter, measures who is in "
            "them, and recommends the smallest α at which every prompt is as near to the target as can be told.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model as it is, without the adapter."),
                io.Vae.Input("vae", tooltip="Turns latents into images."),
                io.Combo.Input(
                    "adapter", options=files.names(files.ADAPTERS), tooltip="The fair adapter: a LoRA in models/loras."
                ),
                Probe.Input("probe", tooltip="Who to look for."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="What to make, one prompt in a line (or with ';' between them); needs clip. If positive is "
                    "connected instead, this is only what it is called in the report.",
                ),
                io.String.Input("alphas", default="0, 0.5, 1", tooltip="The strengths to try. 0 has to be among them."),
                io.Int.Input(
                    "count",
                    default=8,
                    min=1,
                    max=4096,
                    tooltip="Images for each prompt and α. A verdict needs 60 of each prompt.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The host's own samplers."
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="The host's own schedulers."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=False,
                    tooltip="The first seed. Every prompt has seeds of its own, the same at every α.",
                ),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="In pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="In pixels."),
                io.String.Input(
                    "target", default="uniform", tooltip="The shares asked for: 'uniform', or 'man=.5,woman=.5'."
                ),
                io.Clip.Input("clip", optional=True, tooltip="Reads the prompts; needed without positive."),
                io.Conditioning.Input("positive", optional=True, tooltip="One prompt, in place of clip and prompts."),
                io.Conditioning.Input("negative", optional=True, tooltip="Without it, the empty prompt."),
                Probe.Input(
                    "watch",
                    optional=True,
                    tooltip="A second probe, for what should stay as it was; one for roles tells how often the subject "
                    "is recognised.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="The same seeds, one block for each α."),
                io.Image.Output(
                    display_name="chart", tooltip="Shares and distance over α, and fairness against quality."
                ),
                Report.Output(display_name="report"),
                io.Float.Output(display_name="recommended_alpha"),
                io.String.Output(display_name="text"),
            ],
            **known(search_aliases=["xy plot", "strength", "recommend", "pareto", "lora sweep"]),
        )

    @classmethod
    def validate_inputs(cls, adapter: str, alphas: str, target: str) -> bool | str:
        """A sentence if the adapter is not there, or strengths or target cannot be read."""
        if adapter is not None and (wrong := adapter_file.check_name(adapter)):
            return wrong
        try:
            if alphas is not None:
                read_alphas(alphas)
        except DDMError as error:
            return str(error)
        return check_target(target)

    @classmethod
    def fingerprint_inputs(cls, adapter: str, **rest: object) -> str:
        """Measure again when the adapter's file changes."""
        try:
            return files.stamp(files.resolve(files.ADAPTERS, adapter))
        except (DDMError, OSError):
            return str(adapter)

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        adapter: str,
        probe: Any,
        prompts: str,
        alphas: str,
        count: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        width: int,
        height: int,
        target: str,
        clip: Any = None,
        positive: list | None = None,
        negative: list | None = None,
        watch: Any = None,
    ) -> io.NodeOutput:
        """Sample, look, measure, recommend."""
        from ..debias.core.image import fit
        from ..debias.evaluation.accumulator import Accumulator
        from ..debias.evaluation.compare import Evaluation
        from ..debias.groups.target import Target
        from ..debias.rendering.image_grid import TILE
        from .generation import Generator, SamplerSettings
        from .progress import Progress

        strengths = read_alphas(alphas)
        probes = [probe, *([] if watch is None else [watch])]
        goal = Target.parse(target.strip() or "uniform", probe.names)
        seen = Accumulator(probes, [goal, *(None for _ in probes[1:])])
        names = _prompts(prompts, positive, clip)
        lora = adapter_file.AdapterFile.load(adapter)
        warning = lora.check(model)
        generator = Generator(vae, SamplerSettings(steps, cfg, sampler_name, scheduler, width, height))
        seeds = {name: range(seed + i * count, seed + (i + 1) * count) for i, name in enumerate(names)}
        batches = {name: generator.batches(model, own) for name, own in seeds.items()}
        total = steps * len(strengths) * sum(len(own) for own in batches.values())
        done, progress = 0, Progress(total)

        def step(preview: object) -> None:
            nonlocal done
            done += 1
            # Multistep samplers may take a step or two more than asked for.
            progress(min(done, total), total, preview)

        shown: dict[float, dict[str, list[Image]]] = {}
        encoded: dict[bool, dict[str, tuple[list, list]]] = {}
        for alpha in strengths:
            # The host's own loader, so that what is measured is what a graph will do; 0 is the model itself.
            patched = comfy.sd.load_lora_for_models(model, clip, lora.tensors, alpha, alpha) if alpha else (model, clip)
            moved = bool(alpha) and _changes_text(lora.tensors)
            if moved or not encoded.get(False):
                encoded[moved] = _conditioning(names, patched[1], positive, negative)
            shown[alpha] = {}
            for name in names:
                kept = shown[alpha].setdefault(name, [])
                made = generator.generate(patched[0], *encoded[moved][name], batches[name], step)
                for own, pixels in zip(batches[name], made, strict=True):
                    images = _look(seen, probes, pixels, name, alpha, own)
                    kept += [fit(one, TILE) for one in images[: max(0, ROWS * COLUMNS - len(kept))]]
                    progress(min(done, total), total, images[-1])
        study = Evaluation.of(seen.records(), f"Sweep of {adapter}")
        return _output(study, shown, cfg, warning)


def read_alphas(text: str) -> list[float]:
    """The strengths in "0, .5, 1", in order.

    Raises:
        DDMError: something else, 0 not among them, or strengths out of range.
    """
    from ..training.commands.numbers import read_numbers

    alphas = sorted(read_numbers(text, "alphas"))
    if 0.0 not in alphas:
        raise DDMError(f"alphas is {text!r}, but a sweep compares with α = 0. Put 0 among the strengths.")
    if alphas[0] < WEAKEST or alphas[-1] > STRONGEST or len(alphas) > MOST:
        raise DDMError(
            f"alphas is {text!r}. Give at most {MOST} strengths between {WEAKEST:g} and {STRONGEST:g}: 0, .5, 1."
        )
    return alphas


def _prompts(text: str, positive: list | None, clip: Any) -> list[str]:
    if positive is not None:
        return [" ".join(text.split())]
    names = list(dict.fromkeys(" ".join(line.split()) for line in re.split(r"[;\n]", text) if line.strip()))
    if clip is None:
        raise DDMError("There is nothing to make: connect clip and write prompts, or connect positive.")
    if not names:
        raise DDMError("There is no prompt. Write what to make into prompts, one in a line, or connect positive.")
    return names


def _changes_text(tensors: dict) -> bool:
    return any(key.startswith("lora_te") for key in tensors)


def _conditioning(
    names: list[str], clip: Any, positive: list | None, negative: list | None
) -> dict[str, tuple[list, list]]:
    """Positive and negative conditioning of every prompt; without any for the negative, that of the empty prompt."""

    def encode(text: str) -> list:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    if negative is None:
        if clip is None:
            raise DDMError("There is no negative conditioning. Connect negative, or clip for an empty one.")
        negative = encode("")
    return {name: (positive if positive is not None else encode(name), negative) for name in names}


def _look(seen: "Accumulator", probes: list, pixels: Any, prompt: str, alpha: float, seeds: Any) -> "list[Image]":
    from ..debias.core.image import from_pixels
    from ..debias.evaluation.accumulator import ImageMeta

    images = [from_pixels(one) for one in pixels.cpu().numpy()]
    seen.add(probes, images, [ImageMeta(prompt, alpha, seed) for seed in seeds])
    return images


def _output(study: "Evaluation", shown: dict, cfg: float, warning: str | None) -> io.NodeOutput:
    from ..debias.rendering.panel import report_panel, sweep_points
    from ..debias.rendering.report_html import sweep_overview
    from .report_files import chart_image, new_place, to_image, words

    report = study.report
    best = report.recommendation(cfg)
    panel = report_panel(report, "sweep", new_place("sweep").save(report))
    text = "\n".join(filter(None, (best.reason, words(report), warning)))
    panel |= {"points": sweep_points(report), "recommended_alpha": best.alpha}
    panel["remarks"] += [warning] if warning else []
    chart = chart_image(sweep_overview(report, best.alpha))
    # Whatever takes its strength from here stops with the reason where there is none.
    alpha = ExecutionBlocker(best.reason) if best.alpha is None else best.alpha
    return io.NodeOutput(to_image(_grid(study, shown)), chart, study, alpha, text, ui={"ddm_panel": [panel]})


def _grid(study: "Evaluation", shown: "dict[float, dict[str, list[Image]]]") -> "Image":
    """One block for each α: the prompts side by side, each with as many seeds as there is room for."""
    from ..debias.evaluation.report_text import percent
    from ..debias.rendering.image_grid import Block, draw_comparison

    first = study.report.attributes[0]
    prompts = list(shown[0.0])[:COLUMNS]
    room = min(COLUMNS // len(prompts), len(shown[0.0][prompts[0]]))
    blocks = []
    for overall in first.overall:
        setting = study.report.conditions[overall.condition]
        made = [shown[setting.alpha][prompt] for prompt in prompts]
        rows = [
            [image for own in made for image in own[start : start + room]]
            for start in range(0, min(ROWS, len(made[0]) // room) * room, room)
        ]
        shares = ", ".join(
            f"{name} {percent(share.value)}" for name, share in zip(first.classes, overall.shares, strict=True)
        )
        blocks.append(Block(setting.label, shares, rows))
    return draw_comparison([prompt for prompt in prompts for _ in range(room)], blocks)
