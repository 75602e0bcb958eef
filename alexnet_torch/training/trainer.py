"""Training: the step, and the loop around it."""

import math
import time
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.loader import Batch, Loader
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.distributed import sharded_state as shards
from alexnet_torch.distributed.exchanges import PartnerExchange
from alexnet_torch.distributed.peer_group import waiting
from alexnet_torch.distributed.placement import Placement
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.errors import TrainingError, UserError
from alexnet_torch.evaluation.evaluate import evaluate
from alexnet_torch.evaluation.metrics import count_wrong
from alexnet_torch.model.alexnet import AlexNet, DropoutKey
from alexnet_torch.model.exchange import part_sizes
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.run_folder import CHECKPOINTS
from alexnet_torch.training import checkpoints as checkpoint
from alexnet_torch.training import run_state as state
from alexnet_torch.training.final_test import cores_of, test_best, whole_net
from alexnet_torch.training.initial_weights import begin, freeze, stages_named
from alexnet_torch.training.optimizers import optimizer_of, parameter_groups, set_rates
from alexnet_torch.training.precision import Precision
from alexnet_torch.training.run_log import RunLog, filters_of
from alexnet_torch.training.run_state import Parts, State, identity
from alexnet_torch.training.stop_signal import Interrupted, StopSignal
from alexnet_torch.training.train_metrics import TrainMetrics
from alexnet_torch.weights.model_file import TrainedModel, save_model


def train_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    dropout: DropoutKey,
    precision: Precision,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """One step of the paper's training: forward, loss, backward, update. Waits for no GPU.

    Args:
        net: an AlexNet in training mode, or what `Ranks.replicate` made of it.
        optimizer: its rates set for this step.
        images: (n, 3, H, W) float, mean image subtracted, on the network's first device.
        labels: (n,) int64, on the same.
        dropout: the step's masks.
        precision: in which it computes.
        rows: of the whole batch, whose mean loss is minimised; n, unless other processes have more of it.

    Returns:
        these rows' part of the batch's mean loss in nats, and their top-1 errors: both 0-d, on the device.
    """
    with precision.autocast():
        logits = net(images, dropout)  # (n, classes)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, labels, reduction="sum") / rows
    precision.scaler.scale(loss).backward()
    precision.scaler.step(optimizer)
    precision.scaler.update()
    optimizer.zero_grad()  # here, not before the next backward pass: 244 MB less during the forward one
    return loss.detach(), count_wrong(logits.detach(), labels, 1)


