"""DDM Train Guidance Head: what distribution guidance needs for a model of one's own."""

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..debias.core.error import DDMError
from . import files, prompt_lists, train_options, training_set, trainings
from .train_options import NONE
from .training_set import OWN
from .types import CATEGORY, Name, known
from .validation import said_once


class TrainHead(io.ComfyNode):
    """Runs `ddm head` on a folder of images, or on images that the model makes itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        folder, weights, groups, _, caption = training_set.inputs("The model to guide", own=True)
        folder.default = OWN
        return io.Schema(
            node_id="DDMTrainHead",
            display_name="DDM Train Guidance Head",
            category=CATEGORY,
            description="Makes the head that DDM Distribution Guidance needs, for a model of your own, in minutes: the "
            "model makes images of the prompts, who is in them is found without labels (or by words, a probe or "
            "labels), and the head learns to see it while an image is still noise. The model is not changed.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
            inputs=[
                folder,
                weights,
                io.String.Input("name", default="my_head", tooltip="The head's file name in models/ddm."),
                groups,
                io.Combo.Input(
                    "probe",
                    options=[NONE, *files.names(files.DDM, "probe")],
                    default=NONE,
                    tooltip="A probe that says who is in the images; groups is then not used.",
                ),
                io.String.Input(
                    "prompts",
                    default="a photo of a doctor\na photo of a nurse",
                    multiline=True,
                    tooltip="What the model's own images show, one prompt in a line: the kind of prompts that you will "
                    "guide. discovered needs eight or more.",
                ),
                io.Combo.Input(
                    "prompt_list",
                    options=prompt_lists.names(),
                    default="occupations",
                    tooltip="as written: the prompts above. Others in place of them: occupations, described people, "
                    "or a text file in the input folder with one prompt in a line.",
                ),
                io.Int.Input(
                    "count",
                    default=24,
                    min=0,
                    max=1000,
                    tooltip="Images of the model's own for each prompt. 0: none, for a folder alone.",
                ),
                caption,
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="Of the images and of the training.",
                ),
                *training_set.common_inputs(),
            ],
            outputs=[
                Name.Output(display_name="head", tooltip="The head's name, for DDM Distribution Guidance."),
                io.String.Output(display_name="text", tooltip="How often it is right."),
            ],
            **known(search_aliases=["fair", "debias", "guidance", "h-space", "train", "balance"]),
        )

    @classmethod
    @said_once
    def validate_inputs(
        cls,
        folder: str | None = None,
        weights: str | None = None,
        name: str | None = None,
        groups: str | None = None,
        probe: str | None = None,
        prompts: str | None = None,
        prompt_list: str | None = None,
        count: int | None = None,
    ) -> bool | str:
        """A sentence if folder, model, groups, probe or prompts are not there, or the name is none for a file."""
        from ..debias.core.io import check_output

        try:
            own = folder == OWN
            training_set.check(folder, weights, groups if probe == NONE else None, "uniform")
            train_options.check(None, probe)
            if None not in (count, prompts, prompt_list) and (count or own):
                prompt_lists.read(prompt_list, prompts)
            if own and count == 0:
                return "There is nothing to learn from. Choose a folder, or a count of the model's own images."
            if name is not None:
                check_output(files.new_file(files.DDM, name), "head")
        except DDMError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, folder: str | None = None, prompt_list: str | None = None, probe: str = NONE, **_: object
    ) -> str:
        """Train again when a file in the folder changes, or the probe or the list."""
        path = None if prompt_list is None else prompt_lists.path_of(prompt_list)
        stamps = [train_options.stamp(probe=probe), "" if path is None else files.stamp(path)]
        return repr([training_set.stamp(folder), *stamps])

    @classmethod
    def execute(
        cls,
        folder: str,
        weights: str,
        name: str,
        groups: str,
        probe: str,
        prompts: str,
        prompt_list: str,
        count: int,
        caption: str,
        seed: int,
        model: object = None,
        background: bool = False,
    ) -> io.NodeOutput:
        """Run `ddm head`, and hand out the name of what it made."""
        from ..hosts import head_training
        from ..hosts.progress_panel import TrainPanel

        base = training_set.base_of(cls.hidden, weights, model)
        out = files.new_file(files.DDM, name)
        command = head_training.command(
            out,
            training_set.folder_of(folder),
            training_set.opening(base),
            groups=groups,
            probe=None if probe == NONE else files.resolve(files.DDM, probe),
            prompts=prompt_lists.read(prompt_list, prompts) if count else [],
            count=count,
            caption=caption,
            seed=seed,
        )
        panel = TrainPanel(out.stem, lambda file: {}, head_training.NAMES)
        listed = files.list_name(files.DDM, out)

        def finish(panel: TrainPanel) -> None:
            head_training.finish(out, f"{listed} is in models/ddm, for DDM Distribution Guidance.", panel)

        if not trainings.run(cls.hidden, base, command, panel, finish, background):
            return io.NodeOutput(*[ExecutionBlocker(None)] * 2)
        text = panel.values["summary"]
        return io.NodeOutput(listed, text, ui={"ddm_panel": [panel.values], "text": [text]})
