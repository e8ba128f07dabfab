"""The extension that ComfyUI loads: the list of all nodes."""

from comfy_api.latest import ComfyExtension, io

from ..debias.core.error import DDMError
from . import distribution_guidance, files, trainings, validation
from .alpha_schedule import AlphaScheduleNode
from .alpha_sweep import AlphaSweep
from .audit_images import AuditImages
from .check_probe import CheckProbe
from .compare_reports import CompareReports
from .distribution_guidance import DistributionGuidance
from .fairness_report import FairnessReport
from .fit_probe import FitProbe
from .invariant_guidance import InvariantGuidance
from .load_adapter import LoadAdapter
from .load_probe import LoadProbe
from .load_weights import LoadWeights
from .measure_prompts import MeasurePrompts
from .train import Train
from .train_head import TrainHead
from .words_probe import ProbeFromWords

NODES: list[type[io.ComfyNode]] = [
    LoadWeights,
    LoadAdapter,
    AlphaScheduleNode,
    DistributionGuidance,
    InvariantGuidance,
    LoadProbe,
    FitProbe,
    ProbeFromWords,
    MeasurePrompts,
    CheckProbe,
    FairnessReport,
    CompareReports,
    AlphaSweep,
    AuditImages,
    Train,
    TrainHead,
]


class DDMExtension(ComfyExtension):
    """All nodes of the category DDM."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes. The host asks once, before any schema is made: folders and routes are made known here."""
        files.register_folders()
        validation.watch_graphs()
        trainings.add_routes()
        distribution_guidance.add_routes()
        # Pages show where a class of errors comes from, and its sentence: neither shall be a place on this machine.
        DDMError.__module__ = "ComfyUI-DDM"
        DDMError.__str__ = lambda error: files.by_name(Exception.__str__(error))
        return NODES
