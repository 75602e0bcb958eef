"""Training: the step, and the loop around it."""

import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import checkpoint
from alexnet_torch.data.augment import to_float
from alexnet_torch.data.cache import Prepared
from alexnet_torch.data.loader import Batch, Loader
from alexnet_torch.errors import TrainingError
from alexnet_torch.evaluate import count_wrong, evaluate, evaluate_models, most_crops
from alexnet_torch.finetune import begin, freeze, stages_named
from alexnet_torch.model import AlexNet, DropoutKey
from alexnet_torch.optim import optimizer_of, parameter_groups, set_rates
from alexnet_torch.recipes import Recipe
from alexnet_torch.report import Board, Metrics, Progress
from alexnet_torch.settings import Settings
from alexnet_torch.signals import Stop, Stopped
from alexnet_torch.state import State, Window, identity, load, save
from alexnet_torch.weights import load_model, save_model


def train_step(
    net: AlexNet, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, dropout: DropoutKey
) -> tuple[Tensor, Tensor]:
    """One step of the paper's training: forward, loss, backward, update.

    Args:
        net: in training mode.
        optimizer: its rates set for this step.
        images: (N, 3, H, W) float, mean image subtracted, on the network's first device.
        labels: (N,) int64, on the same.
        dropout: the step's masks.

    Returns:
        the batch's mean loss in nats, and its number of top-1 errors: both 0-d, on the device.
    """
    logits = net(images, dropout)  # (N, classes)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()  # here, not before the next backward pass: 244 MB less during the forward one
    return loss.detach(), count_wrong(logits.detach(), labels, 1)


_AT_CHANCE = (
    "the loss has been within 1% of ln(classes), that of guessing, for {steps} steps: weights too small or too "
    "large to carry the images through, or a rate too high; try --recipe paper, another --lr, or check the labels"
)


