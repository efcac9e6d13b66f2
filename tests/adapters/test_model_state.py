"""A borrowed model comes back as it was: from two threads, from inference mode, with scripted parts."""

# mypy: disable-error-code="operator,has-type"
# TorchScript's compiler takes neither the annotations of buffers nor comments beside a line

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor, nn

import detxai
from detxai.adapters.borrowing import borrowed


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls return, each in a thread of its own, all started together."""
    answers: list[Any] = [None] * len(calls)
    together = threading.Barrier(len(calls))

    def run(place: int, call: Callable[[], Any]) -> None:
        together.wait()
        answers[place] = call()

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_two_threads_leave_the_model_as_it_was_and_get_the_answers_of_one() -> None:
    """Each with a wrapper of its own around the same model, which trains between the calls."""
    model = small_faster_rcnn().train()
    model.backbone.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    images = [photo(0), photo(1, 100, 100)]

    def ask(place: int) -> list[Tensor]:
        detector = detxai.wrap(model)
        answers = []
        for _ in range(3):
            found = detector.detect(images[place], 0.1)
            with torch.no_grad():
                seen = detector.candidates(images[place])
            answers += [found.boxes, found.scores, seen.boxes, seen.class_scores]
            answers.append(torch.from_numpy(detxai.EigenCAM()(detector, images[place])[0].values))
        return answers

    alone = [ask(0), ask(1)]
    together = in_threads(lambda: ask(0), lambda: ask(1))
    assert [module.training for module in model.modules()] == modes
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_thread_that_has_the_model_may_borrow_it_again() -> None:
    model = nn.Linear(2, 2).train()
    with borrowed(model):
        with borrowed(model):
            assert not model.training
        assert not model.training
    assert model.training


class Counts(nn.Module):
    """Notes every run in a buffer changed in place, in one put in anew, and in a number."""

    def __init__(self) -> None:
        super().__init__()
        self.written: Tensor  # not in the class: torch 2.6 cannot script an annotation that is text
        self.anew: Tensor
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("anew", torch.zeros(2))
        self.runs = 0
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.written.add_(1)
        self.anew = torch.add(self.anew, 1)
        return self.norm(x)


def notes(model: Any) -> list[Any]:
    return [model.runs, model.written.tolist(), model.anew.tolist(), model.training, model.norm.training]


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still what people have
        return nn.Sequential(nn.BatchNorm2d(3), torch.jit.script(Counts()))


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.BatchNorm2d(3), Counts())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("make", [scripted, made_in_inference_mode, lambda: nn.Sequential(nn.BatchNorm2d(3), Counts())])
def test_what_a_model_notes_of_itself_is_put_back(make: Callable[[], Any], fails: bool) -> None:
    model = make().train()
    outside = torch.inference_mode if make is made_in_inference_mode else torch.no_grad
    with outside():
        model(torch.rand(1, 3, 4, 4))
    before, state = notes(model[1]), {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt) if fails else torch.no_grad(), borrowed(model):
        assert not model[0].training
        assert not model[1].training
        with outside():
            model(torch.rand(1, 3, 4, 4))
        assert model[1].runs == before[0] + 1
        if fails:
            raise KeyboardInterrupt
    assert notes(model[1]) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_traced_part_is_put_back_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = nn.Sequential(torch.jit.trace(nn.BatchNorm2d(3).train(), torch.rand(2, 3, 4, 4))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with borrowed(model):
        model(torch.rand(2, 3, 4, 4))  # traced while training: it goes on counting
        assert not torch.equal(model[0].running_mean, before["0.running_mean"])
    assert model[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_computed_in_inference_mode_can_be_asked_for_gradients_later() -> None:
    detector = detxai.wrap(small_faster_rcnn())
    with torch.inference_mode():
        features = detector.features(photo())
    levels = {name: level.requires_grad_() for name, level in features.levels.items()}
    score = detector.resume(features.with_levels(levels)).class_scores.amax()
    assert torch.autograd.grad(score, levels["backbone:fine"])[0].abs().sum() > 0
