"""DDM Train: a fair adapter from a folder of images, trained in a process of its own."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import folder_paths
from comfy_api.latest import io

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import read_metadata
from ..hosts.adapter_card import LoadedCard
from . import files, image_folders, train_options, training_set
from .types import CATEGORY, Card, known

if TYPE_CHECKING:
    import torch

    from ..hosts.progress_panel import TrainPanel

# Seconds between two messages to the page, but for those that say something new.
PAUSE = 0.25


class Train(io.ComfyNode):
    """Runs the trainer on a folder of images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        shared = training_set.inputs("The model to train for")
        return io.Schema(
            node_id="DDMTrain",
            display_name="DDM Train",
            category=CATEGORY,
            description="Trains a fair adapter on a folder of images, without labelling anyone, and puts it among "
            "your LoRAs. Cancel keeps what was trained: queue again with the same inputs to go on.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *shared[:2],
                io.String.Input("name", default="my_fair_adapter", tooltip="The adapter's file name in models/loras."),
                *shared[2:],
                io.Boolean.Input(
                    "style",
                    default=False,
                    tooltip="Also learn the images' style or subject, as a second LoRA: its name ends in _style.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace an adapter of this name, and a stopped run of this name with other inputs.",
                ),
                *train_options.inputs(),
            ],
            outputs=[
                AdapterName.Output(display_name="adapter", tooltip="The adapter's name, for DDM Load Adapter."),
                Card.Output(display_name="card", tooltip="What the adapter was made for."),
                io.Image.Output(display_name="preview", tooltip="The same seeds at α = 0 and α = 1, after training."),
            ],
            **known(search_aliases=["train lora", "debias", "fair", "fine-tune"]),
        )

    @classmethod
    def validate_inputs(
        cls,
        folder: str,
        weights: str,
        name: str,
        groups: str,
        target: str,
        style: bool,
        overwrite: bool,
        steps: int | None = None,
        rank: int | None = None,
        seed: int | None = None,
        reg_data: str | None = None,
        probe: str | None = None,
        second_probe: str | None = None,
    ) -> bool | str:
        """A sentence if folders, model, groups or probes are not there, or the name is taken or none for a file."""
        from ..hosts.trainer_process import check_same

        try:
            training_set.check(folder, weights, groups, target)
            train_options.check(reg_data, probe, second_probe)
            if name is not None:
                out = files.new_file(files.ADAPTERS, name)
                if overwrite is False and out.exists():
                    wanted = {"steps": steps, "rank": rank, "seed": seed}
                    check_same(out, groups and groups.strip(), wanted)
        except DDMError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str, **rest: object) -> str:
        """Train again when a file in a folder changes, or a probe."""
        return image_folders.stamp(folder) + train_options.stamp(**rest)

    @classmethod
    def execute(
        cls,
        folder: str,
        weights: str,
        name: str,
        groups: str,
        target: str,
        caption: str,
        style: bool,
        overwrite: bool,
        **options: object,
    ) -> io.NodeOutput:
        """Free the host's memory, run the trainer, tell the page how it goes, and hand out what it made."""
        from ..hosts.progress_panel import TrainPanel
        from ..hosts.train_inputs import train_config
        from ..training.models.tokenizer import find_tokenizer

        images, base = image_folders.resolve(folder), files.resolve_weights(weights)
        source, goal = training_set.wanted(groups, target)
        out = files.new_file(files.ADAPTERS, name)
        checkpoint = Path(folder_paths.get_output_directory()) / "ddm" / f"{out.stem}.checkpoint.safetensors"
        shown = f"ddm/train_{uuid.uuid4().hex[:8]}"
        device = comfy.model_management.get_torch_device()
        config = train_config(
            images,
            base,
            out,
            checkpoint=checkpoint,
            sample_dir=Path(folder_paths.get_temp_directory()) / shown,
            device=device.type,
            style=style,
            overwrite=overwrite,
            groups=source,
            target=goal,
            caption=caption,
            # The host's own: the trainer runs elsewhere.
            tokenizer=None if base.is_dir() else find_tokenizer(base),
            **train_options.options(**options),
        )
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        place = {"subfolder": shown, "type": "temp"}
        panel = TrainPanel(out.stem, lambda file: {"filename": file.name, **place}, train_options.NAMES)
        run(config, panel, cls.hidden.unique_id)
        return result(out, panel)


AdapterName = io.Custom("COMBO,STRING")  # a choice of DDM Load Adapter, and text


def run(config: Mapping[str, Any], panel: "TrainPanel", node: str) -> None:
    """Train to the end, with the state of the run in the host's bar and in the node.

    Raises:
        InterruptProcessingException: the user cancelled; what was trained is kept.
        DDMError: what the trainer said.
    """
    from ..hosts.trainer_process import Trainer
    from .progress import Progress

    told = 0.0

    def tell() -> None:
        from server import PromptServer

        nonlocal told
        told = time.monotonic()
        server = PromptServer.instance
        # A copy: the message is written later, by another thread.
        state = {**panel.values, "losses": list(panel.values["losses"]), "remarks": list(panel.values["remarks"])}
        server.send_sync("ddm.train", {"node": node, "panel": state}, server.client_id)

    tell()
    progress = Progress(1)
    try:
        with Trainer(config) as trainer:
            for event in trainer.events():
                comfy.model_management.throw_exception_if_processing_interrupted()
                if event is None:
                    continue
                before = panel.values["phase"]
                panel.take(event)
                if "phase" in event:
                    progress(int(event["done"]), int(event["total"]))
                if "phase" not in event or event["phase"] != before or time.monotonic() - told > PAUSE:
                    tell()
    except comfy.model_management.InterruptProcessingException:
        panel.stop(trainer.kept)
        tell()
        raise
    except DDMError as error:
        sentence = panel.fail(error)
        tell()
        raise DDMError(sentence) from error


def result(out: Path, panel: "TrainPanel") -> io.NodeOutput:
    """What the node hands out: name, card and the last preview, which goes to the output folder as well.

    Where no preview could be made, which a remark in the node says, what is wired to it does not run.
    """
    from comfy_execution.graph_utils import ExecutionBlocker

    card = AdapterCard.from_metadata(read_metadata(out))
    loaded = LoadedCard(out.name, card.recommended_alpha, card, None)
    panel.finish(asdict(card), f"{out.name} is among your LoRAs. Recommended α: {card.recommended_alpha:g}.")
    image = ExecutionBlocker(None) if panel.preview is None else keep_preview(panel)
    return io.NodeOutput(out.name, loaded, image, ui={"ddm_panel": [panel.values], "text": [out.name]})


def keep_preview(panel: "TrainPanel") -> "torch.Tensor":
    """Copy the last preview to the output folder, where the panel finds it from then on; returns it as an image."""
    from PIL import Image

    from .report_files import new_place, to_image

    place = new_place("train")
    kept = place.folder / f"{place.stem}.png"
    with Image.open(panel.preview) as preview:
        preview.save(kept)
        image = to_image(preview)
    panel.values["preview"]["file"] = {"filename": kept.name, "subfolder": place.subfolder, "type": "output"}
    return image
