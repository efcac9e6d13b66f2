"""Which activations lie between the image and a box's score: where Captum's rules for them apply, and where not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from detxai.methods.from_captum.joint_gradients import BoxQuery

log = logging.getLogger(__name__)

RELU_FUNCTIONS: set[Callable[..., Any]] = {
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
    nn.functional.relu,
    nn.functional.relu_,
}
# what Captum's DeepLift has a rule for, by its exact type; anything else that it meets it takes for linear
RESCALED = (
    nn.ReLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Softmax,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
)


@dataclass(eq=False)
class Activation:
    """An activation or pooling module on the way from the image to a score.

    Attributes:
        name: as in ``model.named_modules()``.
        kind: its type.
        has_backward_hook: of its owner's.
        outputs: what it put out in one pass, each time that it ran.
    """

    name: str
    kind: type[nn.Module]
    has_backward_hook: bool
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def words(self) -> str:
        return f"{self.name} ({self.kind.__name__})"


def check_relus(method: str, query: BoxQuery) -> None:
    """Raise ``ValueError`` where no ReLU that is a module lies on the way; note, and log, those that are functions."""
    used, n_functions = activations_on_the_way(query, query.clean.tensor)
    relus = [one for one in used if issubclass(one.kind, nn.ReLU)]
    if not relus:
        kinds = sorted({one.kind.__name__ for one in used}) or ["no activation module"]
        raise ValueError(
            f"{method} changes how gradients pass ReLU modules, and {_model(query)} has none between the image and the "
            f"score, but {', '.join(kinds)}; saliency and integrated_gradients need none"
        )
    check_most_are_modules(method, query, sum(len(one.outputs) for one in relus), n_functions)
    query.notes.update(relu_modules=len(relus), relu_functions=n_functions)
    if n_functions:
        log.warning(
            "%s: Captum changes %d ReLU module(s) of %s, and leaves as they are %d ReLU(s) called as functions",
            method, len(relus), _model(query), n_functions,
        )  # fmt: skip


def check_rescale_rule(method: str, query: BoxQuery, baseline: Tensor) -> None:
    """Raise ``ValueError`` where Captum's DeepLift would treat an activation on the way otherwise than by its rule."""
    used, n_functions = activations_on_the_way(query, query.clean.tensor)
    problem = None
    unknown = [one for one in used if one.kind not in RESCALED]
    again = [one for one in used if len(one.outputs) > 1]
    hooked = [one for one in used if one.has_backward_hook]
    if not used:
        problem = "no activation module lies between the image and the score"
    elif unknown:
        problem = f"Captum has no rule for {unknown[0].words}, and would take it for linear"
    elif again:
        problem = f"{again[0].words} runs {len(again[0].outputs)} times in one pass, and Captum keeps one of them"
    elif hooked:
        problem = f"{hooked[0].words} has a backward hook, beside which Captum places none"
    else:
        pairs, _ = activations_on_the_way(query, torch.cat([query.clean.tensor, baseline]))
        rows = {one.name: len(one.outputs[0]) for one in used}
        for one in pairs:
            if len(one.outputs[0]) != 2 * rows.get(one.name, 0):
                problem = f"what {one.words} reads is not the image's part and then the baseline's"
        check_most_are_modules(method, query, len(used), n_functions)
    if problem is not None:
        raise ValueError(
            f"{method} would give a wrong result without an error on {_model(query)}: {problem}; "
            "integrated_gradients needs no activation modules"
        )


def check_most_are_modules(method: str, query: BoxQuery, n_modules: int, n_functions: int) -> None:
    """Raise ``ValueError`` where more ReLUs run as functions than as modules: what came out would hardly be the method.

    A few are usual: torchvision's box head calls two.
    """
    if n_functions > n_modules:
        raise ValueError(
            f"{method} needs ReLUs that are modules, and {n_functions} of the {n_modules + n_functions} that run in "
            f"{_model(query)} are called as functions, which Captum cannot change; saliency and "
            "integrated_gradients need none"
        )


def activations_on_the_way(query: BoxQuery, images: Tensor) -> tuple[list[Activation], int]:
    """The activation modules through which a gradient of the scores passes, and how many ReLUs run as functions.

    Args:
        query: the boxes.
        images: (B, 3, h, w) what the detector is shown.
    """
    ran: list[Activation] = []
    functions = _FunctionalReLUs()
    with query.detector.borrowed(), ExitStack() as hooks:
        for name, module in query.detector.model.named_modules():
            if not _is_activation(module):
                continue
            activation = Activation(name, type(module), bool(module._backward_hooks))
            ran.append(activation)

            def keep(module: nn.Module, given: Any, output: Any, activation: Activation = activation) -> None:
                functions.in_modules -= 1
                if isinstance(output, Tensor) and output.requires_grad:
                    activation.outputs.append(output)

            def enter(module: nn.Module, given: Any) -> None:
                functions.in_modules += 1

            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(keep).remove)
        with torch.enable_grad(), functions:
            score = query.scores(images.clone().requires_grad_()).sum()
        outputs = [output for one in ran for output in one.outputs]
        gradients = torch.autograd.grad(score, outputs, allow_unused=True) if outputs else ()
    passed = {id(output) for output, gradient in zip(outputs, gradients, strict=True) if gradient is not None}
    return [one for one in ran if any(id(output) in passed for output in one.outputs)], functions.n


class _FunctionalReLUs(TorchFunctionMode):
    """Counts the ReLUs that are called outside of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0
        self.in_modules = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in RELU_FUNCTIONS and self.in_modules == 0:
            self.n += 1
        return func(*args, **(kwargs or {}))


def _is_activation(module: nn.Module) -> bool:
    known = isinstance(module, RESCALED) or type(module).__module__ == "torch.nn.modules.activation"
    return known and not isinstance(module, torch.jit.ScriptModule)


def _model(query: BoxQuery) -> str:
    return type(query.detector.model).__name__
