"""Training from the options to the end of the run, in ten steps, in each process."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alexnet_torch.console import StopSignal, console
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.decode import decoded_side
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.sources.recognise import data_folder
from alexnet_torch.data.sources.val_split import ValSplit
from alexnet_torch.data.workers import available_cores
from alexnet_torch.distributed.placement import Placement, choose_placement
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import UserError
from alexnet_torch.files import require_utf8, writing
from alexnet_torch.model import cpu_kernels
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import parse_stages
from alexnet_torch.recipes.command_line import parse
from alexnet_torch.recipes.recipe import EpochSchedule, Recipe
from alexnet_torch.recipes.settings import Settings, default_output, flag, options_of, resolve, with_earlier, with_homes
from alexnet_torch.run_folder import CONFIG, MODEL_WEIGHTS, claimed
from alexnet_torch.training.checkpoints import Checkpoints, RunState, run_key
from alexnet_torch.training.optimizers import build_optimizer, freeze_stages, parameter_groups
from alexnet_torch.training.run_log import RunLog, describe_run, record_end
from alexnet_torch.training.step import Precision
from alexnet_torch.training.tracking import require_tracker
from alexnet_torch.training.trainer import Trainer, write_page
from alexnet_torch.weights.model_file import TrainedModel
from alexnet_torch.weights.weight_file import copy_weights

_RESTART_PATIENCE = 60.0  # seconds in which the previous process of a torchrun job ends, on another machine perhaps


def train(**settings: Any) -> Path:
    """Trains as train.py with these settings, by the names of its options; returns the run's folder.

    Such as train(data="photos", recipe="demo", output="runs/mine"), in a notebook, a thread or a rank of torchrun.
    Raises the errors of errors.py: UserError for wrong settings, Interrupted once a run that Ctrl-C stops is saved.
    """
    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    words = [flag(name) if value is True else f"{flag(name)}={value}" for name, value in given.items()]
    with console(words), StopSignal() as stop, ExitStack() as failure:
        ranks = Ranks(World.from_environment())
        failure.callback(ranks.close, failed=True)
        trainer = launch(parse(words, "train()"), ranks, stop)
        failure.pop_all()
        ranks.close()
    return trainer.output


def launch(
    given: dict[str, Any],
    ranks: Ranks,
    stop: StopSignal,
    recipe: Recipe | None = None,
    placement: Placement | None = None,
    fit: bool = True,
) -> Trainer:
    """Trains as the options given, by name, say; raises the errors of errors.py.

    Experiments give a recipe and a placement of their own, or want a trainer before its first step, without `fit`.
    """
    control = ranks.control
    with ExitStack() as claim:
        # 1. settings and 2. claim of the run's folder: by the main rank for all, which may not see its disk
        chosen = control.broadcast_from_main(lambda: _claim_run(given, control.is_restart, claim))
        settings, own_recipe = control.run_on_all(lambda: resolve(chosen))
        recipe, output = recipe or own_recipe, Path(settings.output)

        # 3. placement: where the towers are, and which part of a batch this rank has
        placement = control.run_on_all(lambda: _place(settings, recipe, placement, ranks))
        if ranks.world.is_main:
            print(placement.describe(), flush=True)
        exchange = ranks.connect(placement, settings.timeout)

        # 4. images: decoded to one size, in which training cuts its crops
        prepared = _prepare(settings, recipe, placement, ranks)
        train_loader, val_loader = _loaders(settings, recipe, prepared, placement, ranks)

        # 5. network; channels_last is the convolutions' format: else each step converts weights and gradients
        size = len(prepared.classes), settings.image_size
        net = AlexNet(recipe.architecture, *size, placement.devices, settings.seed, exchange=exchange)
        net.to(memory_format=torch.channels_last)
        frozen = control.run_on_all(lambda: freeze_stages(net, settings.freeze))

        # 6. optimizer
        groups = parameter_groups(net, recipe.bias_decay, recipe.weight_decay, recipe.stage_decay)
        optimizer = build_optimizer(recipe.optimizer, groups, recipe.momentum)
        precision = Precision(settings.precision, *placement.devices)

        # 7. checkpoint of this run, or initial weights; both are refused before anything is written
        model = TrainedModel(net, prepared.classes, prepared.mean, not settings.no_mirror, prepared.names)
        own = net, optimizer, precision.scaler, ranks
        checkpoints = Checkpoints(output, run_key(settings, recipe, prepared), *own)
        with writing(f"--output {output}"):
            loaded = checkpoints.load(model) if settings.resume else None
            stages = parse_stages("--init-stages", settings.init_stages, net.architecture.stage_names)
            copy = partial(copy_weights, net, settings.init, stages, prepared.classes)
            state, source = loaded or (RunState(), control.run_on_all(copy))
            last_step = control.run_on_all(lambda: _last_step(settings, state, train_loader.batches_per_epoch))

            # 8. log
            config = describe_run(settings, recipe, prepared, placement)
            run_log = RunLog(ranks, state, last_step, settings, net, config)
        run_log.print(f"starting from {source}{frozen}")
        for line in _without_effect(settings, recipe, prepared, ranks):
            run_log.print(line)

        # 9. trainer
        learner = (net, optimizer, precision, model, train_loader, val_loader)
        trainer = Trainer(settings, recipe, prepared, ranks, *learner, state, last_step, run_log, checkpoints, stop)

        # 10. fit
        if fit:
            stop.install()
            control.mark_started()
            with record_end(output, ranks.world.is_main):
                trainer.fit()
            write_page(trainer)
    return trainer


def _claim_run(given: dict[str, Any], is_restart: bool, claim: ExitStack) -> dict[str, Any]:
    """Claims the run's folder; returns the options with those of the run that is continued or repeated."""
    given = with_homes(given)
    if "output" not in given:
        chosen = with_earlier(given)
        return chosen | {"output": str(claim.enter_context(claimed(Path(default_output(chosen)), new=True)))}
    output = Path(given["output"])
    require_utf8(output, "--output")
    claim.enter_context(claimed(output, _RESTART_PATIENCE if is_restart else 0.0))
    if any((output / name).exists() for name in (CONFIG, MODEL_WEIGHTS)):
        if is_restart:
            given = {name: value for name, value in given.items() if name != "config"} | {"resume": True}
        if not given.get("resume"):
            fix = "continue it with --resume, or name another folder"
            raise UserError(f"--output {output}: holds a run already; {fix}")
    return with_earlier(given)


