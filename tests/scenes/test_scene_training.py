"""Training repeats, and goes on where it stopped as if it had not stopped."""

from pathlib import Path

import pytest
import torch

from detxai.scenes.detectors.frcnn import load_frcnn
from detxai.scenes.detectors.weights_file import read_weights
from detxai.scenes.train import main
from detxai.scenes.training import train_frcnn as training
from detxai.scenes.training.hint import FarHint, far_labels_present
from detxai.scenes.training.train_frcnn import FrcnnTraining, train_frcnn

TINY = FrcnnTraining(steps=4, batch_size=2, checkpoint_every=2)


def test_a_resumed_run_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_weights(train_frcnn(tmp_path / "whole", TINY, progress=False))
    load_frcnn(tmp_path / "whole" / "scenes_frcnn.safetensors")

    steps_done: list[int] = []
    plain = training.losses

    def interrupted(*arguments: object) -> dict[str, torch.Tensor]:
        if len(steps_done) == 3:
            raise KeyboardInterrupt
        steps_done.append(1)
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_frcnn(tmp_path / "parts", TINY, progress=False)
    monkeypatch.setattr(training, "losses", plain)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 2

    resumed = read_weights(train_frcnn(tmp_path / "parts", TINY, progress=False))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train_frcnn(tmp_path, FrcnnTraining(steps=1, batch_size=1, checkpoint_every=1), progress=False)
    with pytest.raises(ValueError, match=r"was made with settings .* choose another --out"):
        train_frcnn(tmp_path, FrcnnTraining(steps=1, batch_size=2, checkpoint_every=1), progress=False)


def test_the_hint_knows_which_pictures_hold_a_far_label() -> None:
    labels, picture = torch.tensor([4, 0, 8, 5, 9]), torch.tensor([0, 0, 1, 2, 2])
    present = far_labels_present(labels, picture, 4)
    assert present.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    hint = FarHint([8, 16])
    levels = [torch.randn(4, 8, 5, 5), torch.randn(4, 16, 3, 3)]
    assert hint(levels, present).shape == ()
    with torch.no_grad():
        for parameter in hint.parameters():
            parameter.zero_()
    torch.testing.assert_close(hint(levels, present), torch.tensor(2.0).log())


def test_the_command_line_names_a_bad_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "ssd", "--out", "nowhere"])
    assert "choose from" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_yolo_is_trained_saved_and_loaded(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    from detxai.scenes import load_yolo
    from detxai.scenes.training.train_yolo import YoloTraining, train_yolo

    settings = YoloTraining(n_train=8, n_val=2, epochs=1, batch_size=4)
    weights = train_yolo(tmp_path, settings, progress=False)
    assert load_yolo(weights).predict(torch.zeros(1, 3, 160, 160), verbose=False)
