"""DDM Fairness Report: who is in the images of a graph, gathered over queued runs, and how sure one can be."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.session_store import SessionStore
from .target import check_target
from .types import CATEGORY, Probe, Report, known
from .upstream import Origin, Upstream

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ..debias.evaluation.accumulator import ImageMeta

# Images that are looked at together: a list of large ones would be in memory a second time otherwise.
AT_ONCE = 32
NOT_FINITE = "They do not count. A VAE in half precision does so: let ComfyUI keep it in float32."


_gatherings = SessionStore()


class FairnessReport(io.ComfyNode):
    """Looks at images with a probe and says who is in them, with what is known from the runs before."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMFairnessReport",
            display_name="DDM Fairness Report",
            category=CATEGORY,
            description="Says who is in the images, as a probe perceives them, and how sure one can be. Images of "
            "queued runs add up, so a report can grow to the 60 images per prompt that a verdict needs.",
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Images to look at: one, a batch, or a list."),
                Probe.Input("probe", tooltip="Who to look for, from DDM Load Probe or DDM Fit Probe."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="What the images were asked to show, where the graph does not say it. Shares are measured "
                    "for each prompt, then averaged.",
                ),
                io.String.Input(
                    "target", default="uniform", tooltip="The shares asked for: 'uniform', or 'man=.5,woman=.5'."
                ),
                io.Float.Input(
                    "alpha",
                    default=1.0,
                    min=-2.0,
                    max=3.0,
                    step=0.05,
                    tooltip="The adapter's strength that these images were made with, where the graph does not say it. "
                    "Images of several strengths in one collection are compared with each other.",
                ),
                io.Int.Input(
                    "seed",
                    default=-1,
                    min=-1,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="The sampler's seed, where the graph does not say it, so that images of one seed are "
                    "compared as pairs. −1: not known.",
                ),
                io.Boolean.Input(
                    "collect",
                    default=True,
                    label_on="add to earlier runs",
                    label_off="start again",
                    tooltip="On: images of queued runs add up; the same image counts once. Off: what was collected "
                    "is forgotten, and only these images count.",
                ),
                io.String.Input(
                    "collection", default="", tooltip="A name for the collection. A new name starts an empty one."
                ),
                io.Combo.Input(
                    "values_from",
                    options=["graph", "typed"],
                    default="graph",
                    optional=True,
                    tooltip="Prompt, alpha and seed. graph: those that the images were made with, as the graph says; "
                    "the typed ones where it does not, and what is wired to them. typed: always the typed ones.",
                ),
                Probe.Input(
                    "watch",
                    optional=True,
                    tooltip="A second probe, for what should stay as it was; one for roles tells how often the subject "
                    "is recognised.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="chart"),
                Report.Output(display_name="report", tooltip="For DDM Compare Reports."),
                io.String.Output(display_name="text", tooltip="The report in sentences."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
            **known(search_aliases=["bias", "fairness", "measure", "statistics", "diversity"]),
        )

    @classmethod
    def validate_inputs(cls, target: list[str] | str | None = None) -> bool | str:
        """A sentence if the target is none, before any image is made."""
        return check_target(target[0] if isinstance(target, list) else target)

    @classmethod
    def execute(
        cls,
        images: "list[torch.Tensor]",
        probe: list,
        prompt: list[str],
        target: list[str],
        alpha: list[float],
        seed: list[int],
        collect: list[bool],
        collection: list[str],
        values_from: Sequence[str] = ("graph",),
        watch: list | None = None,
    ) -> io.NodeOutput:
        """Add the images, measure everything that was collected, and write the report."""
        from ..debias.evaluation.compare import Evaluation
        from ..debias.rendering.panel import report_panel
        from ..debias.rendering.report_html import overview
        from .progress import Progress
        from .report_files import chart_image, new_place, words

        origin = Origin()
        if values_from[0] == "graph":
            origin = Upstream(cls.hidden.dynprompt, cls.hidden.unique_id).origin("images")
        prompt, alpha, seed = (
            given if found is None else [found]
            for given, found in zip((prompt, alpha, seed), (origin.prompt, origin.alpha, origin.seed), strict=True)
        )
        probes = [probe[0], *(watch or [])[:1]]
        owner = (cls.hidden.unique_id, _workflow(cls.hidden.extra_pnginfo))
        kept = _gatherings.get((*owner, collection[0].strip()), probes, target[0].strip(), collect[0])
        done, total = 0, sum(len(batch) for batch in images)
        progress = Progress(total)
        shown = _images(images, prompt, alpha, seed, origin)
        while some := list(islice(shown, AT_ONCE)):
            kept.collection.add(probes, *zip(*some, strict=True))
            done += len(some)
            progress(done)
        title = f"Fairness report: {collection[0].strip()}" if collection[0].strip() else "Fairness report"
        study = Evaluation.of(kept.collection.records(), title)
        progress(total)
        report = study.report
        kept.place = kept.place or new_place("report")
        panel = report_panel(report, files=kept.place.save(report))
        panel["remarks"] += [f"As the graph says: {origin}."] if str(origin) else []
        if broken := sum(int((~batch.isfinite()).flatten(1).any(1).sum()) for batch in images):
            panel["remarks"].insert(0, f"{broken} of {total} images have pixels that are not finite. {NOT_FINITE}")
        return io.NodeOutput(chart_image(overview(report)), study, words(report), ui={"ddm_panel": [panel]})


def _images(
    images: "Sequence[torch.Tensor]",
    prompts: Sequence[str],
    alphas: Sequence[float],
    seeds: Sequence[int],
    origin: Origin,
) -> "Iterator[tuple[Image, ImageMeta]]":
    """Every image of a list of batches, with where it comes from; of shorter lists the last is repeated."""
    from ..debias.core.error import DDMError
    from ..debias.core.image import from_pixels
    from ..debias.evaluation.accumulator import ImageMeta

    places: dict[tuple, int] = {}
    for index, batch in enumerate(images):
        if batch.ndim != 4:
            raise DDMError(f"Images are a batch [N, H, W, C], but these have the shape {list(batch.shape)}.")
        prompt, alpha, seed = (given[min(index, len(given) - 1)] for given in (prompts, alphas, seeds))
        key = (" ".join(prompt.split()), round(float(alpha), 6) + 0.0, None if seed < 0 else seed)
        more = {"adapter": origin.adapter if key[1] else "", "made": origin.made}
        for pixels in batch.cpu().numpy():
            # A list of batches of one seed goes on counting where the last one ended.
            place = places[key] = places.get(key, -1) + 1
            yield from_pixels(pixels), ImageMeta(*key, place=0 if key[2] is None else place, **more)


def _workflow(extra: Any) -> str:
    """The workflow's own id, so that node 9 of one graph is not node 9 of another."""
    workflow = extra.get("workflow") if isinstance(extra, dict) else None
    return str(workflow.get("id", "")) if isinstance(workflow, dict) else ""
