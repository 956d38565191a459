"""Reported results, run again and compared with what was reported: one study a file."""

from unstuck.experiments.alme import run_alme
from unstuck.experiments.alme_report import Harm, alme_markdown, harm
from unstuck.experiments.alme_settings import AlmePlan
from unstuck.experiments.attention import AttentionPlan, attention_markdown, run_attention
from unstuck.experiments.attention_net import NetPlan, net_markdown, run_net
from unstuck.experiments.blend import PROTOCOLS, REPORTED, Plan, Progress, run_study
from unstuck.experiments.blend_methods import METHODS, Method, Range
from unstuck.experiments.blend_record import BlendRecord
from unstuck.experiments.blend_report import Comparison, Summary, compare, markdown, summarize
from unstuck.experiments.cells import CellRecord
from unstuck.experiments.hybrids import HybridsPlan, hybrids_markdown, race_of, run_hybrids
from unstuck.experiments.learned_functions import FunctionsPlan, run_functions
from unstuck.experiments.learned_functions_report import functions_markdown
from unstuck.experiments.learned_heldout import HeldOutPlan, run_heldout
from unstuck.experiments.learned_mnist import MnistPlan, run_mnist
from unstuck.experiments.learned_mnist_report import mnist_markdown
from unstuck.experiments.learned_report import heldout_markdown

__all__ = [
    "METHODS",
    "PROTOCOLS",
    "REPORTED",
    "AlmePlan",
    "AttentionPlan",
    "BlendRecord",
    "CellRecord",
    "Comparison",
    "FunctionsPlan",
    "Harm",
    "HeldOutPlan",
    "HybridsPlan",
    "Method",
    "MnistPlan",
    "NetPlan",
    "Plan",
    "Progress",
    "Range",
    "Summary",
    "alme_markdown",
    "attention_markdown",
    "compare",
    "functions_markdown",
    "harm",
    "heldout_markdown",
    "hybrids_markdown",
    "markdown",
    "mnist_markdown",
    "net_markdown",
    "race_of",
    "run_alme",
    "run_attention",
    "run_functions",
    "run_heldout",
    "run_hybrids",
    "run_mnist",
    "run_net",
    "run_study",
    "summarize",
]