class Trainer:
    """Trains a network on prepared images, into a run folder.

    Args:
        settings: resolved.
        recipe: which `settings` names.
        prepared: the images.
        devices: one for each tower.

    Raises:
        UserError: the run to resume is of another architecture or data set, or nothing is intact; or
            the weights to start from do not fit.
    """

    def __init__(self, settings: Settings, recipe: Recipe, prepared: Prepared, devices: list[torch.device]) -> None:
        s = self.settings = settings
        self.recipe, self.prepared, self.output = recipe, prepared, Path(s.output)
        self.net = AlexNet(recipe.architecture, len(prepared.classes), s.image_size, devices, s.seed)
        groups = parameter_groups(self.net, recipe.bias_decay, recipe.weight_decay)
        self.optimizer = optimizer_of(recipe.optimizer, groups, recipe.momentum)
        self.mean = torch.from_numpy(prepared.mean).to(devices[0])  # (S, S, 3)
        colour = recipe.coloured(s.colour)
        self.train_loader = Loader(prepared, "train", s.image_size, s.batch_size, s.seed, not s.no_mirror, colour)
        self.val_loader = Loader(prepared, "val", s.image_size, s.batch_size)
        self.batches = self.train_loader.batches_per_epoch
        self.last_step = min(s.epochs * self.batches, s.max_steps or s.epochs * self.batches)
        self.identity = identity(s, recipe, prepared)
        frozen = stages_named("--freeze", s.freeze, recipe.architecture.stage_names) or ()
        freeze(self.net, frozen)
        resumed = load(self.output / "checkpoints", self.identity, self.net, self.optimizer) if s.resume else None
        self.state, started_from = resumed or (State(), begin(self.net, s))
        self.saved = self.state.step if resumed else -1
        self.output.mkdir(parents=True, exist_ok=True)
        self.metrics = Metrics(self.output / "metrics.jsonl", self.state.metrics_size)
        self.board = Board(self.output / "tensorboard", self.state.step)
        self.progress = Progress(self.last_step, self.state.step, self.batches)
        self.progress.say(f"starting from {started_from}")
        if frozen:
            self.progress.say(f"frozen, their weights and biases do not change: {', '.join(frozen)}")
        self.stop = Stop()
        self.last_save = time.monotonic()

    def fit(self) -> None:
        """Trains to the last step, or until a signal comes; saves; says what came of it.

        Raises:
            TrainingError: the loss is not finite, the network is stuck at chance, or the run's
                folder cannot be written.
            Stopped: by SIGINT or SIGTERM, after saving.
        """
        try:
            if self.state.step == 0:
                self.board.graph(self.net)
                self.board.filters(self.net, 0)
            while self._validated() and self.state.step < self.last_step and not self.stop.wished():
                self._train_epoch()
            if self.saved != self.state.step:
                self._save()
            if self.state.step == self.last_step:
                self._test()
        except OSError as error:
            raise TrainingError(f"cannot write the run: {error}; make room, then continue with --resume") from error
        finally:
            self.progress.close()
            self.board.close()
            self.metrics.close()
        if self.stop.signal is not None:
            raise Stopped(self.stop.signal, f"stopped after step {self.state.step}; continue with --resume")
        if self._at_chance_for_long():
            raise TrainingError(_AT_CHANCE.format(steps=self.state.at_chance))

    def _test(self) -> None:
        """The paper's test of the best weights, with the corner and mirrored crops, beside the centre crop's."""
        step = self.state.best_step
        if step is None:
            return
        model = load_model(self.output, [str(device) for device in self.net.exchange.devices])
        crops = most_crops([model])
        tested = evaluate_models([model], {self.prepared.side: self.prepared}, crops, stopped=self.stop.wished)
        if tested is None:  # another --resume tests it
            return
        centre, mean = tested[1].averaged, tested[crops].averaged
        record = {"split": "val", "step": step, "epoch": step / self.batches, **asdict(mean), "crops": crops}
        # after the last checkpoint: a run that goes on for more epochs is tested at its own end
        self.metrics.write(record)
        self.board.scalars(record)
        self.progress.say(
            f"best weights, of step {step}, in {self.output}/model.pt: top-1 error {centre.top1_error:.2%}, "
            f"top-5 {centre.top5_error:.2%}; with {crops} crops {mean.top1_error:.2%}, {mean.top5_error:.2%}"
        )

    def _train_epoch(self) -> None:
        """The rest of an epoch; less if the last step or a wish to stop comes first."""
        epoch, first = divmod(self.state.step, self.batches)
        self.net.train()
        self._clock()
        batches = self.train_loader.epoch(epoch, first)
        asked = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - asked
            self._train_batch(batch)
            if self.state.step == self.last_step or self.stop.wished():
                break
            if time.monotonic() - self.last_save > 60 * self.settings.save_every:
                self._save()
            asked = time.perf_counter()

    def _train_batch(self, batch: Batch) -> None:
        s, step = self.state, self.state.step
        pixels = batch.images.to(self.mean.device)
        images = to_float(pixels, batch.crops, self.mean, batch.shift, batch.scale)  # (N, 3, H, W)
        labels = batch.labels.to(self.mean.device)
        rate = self._set_rates()
        key = DropoutKey(self.settings.seed, step)
        loss, wrong = train_step(self.net, self.optimizer, images, labels, key)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(self._diverged(f"the loss of step {step + 1} is {value}"))
        if step == 0:
            self.board.samples(batch.images, 1)
        s.step += 1
        w = s.window
        w.loss, w.wrong = w.loss + value * len(labels), w.wrong + int(wrong)
        w.images, w.steps = w.images + len(labels), w.steps + 1
        self.clocked += len(labels)
        self.progress.advance()
        if s.step % self.settings.log_every == 0 or s.step == self.last_step:
            self._report(rate)

    def _set_rates(self) -> float:
        rates = self.recipe.rates(self.settings.lr, self.state.step // self.batches, self.state.errors)
        set_rates(self.optimizer, rates)
        return rates.weights

    def _clock(self) -> None:
        """Starts the stop-watch, which runs in training alone, not in validation."""
        self.started, self.waited, self.clocked = time.perf_counter(), 0.0, 0

    def _report(self, rate: float) -> None:
        s, w = self.state, self.state.window
        elapsed = time.perf_counter() - self.started
        loss = w.loss / w.images
        record = {
            "split": "train",
            "step": s.step,
            "epoch": s.step / self.batches,
            "loss": loss,
            "top1_error": w.wrong / w.images,
            "lr": rate,
            "images_per_second": self.clocked / elapsed,
            "data_wait": self.waited / elapsed,
        }
        chance = math.log(len(self.prepared.classes))
        was_long = self._at_chance_for_long()
        s.at_chance = s.at_chance + w.steps if abs(loss - chance) < 0.01 * chance else 0
        if self._at_chance_for_long() and not was_long:
            self.progress.say(_AT_CHANCE.format(steps=s.at_chance))
        s.window = Window()
        self.metrics.write(record)
        self.board.scalars(record)
        self.progress.train(record)
        self._clock()

    def _at_chance_for_long(self) -> bool:
        """Longer than networks that do learn stay there: 2,000 steps, or 10 epochs of a small folder."""
        return self.state.at_chance >= min(2000, max(100, 10 * self.batches))

    def _validated(self) -> bool:
        """Validates if it is time to; False when a wish to stop cut it short."""
        s = self.state
        epochs, within = divmod(s.step, self.batches)
        due = (within == 0 and epochs % self.settings.val_every == 0) or s.step == self.last_step
        if s.step == 0 or s.validated == s.step or not due:
            return True
        self._check_weights()
        errors = evaluate(self.net, self.val_loader, self.mean, self.stop.wished)
        if errors is None:
            return False
        record = {
            "split": "val",
            "step": s.step,
            "epoch": s.step / self.batches,
            **asdict(errors),
            "crops": 1,
        }
        best = errors.top1_error < min(s.errors, default=math.inf)
        s.errors.append(errors.top1_error)
        s.validated = s.step
        if best:
            s.best_step = s.step
            # before the checkpoint: killed between the two, the run comes here again with the same weights
            p, mirror = self.prepared, not self.settings.no_mirror
            save_model(self.output, self.net, p.classes, p.mean, mirror)
        self.metrics.write(record)
        self.board.scalars(record)
        self.board.filters(self.net, s.step)
        self.progress.validation(record, best)
        self._save()
        return True

    def _save(self) -> None:
        self._check_weights()
        self.state.metrics_size = self.metrics.sync()
        save(self.output / "checkpoints", self.identity, self.state, self.net, self.optimizer)
        self.saved, self.last_save = self.state.step, time.monotonic()

    def _check_weights(self) -> None:
        """Refuses to keep weights that an update made infinite after a loss that was finite."""
        # a sum is one pass, and not finite if any of its terms is not
        if not all(bool(p.sum().isfinite()) for p in self.net.parameters()):
            raise TrainingError(self._diverged(f"weights are not finite after step {self.state.step}"))

    def _diverged(self, what: str) -> str:
        kept = checkpoint.found(self.output / "checkpoints")
        last = f"the last good checkpoint is {kept[0]}" if kept else "there was no checkpoint yet"
        return f"{what}: training diverged; {last}; lower --lr (now {self.settings.lr:g})"
