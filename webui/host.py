"""What differs between A1111, Forge and Forge Neo, but for the model itself: places, memory, and what is selected."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modules import call_queue, extra_networks, paths, processing, scripts, sd_models, shared

from ..debias.core.error import DDMError

# Forge, and A1111 from 1.10 on; before, a run is set up once for each batch.
BEFORE_SAMPLING = hasattr(scripts.Script, "process_before_every_sampling")
# Where the finished image is seen, by this version of the host.
LAST_LOOK = "postprocess_image" + "_after_composite" * hasattr(scripts.Script, "postprocess_image_after_composite")
# Settings of the host that change images.
OPTIONS = ("CLIP_stop_at_last_layers", "sd_vae", "forge_additional_modules", "forge_unet_storage_dtype")
OPTIONS += ("randn_source", "eta_noise_seed_delta", "emphasis", "upcast_attn")
# Seconds between two looks whether the model is back.
PAUSE = 0.5
# Where Forge keeps CLIP's tokenizer.
TOKENIZER = Path("backend/huggingface/runwayml/stable-diffusion-v1-5/tokenizer")
# Of infotexts: a setting, and those that do not tell how images are made, or that this extension has written itself.
SETTING = re.compile(r'(\w[\w \-/]{1,80}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
NO_SETTINGS = re.compile(r"(Seed|Variation seed|Batch size|Batch pos|Template|Version|DDM .*)$")


def is_forge(model: Any) -> bool:
    """Whether a loaded model is Forge's."""
    return hasattr(model, "forge_objects")


def checkpoint_hash(model: Any) -> str:
    """SHA-256 of the checkpoint that a model was loaded from; empty where the host does not know it."""
    return getattr(getattr(model, "sd_checkpoint_info", None), "sha256", None) or ""


def lora_folders() -> list[Path]:
    """The host's folders of LoRAs: first that in which new ones are put, then those of --lora-dirs (Forge Neo)."""
    return [Path(one) for one in (shared.cmd_opts.lora_dir, *(getattr(shared.cmd_opts, "lora_dirs", None) or ()))]


def models_folder() -> Path:
    """The host's folder of models."""
    return Path(paths.models_path)


def outputs_folder() -> Path:
    """Where audits, and trainings that were stopped, are kept."""
    return Path(paths.data_path) / "outputs" / "ddm"


def tokenizer() -> Path | None:
    """The host's own tokenizer of CLIP, if it has one."""
    folder = Path(paths.script_path) / TOKENIZER
    return folder if folder.is_dir() else None


def selected_checkpoint() -> Path:
    """The file of the checkpoint that is selected in the page.

    Raises:
        DDMError: there is none.
    """
    found = sd_models.select_checkpoint() if sd_models.checkpoints_list else None
    if found is None:
        raise DDMError("No checkpoint is selected. Put one into models/Stable-diffusion, and select it above.")
    return Path(found.filename)


def device() -> str:
    """Kind of the device that the host computes on: cpu, cuda, mps, ..."""
    return shared.device.type


def job() -> str:
    """What tells the job at hand from others: all the cells of an X/Y/Z plot are one."""
    return str(shared.state.job_timestamp)


def plain_prompt(text: str) -> str:
    """A prompt without the LoRAs and other networks that it names."""
    return " ".join(extra_networks.parse_prompt(text)[0].split())


def settings(p: Any, place: int) -> dict[str, str]:
    """Everything but seed and prompt that an image of the batch at hand was made with, as its infotext says it.

    Networks that its prompt names count among them, with their strengths, and the negative prompt.
    """
    text = processing.create_infotext(
        p, p.prompts, p.seeds, p.subseeds, index=place, all_negative_prompts=p.negative_prompts
    )
    found = {name: value for name, value in SETTING.findall(text.splitlines()[-1]) if not NO_SETTINGS.match(name)}
    networks = re.findall(r"<\w+:[^<>]+>", p.all_prompts[p.iteration * p.batch_size + place])
    said = {"with": " ".join(networks), "negative prompt": " ".join(p.negative_prompts[place].split())}
    return found | {name: value for name, value in said.items() if value}


def checkpoint_of(digest: str) -> Path | None:
    """The checkpoint of this SHA-256, among those that the host has hashed, which it does when it loads one."""
    infos = (sd_models.checkpoints_list or {}).values()
    return next((Path(one.filename) for one in infos if digest and one.sha256 == digest), None)


def selected_hash() -> str:
    """The SHA-256 of the selected checkpoint, also before it is loaded; empty where the host hashes nothing."""
    info = sd_models.select_checkpoint() if sd_models.checkpoints_list else None
    if info is not None:
        info.calculate_shorthash()
    return getattr(info, "sha256", None) or ""


def checkpoint_digest(selected: Path) -> str:
    """What tells a checkpoint's file from others: its SHA-256, or its name, size and age where nothing is hashed."""
    state = selected.stat()
    return selected_hash() or f"{selected.name} {state.st_size} {state.st_mtime_ns}"


def sampling_options() -> dict[str, str]:
    """The host's settings that change images but are no inputs of txt2img."""
    return {name: str(getattr(shared.opts, name)) for name in OPTIONS if hasattr(shared.opts, name)}


def sampler_names() -> list[str]:
    """The host's samplers."""
    from modules import sd_samplers

    return [one.name for one in sd_samplers.all_samplers]


def on_main_thread(work: Callable[[], Any]) -> Any:
    """Do some work where the host makes images: in Forge's main thread."""
    try:
        from modules_forge import main_thread
    except ImportError:
        return work()

    def caught() -> tuple[Any, Exception | None]:
        try:
            return work(), None
        except Exception as error:
            return None, error

    done, error = main_thread.run_and_wait_result(caught)
    if error is not None:
        raise error
    return done


# Each says what keeps the host's model away: "DDM is training".
_busy: list[Callable[[], str]] = []


@contextmanager
def model_put_away(what: Callable[[], str]) -> Iterator[None]:
    """For as long as the context lasts, no image is made, and the device's memory is free of the host's model.

    Args:
        what: says what keeps it away, to those who wait (see `wait_for_model`).
    """
    with call_queue.queue_lock:
        model = sd_models.model_data.sd_model
        if model is not None:
            sd_models.unload_model_weights()
        _busy.append(what)
    try:
        yield
    finally:
        # Forge fetches its model by itself: this does nothing there, and Neo does not have it.
        if model is not None and hasattr(sd_models, "send_model_to_device"):
            sd_models.send_model_to_device(model)
        _busy.remove(what)


def wait_for_model() -> None:
    """Wait until nothing keeps the model away or the user interrupts; the page says beside its progress what does."""
    while _busy and not shared.state.interrupted:
        shared.state.textinfo = f"{_busy[0]()}. This image waits for its end."
        time.sleep(PAUSE)
