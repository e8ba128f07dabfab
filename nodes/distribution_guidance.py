"""DDM Distribution Guidance: balance while images are made, without an adapter, even one at a time."""

from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ..debias.core.error import DDMError
from ..debias.methods.class_counts import PromptCounts
from . import files
from .h_space import NOT_CALLED, is_transformer, patch_h_space, timestep
from .progress import send_panel
from .target import check_target
from .types import CATEGORY, known
from .upstream import Upstream
from .validation import said_once

if TYPE_CHECKING:
    from ..debias.methods.distribution_guidance import Guidance

KIND = "head"
OTHER_BASE = (
    "The head was made for another model, or for one that is not known here: look at a report before you rely on it, "
    "or make one with DDM Train Guidance Head."
)
THIS_BASE = "The head was made for this model."
EVENT = "ddm.guidance"

TALLIES = PromptCounts()
# Where a model remembers how many attributes are guided at once.
GUIDED = "ddm_guided"


class DistributionGuidance(io.ComfyNode):
    """Patches a model, so that its images come out balanced over the queue."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Model in, model out."""
        return io.Schema(
            node_id="DDMDistributionGuidance",
            display_name="DDM Distribution Guidance",
            category=CATEGORY,
            description="Balances images while they are made, without an adapter and without training the model: a "
            "small head reads in the middle of the model who is going to be in the image, and pushes. In mode queue "
            "it counts, so that single images come out balanced too. For a second attribute, use a second node.",
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Model.Input("model", tooltip="The model that the head was made for."),
                io.Combo.Input(
                    "head",
                    options=files.names(files.DDM, KIND),
                    tooltip="A head in models/ddm. DDM Train Guidance Head makes one for your model.",
                ),
                io.Float.Input(
                    "scale",
                    default=8.0,
                    min=0.0,
                    max=30.0,
                    step=0.5,
                    round=0.001,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How far to push. 0: the model as it is. 8 is usual, whatever the steps and the batch. "
                    "Too much hurts the image.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["queue", "batch"],
                    default="queue",
                    tooltip="queue: every image is given the class that is missing most, at any batch size. batch: "
                    "images that are made together are pushed together; needs a batch of eight or more.",
                ),
                io.String.Input(
                    "target", default="uniform", tooltip="The shares asked for: 'uniform', or 'man=.5,woman=.5'."
                ),
                io.Boolean.Input(
                    "keep_counts",
                    default=True,
                    label_on="count over queued runs",
                    label_off="start again",
                    tooltip="Mode queue. On: queued runs are balanced together. Off: every run is by itself, and what "
                    "was counted is forgotten.",
                ),
                io.String.Input(
                    "counts",
                    default="",
                    tooltip="Mode queue: a name for the counts. Nodes with one head, target and name count together; a "
                    "new name starts at nothing.",
                ),
                io.String.Input(
                    "prompt",
                    optional=True,
                    force_input=True,
                    tooltip="The text that is encoded. Where it says itself who is meant ('a woman doctor'), the "
                    "image is left alone and does not count. Without it every image is guided.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    optional=True,
                    tooltip="The words that say so: 'man, woman, boy, girl'. Empty: the head's own classes. Needs the "
                    "prompt.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with guidance.")],
            **known(search_aliases=["fair", "debias", "guidance", "h-space", "balance", "diversity", "bias"]),
        )

    @classmethod
    @said_once
    def validate_inputs(cls, head: str | None = None, target: str | None = None) -> bool | str:
        """A sentence when the file or the target cannot be used."""
        known = files.check_kind(head, KIND)
        return check_target(target) if known is True else known

    @classmethod
    def fingerprint_inputs(cls, head: str | None = None, **_: object) -> str:
        """Load again when the file has changed."""
        return "" if head is None else files.stamp(files.resolve(files.DDM, head))

    @classmethod
    def execute(
        cls,
        model: Any,
        head: str,
        scale: float,
        mode: str,
        target: str,
        keep_counts: bool,
        counts: str,
        prompt: str = "",
        words: str = "",
    ) -> io.NodeOutput:
        """The patched model."""
        from ..debias.groups.target import Target
        from ..debias.methods.distribution_guidance import Guidance, read_words
        from ..debias.methods.h_space_classifier import HSpaceClassifier

        opened = HSpaceClassifier.load(files.resolve(files.DDM, head))
        if not is_transformer(model):
            opened.check_channels(model.model.diffusion_model.middle_block[-1].out_channels)
        asked = Target.parse(target or "uniform", opened.names)
        guidance = Guidance(opened, asked, scale, mode, words=read_words(words))
        key = f"{opened.digest} {asked} {counts.strip()}"
        guidance.tally = TALLIES.get(key, guidance.target.shares)
        node = cls.hidden.unique_id
        same = Upstream(cls.hidden.dynprompt, node).base_hash("model", model) == opened.base_hash
        said = guidance.said(prompt)
        remarks = [f"The prompt says “{said}” itself: the image is left as it is."] if said else []

        def panel() -> dict[str, Any]:
            return counted(guidance, key, same, remarks)

        model = patched(model, guidance, keep_counts, prompt, lambda: send_panel(node, EVENT, panel()))
        told = [*([] if same else [OTHER_BASE]), *remarks]
        return io.NodeOutput(model, ui={"text": told, "ddm_panel": [panel()]})


