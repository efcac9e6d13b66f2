"""Real Lightning trainings of a detector inside a LightningModule, with and without the callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from faster_rcnns import small_faster_rcnn
from lightning.pytorch import LightningModule, Trainer
from small_trainings import everything_of, random_states, same, scene_panel, seed_everything

from detxai.callbacks.lightning import ExplanationCallback, first_detector
from detxai.callbacks.output.epoch_csv import read_csv
from detxai.scenes import SceneDataset


class Learner(LightningModule):
    """A detector beside something else, as users have them."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Linear(2, 2)
        self.detector = small_faster_rcnn(n_classes=11).train()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        losses = self.detector([image for image, _ in batch], [target for _, target in batch])
        return torch.stack(list(losses.values())).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.detector.parameters(), 0.01, momentum=0.9)

    def train_dataloader(self) -> Any:
        scenes = SceneDataset(6, seed=7, kind="local", size=96)
        return torch.utils.data.DataLoader(scenes, batch_size=2, shuffle=True, collate_fn=list)


def fit(
    folder: Path, callbacks: list[Any], *, n_epochs: int = 2, resume: Path | None = None, precision: Any = "32-true"
) -> tuple[Any, Any]:
    seed_everything()
    learner = Learner()
    trainer = Trainer(
        max_epochs=n_epochs,
        accelerator="cpu",
        accumulate_grad_batches=2,
        precision=precision,
        callbacks=callbacks,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(learner, ckpt_path=resume)
    return learner, trainer


def watching(**settings: Any) -> ExplanationCallback:
    return ExplanationCallback(scene_panel(n=2), **{"budget": None, "alarm": None, "most_objects": 1, **settings})


class Untouched(ExplanationCallback):
    """Looks whether anything moved during a call."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        before, states = everything_of(pl_module), random_states()
        super().on_train_epoch_end(trainer, pl_module)
        assert same(before, everything_of(pl_module))
        assert states == random_states()


def test_training_is_the_same_training_and_tensorboard_has_it(tmp_path: Path) -> None:
    plain, plain_trainer = fit(tmp_path / "plain", [])
    states = random_states()
    callback = Untouched(scene_panel(n=2), budget=None, alarm=None, most_objects=1)
    watched, trainer = fit(tmp_path, [callback])
    assert same(plain.state_dict(), watched.state_dict())
    assert same(plain_trainer.optimizers[0].state_dict(), trainer.optimizers[0].state_dict())
    assert states == random_states()
    assert [report.epoch for report in callback.reports] == [0, 1]
    assert all(one.explanation is None for report in callback.reports for one in report.snapshots)  # they are large
    assert all(len(report.snapshots) == 2 for report in callback.reports)

    out = tmp_path / "detxai"
    assert len(list((out / "panel").glob("*.gif"))) == 2
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    name = callback.reports[0].snapshots[0].detection.name(0)
    assert [entry.step for entry in events.Scalars(f"detxai/score/{name}")] == [0, 1]


@pytest.mark.slow
def test_training_in_mixed_precision_is_the_same_training(tmp_path: Path) -> None:
    plain, plain_trainer = fit(tmp_path / "plain", [], precision="bf16-mixed")
    states = random_states()
    callback = Untouched(scene_panel(n=1), budget=None, alarm=None, most_objects=1, loggers=[])
    watched, trainer = fit(tmp_path, [callback], precision="bf16-mixed")
    assert same(plain.state_dict(), watched.state_dict())
    assert same(plain_trainer.optimizers[0].state_dict(), trainer.optimizers[0].state_dict())
    assert states == random_states()
    assert [len(report.snapshots) for report in callback.reports] == [1, 1]


def test_resume_goes_on_with_the_files(tmp_path: Path) -> None:
    _, trainer = fit(tmp_path, [watching(loggers=[])])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    fit(tmp_path, [watching(loggers=[])], n_epochs=3, resume=tmp_path / "last.ckpt")
    rows = read_csv(tmp_path / "detxai" / "curves.csv")
    assert [row["epoch"] for row in rows] == ["0", "0", "1", "1", "2", "2"]


def test_every_fit_has_a_folder_and_a_checkpoint_goes_on_in_its_own(tmp_path: Path) -> None:
    callback = watching(loggers=[], out=tmp_path / "w")
    _, trainer = fit(tmp_path, [callback], n_epochs=1)
    before = {path: path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file()}
    assert before
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    fit(tmp_path, [callback], n_epochs=1)  # another trainer, the same callback
    fit(tmp_path, [watching(loggers=[], out=tmp_path / "w")], n_epochs=1)
    assert {path: path.read_bytes() for path in before} == before
    assert [len(read_csv(tmp_path / name / "curves.csv")) for name in ("w", "w2", "w3")] == [2, 2, 2]
    fit(tmp_path, [watching(loggers=[], out=tmp_path / "w")], n_epochs=2, resume=tmp_path / "first.ckpt")
    assert [row["epoch"] for row in read_csv(tmp_path / "w" / "curves.csv")] == ["0", "0", "1", "1"]
    assert not (tmp_path / "w4").exists()


def test_a_fit_of_seconds_shows_its_first_and_last_epoch(tmp_path: Path) -> None:
    callback = watching(loggers=[], budget=1e-6)
    fit(tmp_path, [callback], n_epochs=3)
    assert [(report.epoch, len(report.snapshots)) for report in callback.reports] == [(0, 2), (1, 0), (2, 2)]
    assert {row["epoch"] for row in read_csv(tmp_path / "detxai" / "curves.csv")} == {"0", "2"}


def test_the_trainers_own_tensorboard_is_used(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    from detxai.callbacks import lightning as watching_lightning
    from detxai.callbacks import loggers

    trainer = Trainer(logger=TensorBoardLogger(tmp_path), accelerator="cpu", default_root_dir=tmp_path)
    (logger,) = watching_lightning._trainers_loggers(trainer)
    assert isinstance(logger, loggers.TensorBoardLogger)
    logger.log(3, {"score/cat": 0.5}, {})
    logger.close()
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_the_detector_is_found_or_told() -> None:
    learner = Learner()
    assert first_detector(learner) is learner.detector
    assert first_detector(learner.detector) is learner.detector
    with pytest.raises(TypeError, match=r"Linear holds no detector .* pass detector="):
        first_detector(nn.Linear(1, 1))


def test_a_detector_can_be_named(tmp_path: Path) -> None:
    asked = []

    def mine(module: LightningModule) -> nn.Module:
        asked.append(module)
        return module.detector

    callback = watching(detector=mine, loggers=[], out=tmp_path / "mine")
    fit(tmp_path, [callback], n_epochs=1)
    assert asked
    assert (tmp_path / "mine" / "curves.csv").is_file()


def test_bad_arguments_are_told_before_training() -> None:
    with pytest.raises(ValueError, match="every must be a whole number from 1"):
        watching(every=0)
    with pytest.raises(ValueError, match="images must not be empty"):
        ExplanationCallback([])
    with pytest.raises(TypeError, match="resume is no setting here"):
        watching(resume=True)
