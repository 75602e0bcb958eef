"""The loop around the training step: reports, validations, checkpoints, the final test, and why a run ends."""

import logging
import math
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alexnet_torch.console import StopSignal
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.loader import Batch, Loader
from alexnet_torch.data.workers import available_cores
from alexnet_torch.distributed.control import waiting_for
from alexnet_torch.distributed.ranks import ParameterStates, Ranks, weights_of, wrap_data_parallel
from alexnet_torch.errors import Diverged, Interrupted, RunError, TrainingError
from alexnet_torch.evaluation.metrics import errors_in_words
from alexnet_torch.evaluation.scoring import Tested, default_num_crops, evaluate, score_validation_images
from alexnet_torch.files import explain_os_error
from alexnet_torch.model.alexnet import AlexNet, empty_network
from alexnet_torch.model.dropout import DropoutKey
from alexnet_torch.model.exchange import shard_sizes
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings
from alexnet_torch.run_folder import CHECKPOINTS
from alexnet_torch.training.checkpoints import Checkpoints, RunState, list_checkpoints
from alexnet_torch.training.optimizers import set_rates, update_ratios
from alexnet_torch.training.run_log import RunLog
from alexnet_torch.training.step import CapturedStep, Precision, Step, TrainMetrics, step_inputs, train_step
from alexnet_torch.weights.model_file import TrainedModel, first_not_finite, read_model_files, save_model

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains a network on prepared images, into a run folder. `launch` makes its parts."""

    settings: Settings
    recipe: Recipe
    prepared: PreparedImages
    ranks: Ranks
    net: AlexNet  # this rank's towers
    optimizer: torch.optim.Optimizer
    precision: Precision
    model: TrainedModel  # the network with the classes and the mean of the images
    train_loader: Loader
    val_loader: Loader
    state: RunState
    last_step: int  # steps in the run
    run_log: RunLog
    checkpoints: Checkpoints
    stop: StopSignal

    def __post_init__(self) -> None:
        self.step: Step = self._step_of(self.net)  # `fit` wraps or captures it
        self.stopped_by = 0  # the signal for which all ranks stop
        self.tested: Tested | None = None  # the best weights, at the end
        self.steps_per_epoch = self.train_loader.batches_per_epoch
        self.output = Path(self.settings.output)
        self.mean = self.model.device_mean()  # (S, S, 3)
        self.means = [self.mean.to(device) for device in dict.fromkeys(self.net.devices)]
        self.metrics = TrainMetrics(self.state, self.mean.device, self.net.num_classes, self.steps_per_epoch)

    def fit(self) -> None:
        """Trains to the last step or a signal, validates and saves; raises an error of errors.py."""
        try:
            with closing(self.run_log):
                self._start()
                while self._validate_if_due() and self.state.step < self.last_step and not self.stop_requested():
                    self.train_epoch()
                if self.checkpoints.saved_step != self.state.step:
                    self._save(self.checkpoints.gather())
                if self.state.step == self.last_step:
                    self._test_best()
        except OSError as error:
            error.filename = error.filename or str(self.output)  # an open file's errors have no name
            where = f"rank {self.ranks.world.rank}: " if self.ranks.world.rank else ""
            reason = f"training stops: {explain_os_error(error)}, then continue with --resume"
            raise RunError(where + reason) from error
        if self.stopped_by:
            raise Interrupted(self.stopped_by, f"stopped after step {self.state.step}; continue with --resume")
        if stuck := self.metrics.stuck_message():
            raise TrainingError(stuck)

    def train_epoch(self) -> None:
        epoch, first_batch = divmod(self.state.step, self.steps_per_epoch)
        self.net.train()
        self.metrics.start_clock()
        for batch in self.metrics.timed(self.train_loader.epoch(epoch, first_batch)):
            self.train_batch(batch)
            if self.state.step == self.last_step:
                break
            saves, minutes = self.checkpoints.saves, (time.monotonic() - self.checkpoints.last_save) / 60
            save_due = self.ranks.world.is_main and minutes > self.settings.save_every
            flags = self.stop.signal or 0, saves + 1 if save_due else 0
            self.stopped_by, save = self.ranks.max_over_ranks_delayed(*flags)
            if self.stopped_by:
                break
            if save > saves:  # the answer is one step old: it may ask for the save that is already done
                self._save(self.checkpoints.gather())

    def train_batch(self, batch: Batch) -> None:
        seed, step, rows = self.settings.seed, self.state.step, batch.batch_rows
        dropout_keys = self.net.dropout_keys(seed, step)
        inputs = {mean.device: step_inputs(batch, dropout_keys, mean) for mean in self.means}
        first, labels, keys = inputs[self.mean.device]
        # to each device as bytes: a quarter of what float images are between devices
        images = first if len(inputs) == 1 else [inputs[device][0] for device in self.net.devices]
        rates = self.recipe.rates(self.settings.lr, step / self.steps_per_epoch, self.state.errors)
        set_rates(self.optimizer, rates)
        with waiting_for(f"the sum of gradients of step {step + 1}"):
            loss, wrong = self.step(images, labels, DropoutKey(seed, step, batch.first_row, keys), rows)
        sums = torch.stack([loss.double() * rows, wrong.double()])
        self.metrics.add(self.ranks.sum_over_slices(sums), rows)
        if step == 0:
            self.run_log.log_samples(batch.images)
        self.state.step += 1
        self.run_log.advance()
        if self.state.step % self.settings.log_every == 0 or self.state.step == self.last_step:
            self._report(rates.weights)

    def _step_of(self, net: nn.Module) -> Step:
        own, how = (self.optimizer, self.precision), (self.settings.label_smoothing, self.settings.grad_accumulation)
        return lambda images, labels, dropout, rows: train_step(net, *own, images, labels, dropout, rows, *how)

    def _start(self) -> None:
        """Logs the network before its first step; captures or compiles the step, and wraps it for several ranks."""
        if self.state.step == 0:
            self.run_log.log_start(weights_of(self.checkpoints.gather(self.recipe.architecture.convs[0].name)))
        if self.settings.compile:
            if self.mean.is_cuda and len(set(self.net.devices)) == self.ranks.world.size == 1:
                self.step = CapturedStep(self.step, self.optimizer, self.settings.batch_size)
            else:
                self.net.compile_stages()
        if (parallel_net := wrap_data_parallel(self.net, self.ranks)) is not self.net:
            self.step = self._step_of(parallel_net)
            self._warm_up(parallel_net)

    def _warm_up(self, parallel_net: nn.Module) -> None:
        """Runs a step without an update, which fixes DDP's buckets: on them depend the last bits of sums."""
        size, (index, count) = self.net.image_size, self.ranks.placement.slices
        rows = shard_sizes(self.settings.batch_size, count)[index]  # as in training: --compile is for one size
        self.net.train()
        images = torch.zeros(rows, 3, size, size, device=self.mean.device, dtype=self.mean.dtype)
        with waiting_for("the warm-up step"), self.precision.autocast():
            parallel_net(images, DropoutKey(self.settings.seed, 0)).sum().backward()
        self.optimizer.zero_grad()

    def stop_requested(self) -> bool:
        self.stopped_by = max(self.stopped_by, self.ranks.max_over_ranks(self.stop.signal or 0))
        return self.stopped_by > 0

    def _report(self, rate: float) -> None:
        self.ranks.max_over_ranks(0)  # waits for all: reading a number from a GPU may wait for a lost one for ever
        was_stuck, steps = self.metrics.stuck_message(), self.state.steps
        record = self.metrics.report(rate)
        if not math.isfinite(record["loss"]):  # the same on all ranks
            self._require_finite(False, self._loss_cause(record["loss"], steps))
        if (message := self.metrics.stuck_message()) and not was_stuck:
            self.run_log.print(message)
        self.run_log.log_train(record)
        self.metrics.start_clock()

    def _validate_if_due(self) -> bool:
        """Validates at the end of an epoch and of the run. Returns False if a signal interrupts it."""
        state = self.state
        epochs, steps_in_epoch = divmod(state.step, self.steps_per_epoch)
        due = (steps_in_epoch == 0 and epochs % self.settings.val_every == 0) or state.step == self.last_step
        if state.step == 0 or state.validated == state.step or not due:
            return True
        self._check_weights()
        with self.precision.autocast():
            errors = evaluate(self.model, self.val_loader, self.stop_requested, self.ranks.sum_over_slices)
        if errors is None:
            return False
        cause = f"the validation loss after step {state.step} is {errors.loss}"
        self._require_finite(math.isfinite(errors.loss), cause)
        is_best = errors.top1_error < min(state.errors, default=math.inf)
        state.errors.append(errors.top1_error)
        state.validated = state.step
        gathered = self.checkpoints.gather()
        weights = {name: value.contiguous() for name, value in weights_of(gathered).items()}
        if is_best:
            state.best_step = state.step
            # before the checkpoint: a run killed between the two validates the same weights again
            with self.ranks.control.main_only() as is_main:
                if is_main:
                    save_model(self.output, self.model, weights)
        record = self._val_record(state.step, errors.values(), 1)
        self.run_log.log_validation(record, state.errors, weights, update_ratios(gathered, self.optimizer))
        if line := errors.warning(self.model.labels):
            self.run_log.print(line)
        self._save(gathered)
        return True

    def _val_record(self, step: int, errors: dict[str, float], crops: int) -> dict[str, Any]:
        return {"split": "val", "step": step, "epoch": step / self.steps_per_epoch, **errors, "crops": crops}

    def _save(self, gathered: ParameterStates) -> None:
        self._check_weights()
        loss = self.metrics.mean_loss()
        self._require_finite(math.isfinite(loss), self._loss_cause(loss, self.state.steps))
        self.state.metrics_size = self.run_log.sync() or 0
        self.checkpoints.save(self.state, gathered)

    def _test_best(self) -> None:
        """Tests the best weights, each rank on some images; the next --resume does what a signal interrupts."""
        net, world, step = self.net, self.ranks.world, self.state.best_step
        if step is None:  # the first validation was interrupted
            return
        towers, devices = net.architecture.towers, net.devices
        own_devices = devices if len(devices) == towers else devices[:1] * towers
        full_net = empty_network(net.architecture, net.num_classes, net.image_size, own_devices).eval()
        full_net.load_state_dict(self.ranks.read_on_main(lambda: read_model_files(self.output)[1]))
        model = replace(self.model, net=full_net)
        slices, workers, crops = (world.rank, world.size), available_cores(world.local_size), default_num_crops([model])
        parts = slices, self.ranks.sum_over_ranks, workers
        self.tested = score_validation_images(model, self.prepared, crops, self.stop_requested, *parts)
        if self.tested is None:
            return
        centre, averaged = self.tested.errors[1], self.tested.errors[crops]
        cause = f"the loss of the best weights, of step {step}, is not finite with {crops} crops"
        self._require_finite(math.isfinite(centre.loss + averaged.loss), cause)
        text = f"best weights, of step {step}, in {self.output}/model.pt: "
        text += errors_in_words(centre.values(), net.num_classes)
        if crops > 1:  # else a validation was this test
            # after the last checkpoint: a run resumed for more epochs is tested at its own end
            self.run_log.log_test(self._val_record(step, averaged.values(), crops))
            text += f"; with {crops} crops {errors_in_words(averaged.values(), net.num_classes)}"
        self.run_log.print(text)

    def _check_weights(self) -> None:
        self.ranks.max_over_ranks(0)  # as before a report
        tensors = dict(self.net.named_parameters())
        for name, parameter in self.net.named_parameters():
            tensors |= {f"{name}/{key}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        self._require_finite(not first_not_finite(tensors), f"weights are not finite after step {self.state.step}")

    def _require_finite(self, is_finite: bool, cause: str) -> None:
        if self.ranks.max_over_ranks(int(not is_finite)):
            saved = list_checkpoints(self.output / CHECKPOINTS)
            last = f"the last good checkpoint is {saved[0]}" if saved else "there was no checkpoint yet"
            raise Diverged(f"{cause}: training diverged; {last}; lower --lr (now {self.settings.lr:g})")

    def _loss_cause(self, loss: float, steps: int) -> str:
        return f"the mean loss of the {steps} step(s) up to step {self.state.step} is {loss}"


def write_page(trainer: Trainer) -> None:
    if not trainer.ranks.world.is_main or trainer.tested is None:
        return
    try:  # here, not at the top: matplotlib takes a second to import, and may not be able to
        from alexnet_torch.evaluation.report_page import write_report

        path = write_report(trainer.output, trainer.tested.model, trainer.prepared, tested=trainer.tested)
        print(f"the page about the run: {path}")
    except Exception as error:  # the run is complete and saved, and must not end as a failure
        later = f"python -m alexnet_torch report {trainer.output} writes it"
        logger.warning("the page about the run could not be written (%r); %s", error, later)
