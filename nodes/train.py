"""DDM Train: a fair adapter from a folder of images, trained in a process of its own."""

import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import folder_paths
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..debias.adapter.lora_file import AdapterCard
from ..debias.core.error import DDMError
from ..debias.core.io import read_metadata
from ..hosts.adapter_card import LoadedCard
from . import files, train_objectives, train_options, training_set, trainings
from .report_files import new_place, to_image
from .types import CATEGORY, Card, Name, known
from .validation import said_once

if TYPE_CHECKING:
    import torch

    from ..hosts.progress_panel import TrainPanel


class Train(io.ComfyNode):
    """Runs the trainer on a folder of images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        shared = training_set.inputs("The model to train for", own=True)
        name = io.String.Input("name", default="my_fair_adapter", tooltip="The adapter's file name in models/loras.")
        style = io.Boolean.Input(
            "style",
            default=False,
            tooltip="Also learn the images' style or subject, as a second LoRA: its name ends in _style.",
        )
        overwrite = io.Boolean.Input(
            "overwrite",
            default=False,
            tooltip="Replace an adapter of this name, and a stopped run of this name with other inputs.",
        )
        options = [*train_options.inputs(), *training_set.common_inputs(), *train_objectives.inputs()]
        return io.Schema(
            node_id="DDMTrain",
            display_name="DDM Train",
            category=CATEGORY,
            description="Trains a fair adapter on a folder of images, without labelling anyone, and puts it among "
            "your LoRAs. Cancel keeps what was trained: queue again to go on, with more steps if you like.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
            inputs=train_objectives.marked([*shared[:2], name, *shared[2:], style, overwrite, *options]),
            outputs=[
                Name.Output(display_name="adapter", tooltip="The adapter's name, for DDM Load Adapter."),
                Card.Output(display_name="card", tooltip="What the adapter was made for."),
                io.Image.Output(display_name="preview", tooltip="The same seeds at α = 0 and α = 1, after training."),
            ],
            **known(search_aliases=["train lora", "debias", "fair", "fine-tune"]),
        )

    @classmethod
    @said_once
    def validate_inputs(
        cls,
        folder: str | None = None,
        weights: str | None = None,
        name: str | None = None,
        groups: str | None = None,
        target: str | None = None,
        overwrite: bool | None = None,
        steps: int | None = None,
        rank: int | None = None,
        seed: int | None = None,
        reg_data: str | None = None,
        probe: str | None = None,
        second_probe: str | None = None,
        objective: str | None = None,
        prior_prompts: str | None = None,
        keep: str | None = None,
    ) -> bool | str:
        """A sentence if folders, model, groups or probes are not there, or the name is taken or none for a file."""
        from ..debias.core.io import check_output
        from ..hosts.trainer_process import check_same

        try:
            train_objectives.check(objective, probe, prior_prompts)
            alone = objective in train_objectives.OTHERS
            training_set.check(folder, weights, None if alone else groups, target)
            train_options.check(reg_data, probe, second_probe, keep)
            if name is not None and objective == train_objectives.INVARIANT:
                check_output(files.new_file(files.DDM, name), "invariant")
            elif name is not None:
                out = files.new_file(files.ADAPTERS, name)
                if overwrite is False and not alone and out.exists():
                    wanted = {"steps": steps, "rank": rank, "seed": seed}
                    check_same(out, groups and groups.strip(), wanted)
        except DDMError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **rest: object) -> str:
        """Train again when a file in a folder changes, or a probe."""
        return training_set.stamp(folder) + train_options.stamp(**rest)

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
        model: object = None,
        background: bool = False,
        **options: object,
    ) -> io.NodeOutput:
        """Free the host's memory, run the trainer, tell the page how it goes, and hand out what it made."""
        from ..hosts.progress_panel import TrainPanel
        from ..hosts.train_inputs import train_config
        from ..hosts.trainer_process import Command

        base = training_set.base_of(cls.hidden, weights, model)
        objective = options.pop("objective", "ddm")
        module = objective == train_objectives.INVARIANT
        kind = files.DDM if module else files.ADAPTERS
        out = files.new_file(kind, name)
        listed = files.list_name(kind, out)
        kept = Path(folder_paths.get_output_directory()) / "ddm" / listed
        checkpoint = kept.with_suffix(".checkpoint.safetensors")
        shown = f"ddm/train_{uuid.uuid4().hex[:8]}"
        samples = Path(folder_paths.get_temp_directory()) / shown
        if objective in train_objectives.OTHERS:
            given = {"folder": folder, "target": target, "caption": caption, **options}
            command = Command.of(
                *train_objectives.arguments(objective, out, base, checkpoint, samples, overwrite, **given)
            )
        else:
            source, goal = training_set.wanted(groups, target)
            config = train_config(
                training_set.folder_of(folder),
                base,
                out,
                checkpoint=checkpoint,
                sample_dir=samples,
                device=comfy.model_management.get_torch_device().type,
                style=style,
                overwrite=overwrite,
                groups=source,
                target=goal,
                caption=caption,
                **files.beside_weights(base),  # the trainer runs elsewhere
                **train_options.options(objective=objective, **options),
            )
            command = Command.train(config)
        place = {"subfolder": shown, "type": "temp"}
        panel = TrainPanel(out.stem, lambda file: {"filename": file.name, **place}, train_options.NAMES)
        end = finish_module if module else finish
        nothing = ExecutionBlocker(None)
        if not trainings.run(cls.hidden, base, command, panel, lambda panel: end(out, listed, panel), background):
            return io.NodeOutput(nothing, nothing, nothing)
        card = nothing if module else loaded(out, listed)
        image = nothing if panel.preview is None else opened(panel.preview)
        return io.NodeOutput(listed, card, image, ui={"ddm_panel": [panel.values], "text": [listed]})


def finish_module(out: Path, listed: str, panel: "TrainPanel") -> None:
    """Say where the module of invariant guidance is."""
    panel.finish(None, f"{listed} is in models/ddm, for DDM Invariant Guidance.")


def finish(out: Path, listed: str, panel: "TrainPanel") -> None:
    """Say what the adapter is; the last preview is copied to the output folder, where the panel finds it from then on.

    Where no preview could be made, which a remark in the node says, what is wired to it does not run.
    """
    card = loaded(out, listed).card
    panel.finish(asdict(card), f"{listed} is among your LoRAs. Recommended α: {card.recommended_alpha:g}.")
    if panel.preview is not None:
        place = new_place("train")
        kept = place.folder / f"{place.stem}.png"
        shutil.copyfile(panel.preview, kept)
        panel.values["preview"]["file"] = {"filename": kept.name, "subfolder": place.subfolder, "type": "output"}


def loaded(out: Path, listed: str) -> LoadedCard:
    """What the node hands out of an adapter that is there."""
    card = AdapterCard.from_metadata(read_metadata(out))
    return LoadedCard(listed, card.recommended_alpha, card, None)


def opened(preview: Path) -> "torch.Tensor":
    """A preview as an IMAGE."""
    from PIL import Image

    with Image.open(preview) as image:
        return to_image(image)
