"""One real Forge for all tests of the web UIs; without it they are skipped, and say why."""

import pytest
from comfyui_ddm.debias.adapter.lora_file import AdapterCard

from .checkpoint import save_checkpoint, save_head, save_lora
from .server import CHECKPOINT, Forge, find_forge

CARD = AdapterCard(groups="labels:gender", target={"man": 0.5, "woman": 0.5}, concepts=["a doctor", "a pilot"])


@pytest.fixture(scope="session")
def host():
    """Forge's folder."""
    try:
        return find_forge()
    except FileNotFoundError as error:
        pytest.skip(f"the web UI's tests need a Forge to run in: {error}")


@pytest.fixture(scope="session")
def forge(host, tmp_path_factory):
    """A running server with a small random checkpoint; LoRAs fair, fairer, and one that is not ours; and three heads.

    The head `wide` is for another model.
    """
    server = Forge(host, tmp_path_factory.mktemp("forge"))
    save_checkpoint(server.data / "models" / "Stable-diffusion" / CHECKPOINT)
    save_lora(server.loras / "fair.safetensors", 0, CARD)
    save_lora(server.loras / "fairer.safetensors", 1, CARD)
    save_lora(server.loras / "foreign.safetensors", 2)
    save_head(server.data / "models" / "ddm" / "guide.safetensors")
    save_head(server.data / "models" / "ddm" / "age.safetensors", "age", seed=1)
    save_head(server.data / "models" / "ddm" / "wide.safetensors", "hair", channels=64)
    with server:
        yield server
