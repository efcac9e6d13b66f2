"""Methods of others, as contestants: written from their definitions, or their own code asked."""

from detxai.evaluate.peers.aise import AISE
from detxai.evaluate.peers.d_rise_mixed import DRISEMixed
from detxai.evaluate.peers.greedy import GreedyDeletion, GreedyInsertion
from detxai.evaluate.peers.kernel_shap import KernelSHAP
from detxai.evaluate.peers.other_tools import GradCamEigenCAM, UltralyticsLayerCAM
from detxai.evaluate.peers.phase_win import PhaseWin

__all__ = [
    "AISE",
    "DRISEMixed",
    "GradCamEigenCAM",
    "GreedyDeletion",
    "GreedyInsertion",
    "KernelSHAP",
    "PhaseWin",
    "UltralyticsLayerCAM",
]
