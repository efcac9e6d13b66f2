"""Any callable from a list of images to detections is a detector."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor
from torchvision.ops import nms

import detxai
from detxai.adapters import GradCamView
from detxai.adapters.black_boxes.function import FunctionAdapter
from detxai.adapters.loading import load_detector
from detxai.cli import main
from detxai.detections import Candidates, Detections
from detxai.engine.masking.canvas import Canvas
from detxai.engine.masking.soft.masks import RiseMasks
from detxai.formats import to_coco_results, to_torchvision, to_ultralytics
from detxai.targets import BoxScoreTarget, ClassScoreTarget, SimilarityTarget, score_targets

Arrays = list[npt.NDArray[np.uint8]]
NETWORK = small_faster_rcnn()
PHOTO = (photo().permute(1, 2, 0) * 255).to(torch.uint8).numpy()
LEFT, RIGHT = [2.0, 1.0, 6.0, 5.0], [10.0, 2.0, 14.0, 8.0]
NAN = float("nan")


def faster_rcnn(images: Arrays) -> list[dict[str, Tensor]]:
    """A black box around a PyTorch network, as a user writes it: without no_grad."""
    return NETWORK([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images])


def two_lamps(images: Arrays) -> list[Detections]:
    """Reports a lamp where it is lit, as sure of it as it is bright; one closed formula a box."""
    answers = []
    for image in images:
        levels = [float(image[int(y1) : int(y2), int(x1) : int(x2)].mean()) / 255 for x1, y1, x2, y2 in (LEFT, RIGHT)]
        lit = [i for i in (0, 1) if levels[i] > 0]
        answers.append(Detections([(LEFT, RIGHT)[i] for i in lit], [levels[i] for i in lit], [(3, 7)[i] for i in lit]))
    return answers


def white(height: int = 10, width: int = 16) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 255, dtype=np.uint8)


def test_detects_what_the_function_reports() -> None:
    detector = detxai.wrap(faster_rcnn, class_names=["-", "a", "b", "c", "d"])
    expected = detxai.wrap(NETWORK, class_names=["-", "a", "b", "c", "d"]).detect(PHOTO, 0.1)
    found = detector.detect(PHOTO, 0.1)
    assert isinstance(detector, FunctionAdapter)
    assert len(found) > 1
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert not found.scores.requires_grad
    assert [found.name(i) for i in range(len(found))] == [expected.name(i) for i in range(len(expected))]


def test_masks_the_images_that_the_function_sees() -> None:
    seen: Arrays = []

    def recorder(images: Arrays) -> list[Detections]:
        seen.extend(images)
        return [Detections([], [], [])] * len(images)

    canvas = Canvas.with_fill(detxai.wrap(recorder), PHOTO, "black")
    keep = torch.rand(3, *PHOTO.shape[:2], generator=torch.Generator().manual_seed(0))
    candidates = detxai.wrap(recorder).candidates(canvas.inputs(keep))
    assert [(image.dtype, image.shape, image.flags["C_CONTIGUOUS"]) for image in seen] == [
        (np.dtype(np.uint8), PHOTO.shape, True)
    ] * 3
    for image, share in zip(seen, keep.numpy(), strict=True):
        assert np.abs(image - PHOTO * share[..., None]).max() <= 0.51
    assert len(candidates) == 3
    assert score_targets(SimilarityTarget.of(Detections([LEFT], [0.9], [1])), candidates).tolist() == [[0, 0, 0]]


def test_every_pixel_value_survives_the_way_and_the_users_array_every_function() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    before = values.copy()
    seen: Arrays = []

    def scribbler(images: Arrays) -> list[Detections]:
        seen.append(images[0].copy())
        images[0][:] = 0
        return [Detections([], [], [])]

    detxai.wrap(scribbler).detect(values)
    assert np.array_equal(seen[0], before)
    assert np.array_equal(values, before)


def test_scores_under_masks_equal_the_closed_formula() -> None:
    detector = detxai.wrap(two_lamps)
    canvas = Canvas.with_fill(detector, white(), "black")
    keep = torch.ones(3, 10, 16)
    keep[1, :, :8] = 0  # the left lamp is out
    keep[2, :, 8:] = 0.4
    candidates = detector.candidates(canvas.inputs(keep))
    detections = detector.detect(white())
    shown = float((torch.tensor(0.4) * 255).round() / 255)
    assert candidates.final
    assert candidates.boxes.shape == (3, 2, 1, 4)
    assert torch.allclose(
        score_targets(SimilarityTarget.of(detections), candidates), torch.tensor([[1, 0, 1], [1, 1, shown]])
    )
    assert torch.allclose(
        score_targets(BoxScoreTarget.of(detections), candidates), torch.tensor([[2, 0, 2], [2, 2, 1 + shown]])
    )


def test_a_batch_scores_as_its_images_do_one_by_one() -> None:
    detector = detxai.wrap(faster_rcnn)
    canvas = Canvas.with_fill(detector, PHOTO, "mean")
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(5, 1, 4, 6, generator=generator)
    keep = torch.nn.functional.interpolate(coarse, PHOTO.shape[:2], mode="bilinear")[:, 0]
    detections = detector.detect(PHOTO, 0.1)
    targets = [*SimilarityTarget.of(detections), *BoxScoreTarget.of(detections), *ClassScoreTarget.of(detections)]
    together = score_targets(targets, detector.candidates(canvas.inputs(keep)))
    single = [score_targets(targets, detector.candidates(canvas.inputs(one[None]))) for one in keep]
    assert torch.allclose(together, torch.cat(single, 1), atol=1e-6)
    assert float(together.std(1).max()) > 0.01
    (output,) = faster_rcnn([PHOTO])
    clean = score_targets(targets, detector.candidates(PHOTO))[:, 0]
    assert torch.allclose(clean, torch.stack([target(output) for target in targets]), atol=1e-6)


def test_the_function_is_called_once_a_batch() -> None:
    calls: list[int] = []

    def counter(images: Arrays) -> list[Detections]:
        assert not torch.is_grad_enabled()
        calls.append(len(images))
        return two_lamps(images)

    detector = detxai.wrap(counter)
    canvas = Canvas.with_fill(detector, white())
    assert calls == []
    detector.candidates(canvas.inputs(torch.ones(4, 10, 16)))
    assert calls == [4]
    assert torch.is_grad_enabled()


def test_images_of_several_sizes_are_shown_without_their_padding() -> None:
    sizes: list[tuple[int, ...]] = []

    def recorder(images: Arrays) -> list[Detections]:
        sizes.extend(image.shape for image in images)
        assert all(int(image.min()) == 255 for image in images)
        return two_lamps(images)

    inputs = detxai.wrap(recorder).prepare([white(), white(12, 20)])
    assert inputs.tensor.shape == (2, 3, 12, 20)
    assert len(detxai.wrap(recorder).candidates(inputs)) == 2
    assert sizes == [(10, 16, 3), (12, 20, 3)]


FOUND = Detections([LEFT, RIGHT], [0.9, 0.4], [3, 7], {3: "cat", 7: "dog"})
AS_LISTS = {"boxes": [LEFT, RIGHT], "scores": [0.9, 0.4], "labels": [3, 7]}
FORMS: dict[str, Any] = {
    "detxai": FOUND,
    "torchvision": to_torchvision(FOUND),
    "torchvision with gradients": {**to_torchvision(FOUND), "scores": FOUND.scores.clone().requires_grad_()},
    "lists, as JSON has them": AS_LISTS,
    "arrays": {name: np.asarray(values) for name, values in AS_LISTS.items()},
    "COCO records": to_coco_results(FOUND, image_id=1),
    "supervision": SimpleNamespace(
        xyxy=FOUND.boxes.numpy(), confidence=FOUND.scores.numpy(), class_id=FOUND.labels.numpy()
    ),
    "final candidates": Candidates.from_output(FOUND),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_an_answer(form: str) -> None:
    detector = detxai.wrap(lambda images: [FORMS[form]] * len(images))
    found = detector.detect(white(), 0.1)
    assert torch.equal(found.boxes, FOUND.boxes)
    assert torch.equal(found.scores, FOUND.scores)
    assert torch.equal(found.labels, FOUND.labels)
    assert detector.detect(white(), 0.5).labels.tolist() == [3]
    candidates = detector.candidates([white(), white()])
    assert (candidates.final, candidates.boxes.shape, candidates.class_scores.requires_grad) == (
        True, (2, 2, 1, 4), False
    )  # fmt: skip
    assert torch.allclose(score_targets(SimilarityTarget.of(FOUND), candidates), FOUND.scores[:, None])


def test_ultralytics_results_are_an_answer() -> None:
    pytest.importorskip("ultralytics")
    found = detxai.wrap(lambda images: [to_ultralytics(FOUND, image) for image in images]).detect(white())
    assert [found.name(i) for i in range(2)] == ["cat", "dog"]
    assert torch.equal(found.boxes, FOUND.boxes)


def test_a_yolos_own_predict_is_a_function() -> None:
    pytest.importorskip("ultralytics")
    from yolo_seeded import bus, differences, predicted, seeded

    yolo = seeded("v8")
    detector = detxai.wrap(
        lambda images: yolo.predict([image[..., ::-1] for image in images], conf=0.05, verbose=False)
    )
    found = detector.detect(bus())
    assert len(found) >= 3
    assert max(differences(predicted(yolo, bus()), found)) <= 1e-4
    candidates = detector.candidates([bus(), bus()])
    assert torch.equal(candidates.boxes[0], candidates.boxes[1])
    assert int((candidates.objectness[0] > 0).sum()) > len(found)


def test_names_given_go_before_names_in_the_answers() -> None:
    def named(images: Arrays) -> list[Detections]:
        return [FOUND] * len(images)

    assert detxai.wrap(named).detect(white()).class_names == {3: "cat", 7: "dog"}
    assert detxai.wrap(named, class_names={3: "lion"}).detect(white()).class_names == {3: "lion", 7: "dog"}
    named.class_names = ["a", "b", "c", "tiger"]  # type: ignore[attr-defined]
    assert detxai.wrap(named).detect(white()).name(0) == "tiger"


def test_short_answers_are_filled_up() -> None:
    answers = [FOUND, Detections([], [], []), FOUND[1]]
    candidates = detxai.wrap(lambda images: answers).candidates([white()] * 3)
    assert candidates.objectness.tolist() == [pytest.approx([0.9, 0.4]), [0, 0], pytest.approx([0.4, 0])]
    assert candidates.labels.tolist() == [3, 7]
    assert candidates.class_scores[2].tolist() == [pytest.approx([0, 0.4]), [0, 0]]


NEAR = [2.0, 1.0, 6.0, 4.5]  # IoU 0.875 with LEFT
EARLY: dict[str, Any] = {
    "boxes": [LEFT, NEAR, RIGHT],
    "class_scores": [[0.8, 0.1], [0.6, 0.3], [0.2, 0.4]],
    "objectness": [0.9, 0.7, 0.5],
    "classes": [3, 7],
}


def test_candidates_before_suppression() -> None:
    detector = detxai.wrap(lambda images: [EARLY] * len(images))
    candidates = detector.candidates([white(), white()])
    assert not candidates.final
    assert candidates.boxes.shape == (2, 3, 1, 4)
    target = SimilarityTarget(NEAR, 3)
    by_hand = [
        iou * objectness * scores[0] / float(np.hypot(*scores))
        for iou, objectness, scores in zip([0.875, 1, 0], EARLY["objectness"], EARLY["class_scores"])
    ]
    assert score_targets([target], candidates).tolist() == [pytest.approx([max(by_hand)] * 2)]
    with pytest.raises(ValueError, match=r"label must be one of .* got \[5\]"):
        score_targets([SimilarityTarget(NEAR, 5), ClassScoreTarget(NEAR, 5)], candidates)


def test_candidates_are_suppressed_by_class_to_be_detections() -> None:
    found = detxai.wrap(lambda images: [EARLY] * len(images)).detect(white(), 0.3)
    assert found.boxes.tolist() == [LEFT, RIGHT]
    assert (found.labels.tolist(), found.scores.tolist()) == ([3, 7], pytest.approx([0.8, 0.4]))

    scores = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    corners = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) * 8
    boxes = torch.cat([corners, corners + 6], 1)
    found = detxai.wrap(lambda images: [{"boxes": boxes, "class_scores": scores}]).detect(white(), 0.5)
    expected = []
    for label in range(4):  # the slow way: class by class
        mine = ((scores.argmax(1) == label) & (scores.amax(1) > 0.5)).nonzero().flatten()
        expected += [(label, *boxes[i].tolist()) for i in mine[nms(boxes[mine], scores[mine, label], 0.5)]]
    assert sorted((int(label), *box.tolist()) for label, box in zip(found.labels, found.boxes)) == sorted(expected)
    assert 0 < len(expected) < 60


def test_candidates_with_a_box_for_each_class() -> None:
    boxes = [[LEFT, RIGHT], [RIGHT, LEFT]]
    detector = detxai.wrap(lambda images: [{"boxes": boxes, "class_scores": [[0.1, 0.9], [0.2, 0.7]]}] * len(images))
    assert detector.candidates(white()).boxes.shape == (1, 2, 2, 4)
    assert detector.detect(white()).boxes.tolist() == [RIGHT, LEFT]
    scores = score_targets([ClassScoreTarget(LEFT, 0), ClassScoreTarget(LEFT, 1)], detector.candidates(white()))
    assert scores.flatten().tolist() == pytest.approx([0.1, 0.7])


def test_candidates_of_no_boxes() -> None:
    nothing: list[dict[str, Any]] = [{"boxes": [], "class_scores": []}, {"boxes": np.zeros((0, 4)), "class_scores": []}]
    candidates = detxai.wrap(lambda images: [nothing[0], EARLY, nothing[1]]).candidates([white()] * 3)
    scores = score_targets([ClassScoreTarget(LEFT, 3)], candidates)
    assert scores.tolist() == [pytest.approx([0, 0.8, 0])]
    empty = detxai.wrap(lambda images: nothing).candidates([white()] * 2)
    assert score_targets([ClassScoreTarget(LEFT, 3)], empty).tolist() == [[0, 0]]
    assert len(detxai.wrap(lambda images: nothing[:1]).detect(white())) == 0


def test_a_networks_own_candidates_say_the_same_through_a_function() -> None:
    inside = detxai.wrap(NETWORK)

    def early(images: Arrays) -> list[Candidates]:
        return list(inside.candidates(images))

    targets = SimilarityTarget.of(inside.detect(PHOTO, 0.1))
    expected = score_targets(targets, inside.candidates([PHOTO, PHOTO[::-1].copy()]))
    through = score_targets(targets, detxai.wrap(early).candidates([PHOTO, PHOTO[::-1].copy()]))
    assert torch.allclose(through, expected, atol=1e-6)
    assert float(expected.detach().std()) > 0.01


ANSWERS: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": (None, TypeError, "must return a list with an answer for each of 2 image.*NoneType"),
    "one for all": (AS_LISTS, TypeError, "must return a list .* got dict"),
    "too few": ([FOUND], ValueError, r"an answer for each of 2 image\(s\), got 1"),
    "too many": ([FOUND] * 3, ValueError, "got 3"),
    "no kind": ([FOUND, 7], TypeError, r"answers\[1\] of 2: an answer must be Detections.*; got int"),
    "an array": ([np.zeros((3, 6))] * 2, TypeError, r"answers\[0\] .*got ndarray of shape \(3, 6\)"),
    "a session's outputs": ([[np.zeros((3, 4)), np.zeros(3)]] * 2, TypeError, "got a list of ndarray"),
    "no scores": ([FOUND, {"boxes": [], "labels": []}], ValueError, r"answers\[1\] .*boxes, scores and labels.*got \["),
    "boxes of five": ([FOUND, {**AS_LISTS, "boxes": [[1] * 5] * 2}], ValueError, r"answers\[1\] .*\(N, 4\), got"),
    "ragged boxes": ([{**AS_LISTS, "boxes": [[1], [1, 2]]}, FOUND], ValueError, r"answers\[0\] of 2: "),
    "boxes of words": ([{**AS_LISTS, "boxes": "ab"}, FOUND], TypeError, r"answers\[0\] of 2: "),
    "NaN": ([FOUND, {**AS_LISTS, "scores": [NAN, 0]}], ValueError, r"answers\[1\] of 2: scores must be finite"),
    "percent": ([{**AS_LISTS, "scores": [90, 40]}, FOUND], ValueError, r"answers\[0\] of 2: scores must lie in"),
    "xywh": ([{**AS_LISTS, "boxes": [[9, 9, 4, 4]] * 2}] * 2, ValueError, "boxes must be xyxy"),
    "COCO without boxes": ([[{"id": 1}], []], ValueError, r"answers\[0\] of 2: records\[0\] must have bbox"),
    "class_scores alone": ([{"class_scores": [[1]]}] * 2, ValueError, r"must have boxes.*\['class_scores'\]"),
    "both at once": ([{**EARLY, "scores": [1, 1, 1]}] * 2, ValueError, "has no scores and labels"),
    "flat class_scores": ([{**EARLY, "class_scores": [1, 1, 1]}] * 2, ValueError, r"\(N, C\), got \(3,\)"),
    "too few boxes": ([{**EARLY, "boxes": [LEFT]}] * 2, ValueError, r"\(3, 4\) or \(3, 2, 4\).*got \(1, 4\)"),
    "objectness": ([{**EARLY, "objectness": [1]}] * 2, ValueError, r"objectness must have shape \(3,\).*got \(1,\)"),
    "logits": ([{**EARLY, "objectness": [-2, 3, 1]}] * 2, ValueError, r"objectness must be prob.*got -2 to 3"),
    "candidates NaN": ([{**EARLY, "boxes": [[NAN] * 4] * 3}] * 2, ValueError, "boxes must be finite"),
    "candidates xywh": ([{**EARLY, "boxes": [[9, 9, 4, 4]] * 3}] * 2, ValueError, "boxes must be xyxy"),
    "classes": ([{**EARLY, "classes": [1.5, 2]}] * 2, ValueError, "classes must be 2 class numbers.*float"),
    "Candidates of two": ([Candidates.from_output(FOUND), None], TypeError, r"answers\[1\] of 2.*NoneType"),
    "some suppressed": ([EARLY, FOUND], ValueError, r"candidates in answers\[0\] and detections in answers\[1\]"),
    "other classes": ([EARLY, {**EARLY, "classes": [3, 8]}], ValueError, r"same classes .*2 and 1 in answers\[1\]"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answers_that_are_none(case: str) -> None:
    answer, error, message = ANSWERS[case]
    with pytest.raises(error, match=message):
        detxai.wrap(lambda images: answer).candidates([white(), white()])


def test_d_rise_of_a_function_converges_to_what_is_known_in_closed_form() -> None:
    detector = detxai.wrap(two_lamps)
    method = detxai.DRISE(n_masks=1000, seed=0, grid=(5, 8))
    vertical, horizontal = RiseMasks((10, 16), (5, 8)).kernels
    for explanation, (x1, y1, x2, y2) in zip(method(detector, white(), detector.detect(white())), (LEFT, RIGHT)):
        # the score is the mean of the mask over the lamp: its slope on a pixel is a mean of the masks' own
        rows, columns = slice(int(y1), int(y2)), slice(int(x1), int(x2))
        expected = torch.outer(
            vertical[rows].mean(0) / vertical.diagonal(), horizontal[columns].mean(0) / horizontal.diagonal()
        )
        assert np.abs(explanation.values - expected.numpy()).max() < 0.02
        assert float(expected.max()) > 0.4
        assert explanation.model["family"] == "function"


def test_d_rise_sees_no_difference_between_a_network_and_a_function_around_it() -> None:
    inside = detxai.wrap(small_faster_rcnn(min_size=PHOTO.shape[0], max_size=PHOTO.shape[1]))  # input = image
    detections = inside.detect(PHOTO, 0.1)[:3]
    method = detxai.DRISE(n_masks=64, seed=0, batch_size=8, grid=5)
    around = detxai.wrap(lambda images: list(inside.candidates(images)))
    maps = [np.stack([one.values for one in method(each, PHOTO, detections)]) for each in (inside, around)]
    # the function sees whole levels of grey, the network the masked image to the last bit
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.99


def test_what_the_function_raises_comes_through() -> None:
    class DownError(Exception):
        pass

    down = DownError("503")

    def service(images: Arrays) -> list[Detections]:
        raise down

    with pytest.raises(DownError) as caught:
        detxai.wrap(service).detect(white())
    assert caught.value is down
    assert torch.is_grad_enabled()


def test_what_needs_the_network_is_refused() -> None:
    detector: Any = detxai.wrap(two_lamps)
    calls: list[Any] = [
        lambda: detector.features(white()),
        lambda: detector.resume(None),
        lambda: detector.default_layers,
        lambda: detector.reshape_transform,
        lambda: detector.model,
        lambda: detxai.explain(two_lamps, white(), "eigen_cam"),
        lambda: detxai.explain(two_lamps, white(), "ablation_cam"),
        lambda: GradCamView(detector, white()),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"two_lamps is a plain function: .* d_rise needs none"):
            call()


def test_wrap_takes_what_can_be_called_and_is_no_class() -> None:
    class Engine:
        def __call__(self, images: Arrays) -> list[Detections]:
            return two_lamps(images)

        def run(self, images: Arrays) -> list[Detections]:
            return two_lamps(images)

    for function, name in (
        (Engine(), "Engine"),
        (Engine().run, "Engine.run"),
        (functools.partial(two_lamps), "two_lamps"),
        (lambda images: two_lamps(images), "<lambda>"),
    ):
        detector = detxai.wrap(function)
        assert len(detector.detect(white())) == 2
        record = detector.describe()
        assert (record["family"], record["model"].endswith(name), record["n_classes"]) == ("function", True, 0)
    with pytest.raises(TypeError, match=r"model must be .*a function from a list of images.*got the class .*Engine"):
        detxai.wrap(Engine)
    with pytest.raises(TypeError, match=r"model must be .*Linear"):
        detxai.wrap(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"function must be callable .*got the class .*Engine"):
        FunctionAdapter(Engine)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="class_names"):
        detxai.wrap(two_lamps, class_names=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="score_threshold"):
        detxai.wrap(two_lamps).detect(white(), 25)


@pytest.fixture
def service(tmp_path: Path) -> str:
    """``file.py:build``, whose factory returns a function."""
    lines = (
        "import numpy as np",
        "CLASS_NAMES = {3: 'lamp'}",
        "def detect(images):",
        "    shine = [float(image[1:5, 2:6].mean()) / 255 for image in images]",
        "    return [{'boxes': [[2, 1, 6, 5]], 'scores': [score], 'labels': [3]} for score in shine]",
        "def build():",
        "    return detect",
    )
    (tmp_path / "service.py").write_text("\n".join(lines) + "\n")
    PIL.Image.fromarray(white()).save(tmp_path / "white.png")
    return f"{tmp_path / 'service.py'}:build"


def test_a_factory_may_return_a_function(service: str) -> None:
    found = load_detector(service).detect(white())
    assert (found.boxes.tolist(), found.name(0)) == ([LEFT], "lamp")


def test_the_command_line_explains_a_function(service: str, tmp_path: Path, capsys: Any) -> None:
    arguments = ["--model", service, "--method", "d_rise", "--out", str(tmp_path / "out"), "--set", "n_masks=50"]
    assert main(["explain", str(tmp_path / "white.png"), *arguments, "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["images"]
    assert summary["model"] == {"family": "function", "model": "service.detect", "n_classes": 1}
    assert [entry["name"] for entry in summary["detections"]] == ["lamp"]
    values = np.load(tmp_path / "out" / "white" / "00_lamp.npz")["values"]
    assert values.shape == (10, 16)
    assert values[1:5, 2:6].mean() > 5 * np.abs(values[:, 10:]).mean()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--method", "eigen_cam"], "service.detect is a plain function: it has no layers"),
        (["--method", "ablation_cam"], "service.detect is a plain function: it has no layers"),
        (["--method", "eigen_cam", "--device", "cpu"], "decides itself where it runs"),
    ],
)
def test_the_command_line_says_what_does_not_work(
    service: str, extra: list[str], message: str, tmp_path: Path, capsys: Any
) -> None:
    code = main(["explain", str(tmp_path / "white.png"), "--model", service, "--out", str(tmp_path / "out"), *extra])
    printed = capsys.readouterr()
    assert (code, message in printed.err, "Traceback" in printed.err) == (2, True, False), printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "answer",
    [
        {"boxes": [[0.1, 0.2, 0.5, 0.9], [-0.1, 0.0, 1.1, 1.0]], "scores": [0.9, 0.5], "labels": [1, 2]},
        {"boxes": [[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 0.0, 0.0]], "class_scores": [[0.9], [0.0]]},
    ],
)
def test_boxes_in_shares_of_the_image_are_refused(answer: Any) -> None:
    detector = detxai.wrap(lambda images: [answer for _ in images])
    for ask in (detector.detect, detector.candidates):
        with pytest.raises(ValueError, match="boxes must be in pixels of the image, 40 x 30, got coordinates up to"):
            ask(white(30, 40))


@pytest.mark.parametrize("boxes", [[[0, 0, 0, 0]], [[0, 0, 2, 1]], [[0.2, 0.2, 0.6, 0.6], [3, 4, 9, 9]]])
def test_boxes_of_no_area_and_small_boxes_are_in_pixels(boxes: list[list[float]]) -> None:
    answer = {"boxes": boxes, "scores": [0.9] * len(boxes), "labels": [1] * len(boxes)}
    assert len(detxai.wrap(lambda images: [answer]).detect(white(30, 40))) == len(boxes)


def test_a_list_of_names_is_of_every_class() -> None:
    answer = {"boxes": [[0, 0, 9, 9]], "scores": [0.9], "labels": [2]}
    columns = {"boxes": [[0, 0, 9, 9]], "class_scores": [[0.1, 0.9, 0.2]]}
    for one, names in ((answer, ["cat", "dog"]), (columns, ["-", "cat", "dog", "ape"])):
        with pytest.raises(ValueError, match=f"class_names must name every label, got {len(names)} names"):
            detxai.wrap(lambda images, one=one: [one], class_names=names).detect(white(30, 40))
    assert detxai.wrap(lambda images: [answer], class_names={0: "cat"}).detect(white(30, 40)).name(0) == "2"
    assert (
        detxai.wrap(lambda images: [columns], class_names=["cat", "dog", "ape"]).detect(white(30, 40)).name(0) == "dog"
    )