def _place(settings: Settings, recipe: Recipe, placement: Placement | None, ranks: Ranks) -> Placement:
    """Returns the placement; refuses what does not fit it, before images are decoded."""
    try:
        recipe.architecture.final_side(settings.image_size)
    except ValueError as error:
        raise UserError(f"--image-size: {error}") from error
    for option, text in (("--init-stages", settings.init_stages), ("--freeze", settings.freeze)):
        parse_stages(option, text, recipe.architecture.stage_names)
    if settings.init is not None and not settings.resume and not Path(settings.init).exists():
        raise UserError(f"--init {settings.init}: no such file or folder; name a run's folder or a weight file")
    if ranks.world.is_main:
        require_tracker(settings.track)
    names = settings.devices.split(",") if settings.devices else None
    if placement is None:
        placement = choose_placement(names, recipe.architecture.towers, settings.split, ranks.world)
    kinds, (_, slices) = dict.fromkeys(device.type for device in placement.devices), placement.slices
    wrong = ""
    if settings.compile and placement.divides_network:
        wrong = f"--compile: torch cannot compile the exchanges of --split {placement.split}; leave out one"
    elif settings.precision == "fp16" and placement.divides_network:  # its ranks would scale their losses differently
        wrong = f"--precision fp16: not with --split {placement.split}; use --precision bf16, which needs no loss scale"
    elif settings.precision == "fp16" and len(kinds) > 1:  # torch's GradScaler does not wait for the other's overflows
        wrong = f"--precision fp16: not on {' and '.join(kinds)} together; use --precision bf16, or devices of one kind"
    elif settings.grad_accumulation > 1 and placement.shards_linear_stages:
        wrong = "--grad-accumulation: not with --split hybrid; use another --split"
    elif settings.batch_size < slices:
        wrong = f"--batch-size {settings.batch_size}: must be {slices} or more, one image for each slice"
    if wrong:
        raise UserError(wrong)
    return placement


