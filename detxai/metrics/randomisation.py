"""Model-parameter randomisation: a map of what the model learned must fall apart when it unlearns it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from detxai.adapters.detector import Detector
from detxai.adapters.network import module_of
from detxai.engine.rank_correlation import rank_correlation
from detxai.images import Image
from detxai.methods.checks import check_count
from detxai.metrics.inputs.case import Case, Quantity
from detxai.metrics.inputs.similarity import structural_similarity
from detxai.metrics.stability import redone


@dataclass(frozen=True)
class Randomisation:
    """How much of the map is left when the model's weights are made random, from the head down to the input.

    In each stage a further part of the layers gets random weights, the head first; after the last stage all are random.
    The method is run again in each stage, for the same boxes. Needs ``Case.redo``.

    Two similarities are given, each averaged over the stages and after the last stage: SSIM, and the rank correlation
    without its sign, because a map that comes out upside down depends on the weights no better.

    It runs the user's own model, whose parameters point to other numbers meanwhile. Nothing is written to the model's
    own numbers, and the parameters point to them again afterwards, also after an exception.

    Args:
        n_stages: in how many parts the layers go.
        seed: of the random weights.

    Raises:
        ValueError: a setting is wrong.

    Source: Adebayo et al., 2018, Sanity checks for saliency maps (NeurIPS), cascading randomisation. Differs in the
    stages (parts of the layers, not single ones) and in the random weights: normal, with the mean and the standard
    deviation that the parameter had, so that the numbers behind it stay in range.
    """

    name: ClassVar[str] = "randomisation"
    quantities: ClassVar[Mapping[str, Quantity]] = {
        "randomised_correlation": Quantity("rank correlation, unsigned, mean over the stages", 0, 1, "lower", 0.0),
        "randomised_correlation_last": Quantity("the same when all weights are random", 0, 1, "lower", 0.0),
        "randomised_similarity": Quantity("SSIM of the heatmaps, mean over the stages", -1, 1, "lower"),
        "randomised_similarity_last": Quantity("the same when all weights are random", -1, 1, "lower"),
    }

    n_stages: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("n_stages", self.n_stages, 1)

    def __call__(self, case: Case) -> dict[str, Tensor]:
        if case.redo is None or not len(case):
            return {name: torch.full((len(case),), torch.nan, device=case.maps.device) for name in self.quantities}
        stages = cascade(case, self)
        correlation = torch.stack([rank_correlation(case.maps, maps).abs() for maps in stages])
        similarity = torch.stack([structural_similarity(case.maps, maps) for maps in stages])
        return {
            "randomised_correlation": correlation.mean(0),
            "randomised_correlation_last": correlation[-1],
            "randomised_similarity": similarity.mean(0),
            "randomised_similarity_last": similarity[-1],
        }


def cascade(case: Case, settings: Randomisation) -> list[Tensor]:
    """The maps (T, H, W) of each stage, more and more of the layers having lost their weights."""
    layers = layers_from_the_head(case.detector, case.image)
    ends = [round((stage + 1) * len(layers) / settings.n_stages) for stage in range(settings.n_stages)]
    maps = []
    for end in ends:  # a layer has the same random weights in every stage
        with randomised(layers[:end], settings.seed):
            maps.append(redone(case, case.image, 0))
    return maps


def layers_from_the_head(detector: Detector, image: Image) -> list[nn.Module]:
    """The modules that own parameters, in the order in which a pass first calls them, last first.

    Those that no pass calls (a head used in training only, parameters read by their parent) count with the head.
    """
    owners = [module for module in module_of(detector).modules() if module._parameters]
    called: list[nn.Module] = []
    with ExitStack() as hooks, torch.no_grad():
        for module in owners:
            hooks.callback(module.register_forward_pre_hook(lambda module, _: called.append(module)).remove)
        detector.candidates(image)
    in_order = list(dict.fromkeys(called))
    return [module for module in owners if module not in set(in_order)] + in_order[::-1]


@contextmanager
def randomised(layers: Sequence[nn.Module], seed: int) -> Iterator[None]:
    """These layers with random weights of the mean and standard deviation of their own; given back as they were.

    Args:
        layers: modules; the parameters they own themselves are changed, those of modules inside them are not.
        seed: of the weights; the n-th layer has the same ones whatever follows it.
    """
    parameters = dict.fromkeys(
        parameter for layer in layers for parameter in layer._parameters.values() if parameter is not None
    )
    own = [(parameter, parameter.data) for parameter in parameters if parameter.is_floating_point()]
    generator = torch.Generator().manual_seed(seed)  # drawn on the host: the same on every device
    try:
        for parameter, values in own:
            noise = torch.randn(values.shape, generator=generator).to(values)
            spread = values.float().std(correction=0).to(values)
            parameter.data = values.mean() + spread * noise
        yield
    finally:
        for parameter, values in own:
            parameter.data = values