def counted(guidance: "Guidance", key: str, same: bool, remarks: list[str]) -> dict[str, Any]:
    """What the node's panel shows: the images so far, in all and prompt by prompt, beside the target.

    Args:
        key: of the counts, for whoever wants to reset them.
        same: whether the head was made for the model.
        remarks: what else there is to say.
    """
    head, tally = guidance.head, guidance.tally

    def groups(counts: Any) -> list[dict[str, Any]]:
        shares = counts / max(counts.sum(), 1)
        return [
            {"name": name, "count": int(count), "share": round(float(share), 4), "target": float(wanted)}
            for name, count, share, wanted in zip(head.names, counts, shares, tally.shares, strict=True)
        ]

    prompts = [
        {
            "prompt": prompt if isinstance(prompt, str) else f"prompt {number}",
            "n": int(counts.sum()),
            "groups": groups(counts),
        }
        for number, (prompt, counts) in enumerate(tally.counts.items(), 1)
    ]
    total = int(tally.total.sum())
    return {
        "kind": "guidance",
        "title": head.attribute,
        "verdict": {"tone": "fair" if same else "unknown", "text": THIS_BASE if same else OTHER_BASE},
        "summary": f"Target: {', '.join(f'{n} {s:.0%}' for n, s in zip(head.names, tally.shares, strict=True))}.",
        "n": total,
        "attributes": [{"name": head.attribute, "groups": groups(tally.total)}] if total else [],
        "prompts": prompts,
        "remarks": remarks,
        "key": key,
    }


def add_routes() -> None:
    """POST /ddm/guidance/reset, with the key of some counts, forgets these."""
    from server import PromptServer, web

    @PromptServer.instance.routes.post("/ddm/guidance/reset")
    async def reset(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return web.json_response({"error": "Send JSON."}, status=415)
        try:
            TALLIES.clear(str((await request.json())["key"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return web.json_response({"error": "Send the key of the counts."}, status=400)
        return web.json_response({})


def patched(
    model: Any,
    guidance: "Guidance",
    keep_counts: bool = True,
    prompt: str = "",
    told: Callable[[], None] = lambda: None,
) -> Any:
    """A clone of a MODEL that is guided.

    Args:
        told: called when images have been counted.
        keep_counts: go on with what was counted; otherwise it is forgotten when sampling begins.
        prompt: the text of the conditioning; empty where it is not known.

    The functions are closures: some hosts copy callable objects deeply, and the tally would be another one.
    """
    model = model.clone()

    def sample(executor: Any, noise: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        if not keep_counts:
            guidance.tally.clear()
        together = executor.class_obj.model_options["transformer_options"].get(GUIDED, 0)
        guidance.begin([prompt or _encoded(executor.class_obj)] * len(noise), together)
        pushed()
        made = executor(noise, *rest, **named)
        guidance.end()
        if not pushed():
            raise DDMError(NOT_CALLED)
        told()
        return made

    def push(h: torch.Tensor, options: dict) -> torch.Tensor:
        t, parts = timestep(model, options), list(h.chunk(len(options["cond_or_uncond"])))
        pairs = zip(parts, options["cond_or_uncond"], strict=True)
        shifts = [None if without else guidance.shift(part, t) for part, without in pairs]
        if all(shift is None for shift in shifts):
            return h
        return torch.cat([part if shift is None else part + shift for part, shift in zip(parts, shifts, strict=True)])

    key = f"ddm_guidance_{guidance.head.attribute}"
    pushed = patch_h_space(model, key, push)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, sample)
    if guidance.scale:
        options = model.model_options["transformer_options"]
        options[GUIDED] = options.get(GUIDED, 0) + 1
    return model


def _encoded(guider: Any) -> bytes:
    """What tells a guider's prompt apart from others: a hash of its positive conditioning."""
    conds = guider.conds.get("positive") or next(iter(guider.conds.values()), [])
    texts = (cond["cross_attn"] for cond in conds if cond.get("cross_attn") is not None)
    return blake2b(b"".join(text.float().cpu().numpy().tobytes() for text in texts), digest_size=16).digest()