def _prepare(settings: Settings, recipe: Recipe, placement: Placement, ranks: Ranks) -> PreparedImages:
    """Returns the images; the first rank of each machine compiles kernels and decodes."""
    control, is_first = ranks.control, ranks.world.local_rank == 0

    def images() -> PreparedImages:
        if is_first and ranks.world.local_size > 1 and placement.devices[0].type == "cpu":
            cpu_kernels.available()
        val_split = None if settings.val_split is None else ValSplit(settings.val_split, settings.seed)
        side = decoded_side(settings.image_size) if recipe.crop else settings.image_size
        return prepare(data_folder(settings.data), side, settings.cache, settings.skip_bad, None, val_split)

    first = control.run_on_all(lambda: images() if is_first else None)
    main = control.broadcast_from_main(lambda: {"data set": first.fingerprint if first else None})

    def same_as_main() -> PreparedImages:
        prepared = first or images()
        if prepared.fingerprint != main["data set"]:
            folder = f"{prepared.root} on the machine of rank {ranks.world.rank}"
            raise UserError(f"--data: {folder} differs from rank 0's images; copy rank 0's folder there")
        return prepared

    said_once = logging.getLogger("alexnet_torch.data")
    said_once.setLevel(logging.NOTSET if is_first else logging.ERROR)
    try:
        return control.run_on_all(same_as_main)
    finally:
        said_once.setLevel(logging.NOTSET)  # what a rank notices later is its own


def _loaders(
    settings: Settings, recipe: Recipe, prepared: PreparedImages, placement: Placement, ranks: Ranks
) -> tuple[Loader, Loader]:
    workers = settings.workers or available_cores(placement.world.local_size)
    pinned = placement.devices[0].type == "cuda"
    loader = partial(Loader, prepared, workers=workers, pinned=pinned, slices=placement.slices)
    loader = partial(loader, all_labels=placement.shards_linear_stages)
    streamed = ranks.max_over_ranks(int(prepared.train.images is None))  # on any machine
    if streamed and ranks.peers and placement.partners[1] > 1:
        merge = partial(ranks.peers.all_gather_rows, what="the exchange of decoded images")
        loader = partial(loader, partners=placement.partners, merge=merge)
    mirror, colour = not settings.no_mirror, recipe.pca_noise(settings.colour)
    train_loader = loader("train", settings.image_size, settings.batch_size, settings.seed, mirror, colour)
    return train_loader, loader("val", settings.image_size, settings.val_batch_size or settings.batch_size)


def _without_effect(settings: Settings, recipe: Recipe, prepared: PreparedImages, ranks: Ranks) -> Iterator[str]:
    """Yields a line for each option that does not do what one may expect of it."""
    images, schedule = len(prepared.train.labels), recipe.schedule
    if ranks.control.store is None and settings.timeout != options_of(Settings)["timeout"].default:
        yield "--timeout: without effect in one process"
    if settings.batch_size > images:
        yield f"--batch-size {settings.batch_size}: a batch has all {images} training images, as there are no more"
    if (settings.max_steps or 0) > settings.epochs * -(-images // settings.batch_size):
        yield f"--max-steps {settings.max_steps}: without effect, as --epochs {settings.epochs} ends before"
    changes = (*schedule.factors, *schedule.stage_factors) if isinstance(schedule, EpochSchedule) else ()
    if changes and settings.schedule is None and settings.epochs != recipe.epochs:
        at = ", ".join(str(epoch) for epoch, *_ in changes)
        kept = f"the recipe's learning rates change after epochs {at}, as for its own {recipe.epochs}"
        yield f"--epochs {settings.epochs}: {kept}; --schedule names one for any number"


def _last_step(settings: Settings, state: RunState, steps_per_epoch: int) -> int:
    by_epochs = settings.epochs * steps_per_epoch
    last_step = min(by_epochs, settings.max_steps or by_epochs)
    if state.step > last_step:
        option = f"--epochs {settings.epochs}" if last_step == by_epochs else f"--max-steps {settings.max_steps}"
        done = f"{state.step} steps, {state.step / steps_per_epoch:g} epochs,"
        raise UserError(f"{option}: the run has done {done} already; give more, or resume without it")
    return last_step
