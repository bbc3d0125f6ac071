"""The online loop: one step of what is distilled, one step of the network, over and over.

Everything random is drawn anew for each epoch from the seed and the epoch's number, so that a run which goes
on from a checkpoint sees exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from convexdistill import progress
from convexdistill.data import ImageData, Preprocessing
from convexdistill.distill.online.checkpoint import read_checkpoint, write_checkpoint
from convexdistill.distill.online.learned import Learned
from convexdistill.distill.online.learner import Learner, inner_rows
from convexdistill.distill.online.restarts import RestartRule
from convexdistill.distill.online.schedule import Schedule
from convexdistill.distill.online.state import below, under
from convexdistill.errors import NotConvergedError
from convexdistill.seeds import child_seed, generator
from convexdistill.training import accuracies


@dataclass(frozen=True)
class Problem:
    """Target, validation split, and how and where their images are shown to networks."""

    target: ImageData
    validation: ImageData | None
    preprocessing: Preprocessing
    device: torch.device
    dtype: torch.dtype

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images, channels last, and classes of these rows of the target."""
        images = self.preprocessing(self.target.images[rows]).to(self.device, self.dtype)
        return images.contiguous(memory_format=torch.channels_last), self.target.labels[rows].to(self.device)


@dataclass
class Outcome:
    """What the loop found.

    Attributes:
        values: ``pixels`` and ``labels`` of the best validation, or the last without a validation split.
        steps: T, how long to train on them.
        epoch: when these values were found.
        epochs: passes that were made.
        curve: of each validation ``epoch``, ``steps`` (T then), ``outer_loss`` (mean since the last one) and
            ``validation_mean``, an accuracy in percent (``None`` without a split).
        lengths: of each restart, the number of steps to its best moving average.
        seconds: wall clock, over all sittings.
        cpu_seconds: of this process, over all sittings.
    """

    values: dict[str, Tensor]
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Run:
    """The state of a loop between two epochs, and its checkpoint."""

    def __init__(
        self,
        learner: Learner,
        learned: Learned,
        problem: Problem,
        schedule: Schedule,
        seed: int,
        settings: Mapping[str, Any],
        checkpoint: Path | None,
    ) -> None:
        self.learner, self.learned, self.problem, self.schedule = learner, learned, problem, schedule
        self.seed, self.settings, self.checkpoint = seed, settings, checkpoint
        self.rule = RestartRule(schedule.window or 1)
        self.best = Outcome(learned.values())
        self.epoch = 0
        self.losses: list[float] = []
        learner.restart(child_seed(seed, "network", 0))
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)

    def do_epoch(self, advance: progress.Advance) -> None:
        """One pass over the target, a validation where it is time for one, and the checkpoint."""
        wall, cpu = time.perf_counter(), time.process_time()
        order = torch.randperm(len(self.problem.target), generator=generator(self.seed, "target", self.epoch))
        batches = order.split(self.schedule.batch_size)
        inner = self.schedule.inner_batch_size or len(self.learned)
        draws = inner_rows(len(self.learned), inner, len(batches), self.seed, self.epoch)
        for batch, rows in zip(batches, draws, strict=True):
            self._step(batch, rows)
            advance(1)
        self.epoch += 1
        if self.epoch % self.schedule.validate_every == 0 or self.epoch == self.schedule.epochs:
            self._validate()
        self.best.seconds += time.perf_counter() - wall
        self.best.cpu_seconds += time.process_time() - cpu
        if self.checkpoint is not None:
            self._save(self.checkpoint)

    def _step(self, batch: Tensor, rows: Tensor) -> None:
        """Label step, network step, and the rule (Bohdal et al. 2020, code; both methods in this order)."""
        target_images, truth = self.problem.batch(batch)
        images, labels = self.learned.images(rows), self.learned.labels[rows]
        logits = self.learner.outer(images, labels, target_images)
        loss = cross_entropy(logits, truth)
        gradients = torch.autograd.grad(loss, self.learned.moving, retain_graph=True)
        value = float(loss.detach())
        if not abs(value) < float("inf"):
            raise NotConvergedError(
                f"the outer loss became {value} in epoch {self.epoch + 1}; take smaller learning rates"
            )
        self.losses.append(value)
        self.learned.step(list(gradients))
        self.learner.update(self.learned.labels[rows].detach())
        wrong = int((logits.detach().argmax(1) != truth).sum())
        if self.rule.record(100 * wrong / len(truth)):
            self.learner.restart(child_seed(self.seed, "network", len(self.rule.lengths)))

    def _validate(self) -> None:
        """Train one network on what there is now; keep it if none was better."""
        problem, steps, values = self.problem, self.rule.training_length, self.learned.values()
        accuracy = None
        if problem.validation is not None:
            with progress.reporting(progress.SilentReporter()):
                network = self.learner.train(
                    self.learned.normalised(values["pixels"]),
                    values["labels"],
                    steps=steps,
                    batch_size=self.schedule.inner_batch_size or len(self.learned),
                    seed=child_seed(self.seed, "validate", self.epoch),
                )
            accuracy = accuracies([network.float()], problem.validation, problem.preprocessing, problem.device)[0]
        highest = max((point["validation_mean"] or 0.0 for point in self.best.curve), default=0.0)
        self.best.curve.append(
            {
                "epoch": self.epoch,
                "steps": steps,
                "outer_loss": sum(self.losses) / len(self.losses),
                "validation_mean": accuracy,
            }
        )
        self.losses = []
        if accuracy is None or accuracy >= highest:
            self.best.values, self.best.steps, self.best.epoch = values, steps, self.epoch

    @property
    def outcome(self) -> Outcome:
        """What was found so far."""
        self.best.epochs, self.best.lengths = self.epoch, list(self.rule.lengths)
        return self.best

    def _save(self, path: Path) -> None:
        tensors = {
            **under("learned", self.learned.state()),
            **under("best", self.best.values),
            **under("learner", self.learner.state()),
        }
        facts = {
            "epoch": self.epoch,
            "rule": self.rule.state(),
            "losses": self.losses,
            "steps": self.best.steps,
            "best_epoch": self.best.epoch,
            "curve": self.best.curve,
            "seconds": self.best.seconds,
            "cpu_seconds": self.best.cpu_seconds,
        }
        write_checkpoint(path, tensors, facts, self.settings)

    def _resume(self, path: Path) -> None:
        tensors, facts = read_checkpoint(path, self.settings, epochs=self.schedule.epochs or 0)
        self.learned.load(below("learned", tensors))
        self.learner.load(below("learner", tensors))
        self.rule.load(facts["rule"])
        self.epoch, self.losses = facts["epoch"], facts["losses"]
        self.best = Outcome(
            below("best", tensors),
            steps=facts["steps"],
            epoch=facts["best_epoch"],
            curve=facts["curve"],
            seconds=facts["seconds"],
            cpu_seconds=facts["cpu_seconds"],
        )


def learn(run: Run, description: str) -> Outcome:
    """Do the epochs that are left."""
    epochs = run.schedule.epochs or 0
    steps = -(-len(run.problem.target) // run.schedule.batch_size)
    with progress.task(description, total=epochs * steps) as advance:
        advance(run.epoch * steps)
        while run.epoch < epochs:
            run.do_epoch(advance)
    return run.outcome