class Trainer:
    """Trains a network on prepared images, into a run folder.

    Args:
        settings: resolved.
        recipe: which `settings` names.
        prepared: the images.
        placement: of the network.
        ranks: the processes of `placement`, connected here; by default this one alone.

    Raises:
        UserError: the run to resume is of another architecture or data set, or nothing is intact; or
            the weights to start from do not fit.
    """

    def __init__(
        self,
        settings: Settings,
        recipe: Recipe,
        prepared: PreparedImages,
        placement: Placement,
        ranks: Ranks | None = None,
    ) -> None:
        s = self.settings = settings
        self.recipe, self.prepared, self.output = recipe, prepared, Path(s.output)
        self.ranks, self.slices = ranks or Ranks(placement.world), placement.slices
        exchange, device = self.ranks.connect(placement, s.timeout), placement.devices[0]
        self.net = AlexNet(recipe.architecture, len(prepared.classes), s.image_size, seed=s.seed, exchange=exchange)
        self.stepped: nn.Module = self.net
        groups = parameter_groups(self.net, recipe.bias_decay, recipe.weight_decay)
        self.optimizer = optimizer_of(recipe.optimizer, groups, recipe.momentum)
        self.precision = Precision(s.amp, device)
        self.mean = torch.from_numpy(prepared.mean).to(device, torch.get_default_dtype())  # (S, S, 3)
        self.train_loader, self.val_loader = self._loaders(pinned=device.type == "cuda")
        self.batches = self.train_loader.batches_per_epoch
        self.last_step = min(s.epochs * self.batches, s.max_steps or s.epochs * self.batches)
        self.identity = identity(s, recipe, prepared)
        frozen = stages_named("--freeze", s.freeze, recipe.architecture.stage_names) or ()
        self.ranks.run_on_all(lambda: freeze(self.net, frozen))
        self.parts = Parts(self.net, self.optimizer, self.precision.scaler)
        found = state.load(self.output / CHECKPOINTS, self.identity, self.parts, self.ranks) if s.resume else None
        self.state, started_from = found or (State(), self.ranks.run_on_all(lambda: begin(self.net, s)))
        self.saved, self.saves = self.state.step if found else -1, 0
        self.meter = TrainMetrics(self.state, device, len(prepared.classes), self.batches)
        self.record = RunLog(self.output, self.ranks, self.state, self.last_step, self.batches)
        self.record.say(f"starting from {started_from}")
        if frozen:
            self.record.say(f"frozen, their weights and biases do not change: {', '.join(frozen)}")
        self.stop, self.stopped_by = StopSignal(), 0
        self.last_save = time.monotonic()

    def _loaders(self, pinned: bool) -> tuple[Loader, Loader]:
        s, exchange = self.settings, self.net.exchange
        loader = partial(Loader, self.prepared, workers=cores_of(self.ranks.world), pinned=pinned, slices=self.slices)
        loader = partial(loader, all_labels=self.ranks.placement.scores_all_rows)
        streamed = self.ranks.max_over_ranks(int(self.prepared.train.images is None))  # on any machine
        if streamed and isinstance(exchange, PartnerExchange):
            loader = partial(loader, partners=exchange.partners, merge=exchange.merge)
        mirror, colour = not s.no_mirror, self.recipe.colour_noise(s.colour)
        train = loader("train", s.image_size, s.batch_size, s.seed, mirror, colour)
        return train, loader("val", s.image_size, s.batch_size)

    def fit(self) -> None:
        """Trains to the last step, or until a signal comes; saves; says what came of it.

        Raises:
            TrainingError: the loss is not finite, the network is stuck at chance, or the run's
                folder cannot be written.
            RankLost: another process is gone, or silent.
            Interrupted: by SIGINT or SIGTERM, after saving.
        """
        try:
            with closing(self.record):
                if self.state.step == 0:
                    first = self.recipe.architecture.convs[0].name
                    filters = filters_of(shards.gather(self.net, self.optimizer, self.ranks, first), first)
                    self.record.begin(
                        lambda: self.net if self.ranks.is_single_process else whole_net(self.net), filters
                    )
                if self.settings.compile:
                    self.net.compile_stages()
                self.stepped = self.ranks.wrap_data_parallel(self.net)
                if self.stepped is not self.net:
                    self._rehearse()
                while self._validated() and self.state.step < self.last_step and not self._stopped():
                    self._train_epoch()
                if self.saved != self.state.step:
                    self._save(self._whole())
                if self.state.step == self.last_step:
                    self._test()
        except OSError as error:
            if not self.ranks.is_main:  # which writes nothing
                raise UserError(
                    f"rank {self.ranks.world.rank}: {error}; mend it, then continue with --resume"
                ) from error
            raise TrainingError(f"cannot write the run: {error}; make room, then continue with --resume") from error
        if self.stopped_by:
            raise Interrupted(self.stopped_by, f"stopped after step {self.state.step}; continue with --resume")
        if stuck := self.meter.stuck():
            raise TrainingError(stuck)

    def _stopped(self) -> bool:
        """Whether a signal has come, to any rank: all ask together."""
        self.stopped_by = max(self.stopped_by, self.ranks.max_over_ranks(self.stop.signal or 0))
        return self.stopped_by > 0

    def _rehearse(self) -> None:
        """A step that changes nothing: after its first one DistributedDataParallel lays out its buckets anew.

        Sums over three ranks or more depend on the layout in their last bits, and a run that goes on from a
        checkpoint must add up as the uninterrupted one does.
        """
        size, (index, count) = self.net.image_size, self.slices
        rows = part_sizes(self.settings.batch_size, count)[index]  # as in training: --compile is for a size
        self.net.train()
        images = torch.zeros(rows, 3, size, size, device=self.mean.device, dtype=self.mean.dtype)
        with waiting("the rehearsal"), self.precision.autocast():
            self.stepped(images, DropoutKey(self.settings.seed, 0)).sum().backward()
        self.optimizer.zero_grad()

    def _test(self) -> None:
        """The paper's test of the best weights, with the corner and mirrored crops, beside the centre crop's."""
        step = self.state.best_step
        if step is None:
            return
        tested = test_best(self.output, self.net, self.prepared, not self.settings.no_mirror, self.ranks, self._stopped)
        if tested is None:  # another --resume tests it
            return
        crops = max(tested)
        centre, mean = tested[1].average, tested[crops].average
        values = {"split": "val", "step": step, "epoch": step / self.batches, **asdict(mean), "crops": crops}
        # after the last checkpoint: a run that goes on for more epochs is tested at its own end
        self.record.test(
            values,
            f"best weights, of step {step}, in {self.output}/model.pt: top-1 error {centre.top1_error:.2%}, "
            f"top-5 {centre.top5_error:.2%}; with {crops} crops {mean.top1_error:.2%}, {mean.top5_error:.2%}",
        )

    def _train_epoch(self) -> None:
        """The rest of an epoch; less if the last step or a wish to stop comes first."""
        epoch, first = divmod(self.state.step, self.batches)
        self.net.train()
        self.meter.start()
        batches = self.train_loader.epoch(epoch, first)
        asked = time.perf_counter()
        for batch in batches:
            self.meter.wait(time.perf_counter() - asked)
            self._train_batch(batch)
            if self.state.step == self.last_step:
                break
            due = self.ranks.is_main and time.monotonic() - self.last_save > 60 * self.settings.save_every
            stopped_by, save = self.ranks.max_over_ranks_delayed(self.stop.signal or 0, self.saves + 1 if due else 0)
            if stopped_by:
                self.stopped_by = stopped_by
                break
            if save > self.saves:  # the word is of the step before, and may have been heard
                self._save(self._whole())
            asked = time.perf_counter()

    def _train_batch(self, batch: Batch) -> None:
        s, step, device = self.state, self.state.step, self.mean.device
        pixels = batch.images.to(device, non_blocking=True)
        images = subtract_mean(pixels, batch.crops, self.mean, batch.colour_noise, batch.scale)  # (n, 3, H, W)
        labels = batch.labels.to(device, non_blocking=True)
        rate, rows = self._set_rates(), batch.batch_rows
        key = DropoutKey(self.settings.seed, step, batch.first_row)
        with waiting(f"the sum of gradients of step {step + 1}"):
            loss, wrong = train_step(self.stepped, self.optimizer, images, labels, key, self.precision, rows)
        self.meter.add(self.ranks.sum_over_slices(torch.stack([loss.double() * rows, wrong.double()])), rows)
        if step == 0:
            self.record.samples(batch.images)
        s.step += 1
        self.record.advance()
        if s.step % self.settings.log_every == 0 or s.step == self.last_step:
            self._report(rate)

    def _set_rates(self) -> float:
        rates = self.recipe.rates(self.settings.lr, self.state.step // self.batches, self.state.errors)
        set_rates(self.optimizer, rates)
        return rates.weights

    def _report(self, rate: float) -> None:
        was_stuck, steps = self.meter.stuck(), self.state.window.steps
        values = self.meter.report(rate)
        if not math.isfinite(values["loss"]):
            what = f"the mean loss of the {steps} step(s) up to step {self.state.step} is {values['loss']}"
            raise TrainingError(self._diverged(what))
        if (stuck := self.meter.stuck()) and not was_stuck:
            self.record.say(stuck)
        self.record.train(values)
        self.meter.start()

    def _validated(self) -> bool:
        """Validates if it is time to; False when a wish to stop cut it short."""
        s = self.state
        epochs, within = divmod(s.step, self.batches)
        due = (within == 0 and epochs % self.settings.val_every == 0) or s.step == self.last_step
        if s.step == 0 or s.validated == s.step or not due:
            return True
        self._check_weights()
        with self.precision.autocast():
            errors = evaluate(self.net, self.val_loader, self.mean, self._stopped, self.ranks.sum_over_slices)
        if errors is None:
            return False
        values = {"split": "val", "step": s.step, "epoch": s.step / self.batches, **asdict(errors), "crops": 1}
        best = errors.top1_error < min(s.errors, default=math.inf)
        s.errors.append(errors.top1_error)
        s.validated = s.step
        whole = self._whole()
        if best:
            s.best_step = s.step
            # before the checkpoint: killed between the two, the run comes here again with the same weights
            self._save_best(whole)
        self.record.validation(values, best, filters_of(whole, self.recipe.architecture.convs[0].name))
        self._save(whole)
        return True

    def _whole(self) -> shards.Held:
        """All towers' weights and velocities, on the first rank."""
        return shards.gather(self.net, self.optimizer, self.ranks)

    def _save_best(self, whole: shards.Held) -> None:
        model = TrainedModel(self.net, self.prepared.classes, self.prepared.mean, not self.settings.no_mirror)
        weights = {name: value.contiguous() for name, value in shards.weights(whole).items()}
        with self.ranks.main_only() as (first, _):
            if first:
                save_model(self.output, model, weights)

    def _save(self, whole: shards.Held) -> None:
        self._check_weights()
        self.meter.window()

        def save(metrics_size: int) -> None:
            self.state.metrics_size = metrics_size
            state.save(self.output / CHECKPOINTS, self.identity, self.state, self.parts, whole)

        self.record.saved(save)
        self.saved, self.saves, self.last_save = self.state.step, self.saves + 1, time.monotonic()

    def _check_weights(self) -> None:
        """Refuses to keep weights that an update made infinite after a loss that was finite."""
        # a sum is one pass, and not finite if any of its terms is not
        infinite = not all(bool(p.sum().isfinite()) for p in self.net.parameters())
        if self.ranks.max_over_ranks(int(infinite)):
            raise TrainingError(self._diverged(f"weights are not finite after step {self.state.step}"))

    def _diverged(self, what: str) -> str:
        kept = checkpoint.found(self.output / CHECKPOINTS)
        last = f"the last good checkpoint is {kept[0]}" if kept else "there was no checkpoint yet"
        return f"{what}: training diverged; {last}; lower --lr (now {self.settings.lr:g})"
