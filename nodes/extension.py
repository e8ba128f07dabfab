"""The extension that ComfyUI loads: the list of all nodes."""

from comfy_api.latest import ComfyExtension, io

from .alpha_schedule import AlphaScheduleNode
from .files import register_folders
from .load_adapter import LoadAdapter
from .load_weights import LoadWeights

NODES: list[type[io.ComfyNode]] = [
    LoadWeights,
    LoadAdapter,
    AlphaScheduleNode,
]


class DDMExtension(ComfyExtension):
    """All nodes of the category DDM."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes. The host asks once, before any schema is made, so folders are made known here."""
        register_folders()
        return NODES
