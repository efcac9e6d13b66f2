"""What a layer puts out is what it put out, whatever writes into it afterwards: held against plain hooks."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from faster_rcnns import photo, small_faster_rcnn
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import detxai
from detxai.adapters.layers import capture, copied
from detxai.adapters.network import NetworkDetector
from detxai.detections import Candidates
from detxai.targets import ClassScoreTarget


def resnet() -> tuple[NetworkDetector, str]:
    """Behind each ``bn2`` of a ResNet an addition writes into its output, and a ReLU into that."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        model = FasterRCNN(backbone, num_classes=4, min_size=96, max_size=128, box_score_thresh=0.01)
    return detxai.wrap(model.eval()), "backbone.body.layer1.0.bn2"


def head_that_writes() -> tuple[NetworkDetector, str]:
    model = small_faster_rcnn()
    model.rpn.head.conv.insert(0, nn.ReLU(inplace=True))
    return detxai.wrap(model), "backbone"


def yolo() -> tuple[NetworkDetector, str]:
    """Layer 16 of a YOLOv8 reads layer 15, which the head reads too, and now writes into it first."""
    pytest.importorskip("ultralytics")
    import copy

    from yolo_seeded import SIZE, seeded

    from detxai.adapters.ultralytics.yolo import YOLOAdapter

    model = copy.deepcopy(seeded("v8").model)
    layer = model.model[16]
    writing = nn.Sequential(nn.ReLU(inplace=True), layer)
    for name in ("i", "f", "type", "np"):
        setattr(writing, name, getattr(layer, name))
    model.model[16] = writing
    return YOLOAdapter(model, input_size=SIZE), "model.15"


def yolo_head_that_writes() -> tuple[NetworkDetector, str]:
    """The box branch of the first level writes into what the class branch reads next."""
    pytest.importorskip("ultralytics")
    import copy

    from yolo_seeded import SIZE, seeded

    from detxai.adapters.ultralytics.yolo import YOLOAdapter

    model = copy.deepcopy(seeded("v8").model)
    model.model[-1].cv2[0].insert(0, nn.ReLU(inplace=True))
    return YOLOAdapter(model, input_size=SIZE), "model.15"


@pytest.fixture(params=[resnet, head_that_writes, yolo, yolo_head_that_writes], ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest) -> tuple[NetworkDetector, str]:
    made: tuple[NetworkDetector, str] = request.param()
    return made


def put_out(detector: NetworkDetector, layer: str, image: Any) -> list[Tensor]:
    """The layer's tensors, by a plain hook on the model."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        seen.extend(t.clone() for t in (output.values() if isinstance(output, dict) else [output]))

    handle = detector.model.get_submodule(layer).register_forward_hook(keep)
    with torch.no_grad():
        detector.candidates(image)
    handle.remove()
    return seen


def with_half(detector: NetworkDetector, layer: str, image: Any) -> Candidates:
    """The candidates where the layer puts out half of what it does, by a plain hook on the model."""

    def halve(module: nn.Module, given: Any, output: Any) -> Any:
        return type(output)((k, v / 2) for k, v in output.items()) if isinstance(output, dict) else output / 2

    handle = detector.model.get_submodule(layer).register_forward_hook(halve)
    with torch.no_grad():
        candidates = detector.candidates(image)
    handle.remove()
    return candidates


def test_features_are_what_the_layer_put_out(case: tuple[NetworkDetector, str]) -> None:
    detector, layer = case
    features = detector.features(photo(), layer)
    for ours, theirs in zip(features.levels.values(), put_out(detector, layer, photo()), strict=True):
        assert torch.equal(ours, theirs)


def test_resuming_is_the_full_pass_and_leaves_the_levels_alone(case: tuple[NetworkDetector, str]) -> None:
    detector, layer = case
    features = detector.features(photo(), layer)
    expected = with_half(detector, layer, photo())
    given = {name: level / 2 for name, level in features.levels.items()}
    before = {name: level.clone() for name, level in given.items()}
    halved = features.with_levels(given)
    with torch.no_grad():
        for _ in range(2):
            resumed = detector.resume(halved)
            torch.testing.assert_close(resumed.boxes, expected.boxes, atol=1e-3, rtol=0)
            torch.testing.assert_close(resumed.class_scores, expected.class_scores, atol=1e-5, rtol=0)
            assert all(torch.equal(level, before[name]) for name, level in given.items())
        two = features.with_levels({name: level.repeat(2, 1, 1, 1) / 2 for name, level in features.levels.items()})
        torch.testing.assert_close(detector.resume(two).class_scores[1], expected.class_scores[0], atol=1e-3, rtol=0)


def test_layer_cam_is_of_what_the_layer_put_out() -> None:
    """Gradient times feature, both taken before the addition that writes into the layer's output."""
    detector, layer = resnet()
    found = detector.detect(photo(), 0)[:1]
    inputs = detector.prepare(photo())
    own: list[Tensor] = []

    def pass_on(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        own.append(output.detach().requires_grad_())
        return own[0] * 1

    handle = detector.model.get_submodule(layer).register_forward_hook(pass_on)
    score = ClassScoreTarget.of(found)[0](detector.candidates(inputs))
    handle.remove()
    (gradient,) = torch.autograd.grad(score, own[0])
    cells = (gradient[0].clamp(min=0) * own[0].detach()[0]).sum(0).clamp(min=0)
    expected = inputs.geometries[0].map_to_image(cells)
    (ours,) = detxai.LayerCAM(layers=layer)(detector, photo(), found)
    torch.testing.assert_close(torch.from_numpy(ours.values), expected, atol=1e-6, rtol=1e-4)


class PutsOutItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.through, self.relu = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        return x + self.relu(self.through(x))  # the ReLU writes into x as well


def test_with_gradients_a_layer_that_puts_out_its_own_input_is_refused_where_that_is_overwritten() -> None:
    model, x = PutsOutItsInput(), torch.tensor([-1.0, 2.0])
    with torch.no_grad(), capture(model, ["through"]) as outputs:
        answer = model(x)
    assert answer.tolist() == [0.0, 4.0]
    assert outputs["through"].tolist() == [-1.0, 2.0]
    with pytest.raises(ValueError, match="'through' outputs its own input"), capture(model, ["through"]):
        model(x.requires_grad_())


class Pair(NamedTuple):
    fine: Tensor
    coarse: list[Any]


def test_a_copy_has_the_structure_of_the_output() -> None:
    pair = Pair(torch.ones(1), [torch.zeros(2), "kept"])
    copy = copied(pair)
    assert type(copy) is type(pair)
    assert copy.coarse[1] == "kept"
    assert copy.fine is not pair.fine
    assert torch.equal(copy.fine, pair.fine)


def test_ultralytics_own_layers_need_no_detour() -> None:
    pytest.importorskip("ultralytics")
    from yolo_seeded import seeded

    from detxai.adapters.layers import leaves_its_input

    for family in ("v8", "26", "rt-detr"):
        assert all(leaves_its_input(layer) for layer in seeded(family).model.model), family
