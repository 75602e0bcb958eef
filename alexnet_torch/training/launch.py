"""Assembles the training that the options describe, and runs it: in one process or in each of several."""

import json
import logging
import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alexnet_torch.data.decode import decoded_side
from alexnet_torch.data.digits import data_folder
from alexnet_torch.data.fingerprint import Fingerprint
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.data.sources.val_split import ValSplit
from alexnet_torch.data.worker_processes import available_cores
from alexnet_torch.distributed.choose_placement import choose_placement
from alexnet_torch.distributed.placement import Placement
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.distributed.world import World
from alexnet_torch.errors import UserError
from alexnet_torch.files import atomic_write, explain_os_error, require_utf8
from alexnet_torch.model import cpu_kernels
from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.model.architecture import parse_stages
from alexnet_torch.recipes.ablations import apply_ablation
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.recipes.settings import Settings, resolve
from alexnet_torch.run_folder import CHECKPOINTS, CONFIG, MODEL_WEIGHTS, claimed
from alexnet_torch.signals import StopSignal
from alexnet_torch.training.checkpoints import RunCheckpoints
from alexnet_torch.training.final_test import write_page
from alexnet_torch.training.initial_weights import check_start, freeze_stages, load_initial_weights
from alexnet_torch.training.optimizers import build_optimizer, parameter_groups
from alexnet_torch.training.precision import Precision
from alexnet_torch.training.restore import restore_run_files
from alexnet_torch.training.run_config import describe_run
from alexnet_torch.training.run_end import record_end
from alexnet_torch.training.run_log import RunLog
from alexnet_torch.training.run_model import run_model
from alexnet_torch.training.run_state import RunState, identity
from alexnet_torch.training.tracking import require_tracker
from alexnet_torch.training.train_metrics import TrainMetrics
from alexnet_torch.training.trainer import Trainer

_RESTART_PATIENCE = 60.0  # seconds in which the previous process of a torchrun job ends, on another machine perhaps

logger = logging.getLogger(__name__)


def launch(given: dict[str, Any], ranks: Ranks, stop: StopSignal) -> None:
    """Trains as the options say, as one of several processes or as the only one.

    Args:
        given: the options given, by name.
        stop: installed before the first step.

    Raises:
        UserError: the options are wrong on this rank; OtherRankFailed if on another.
        TrainingError, Interrupted: as for `Trainer.fit`.
    """
    with ExitStack() as claim:
        _launch(given, ranks, stop, claim)


def _launch(given: dict[str, Any], ranks: Ranks, stop: StopSignal, claim: ExitStack) -> None:
    control = ranks.control
    # read by the main rank, which claims the folder for all: ranks on other machines may not see it
    settings = Settings(**control.broadcast_from_main(lambda: asdict(_settings(given, control.is_restart, claim))))
    recipe, placement = control.run_on_all(lambda: _plan(settings, ranks.world))
    if ranks.world.is_main:
        print(placement.describe(), flush=True)
    # local rank 0 compiles and decodes for its machine; the other ranks then find the result
    is_first = ranks.world.local_rank == 0
    logging.getLogger("alexnet_torch.data").setLevel(logging.NOTSET if is_first else logging.ERROR)  # said once
    prepared = control.run_on_all(lambda: _prepare_machine(settings, placement) if is_first else None)
    prepared = control.run_on_all(lambda: prepared or _images(settings))
    _require_same_images(prepared, ranks)
    try:
        # before the folder exists or its config.json is overwritten: refuses weights that do not fit, and another run
        trainer = build_trainer(settings, recipe, prepared, placement, ranks, stop)
        stop.install()
        description = describe_run(settings, recipe, prepared, placement)
        text = json.dumps(description, indent=1, allow_nan=False).encode()
        with control.main_only() as is_main:
            if is_main:
                atomic_write(trainer.output / CONFIG, lambda file: file.write(text))
                control.mark_started()
                for name in ("hardware", "python", "versions", "commit"):
                    logger.debug(f"{name}: {description[name]}")
    except OSError as error:
        raise UserError(f"--output {settings.output}: {explain_os_error(error)}") from error
    with record_end(trainer.output, ranks.world.is_main):
        trainer.fit()
    write_page(trainer)


def build_trainer(
    settings: Settings,
    recipe: Recipe,
    prepared: PreparedImages,
    placement: Placement,
    ranks: Ranks | None = None,
    stop: StopSignal | None = None,
) -> Trainer:
    """Returns a trainer with all its parts, resumed from its newest checkpoint if `settings.resume`.

    Args:
        settings: resolved.
        recipe: the recipe that `settings` name.
        ranks: the processes of `placement`, connected here; this process only by default.
        stop: stops the training; by default no signal does.

    Raises:
        UserError: the checkpoint is of another run or none is intact, or the initial weights do not fit.
    """
    ranks, output, device = ranks or Ranks(placement.world), Path(settings.output), placement.devices[0]
    exchange, num_classes = ranks.connect(placement, settings.timeout), len(prepared.classes)
    net = AlexNet(
        recipe.architecture, num_classes, settings.image_size, placement.devices, settings.seed, exchange=exchange
    ).to(memory_format=torch.channels_last)  # the convolutions' format: else each step converts weights and gradients
    groups = parameter_groups(net, recipe.bias_decay, recipe.weight_decay)
    optimizer = build_optimizer(recipe.optimizer, groups, recipe.momentum)
    precision = Precision(settings.amp, *placement.devices)
    mean = torch.from_numpy(prepared.mean).to(device, torch.get_default_dtype())  # (S, S, 3)
    train_loader, val_loader = _loaders(settings, recipe, prepared, placement, ranks)
    steps_per_epoch = train_loader.batches_per_epoch
    last_step = min(settings.epochs * steps_per_epoch, settings.max_steps or settings.epochs * steps_per_epoch)
    frozen = parse_stages("--freeze", settings.freeze, recipe.architecture.stage_names) or ()
    ranks.control.run_on_all(lambda: freeze_stages(net, frozen))
    run = identity(settings, recipe, prepared)
    checkpoints = RunCheckpoints(output / CHECKPOINTS, run, net, optimizer, precision.scaler, ranks)
    loaded = checkpoints.load() if settings.resume else None
    state, source = loaded or (RunState(), ranks.control.run_on_all(lambda: load_initial_weights(net, settings)))
    ranks.control.run_on_all(lambda: _require_steps(settings, state, last_step, steps_per_epoch))
    if loaded:
        model = run_model(net, prepared, not settings.no_mirror)
        with ranks.control.main_only() as is_main:
            if is_main:
                restore_run_files(output, state, checkpoints.metrics, model, logger.warning)
    metrics = TrainMetrics(state, device, num_classes, steps_per_epoch)
    run_log = RunLog(output, ranks, state, last_step, asdict(settings), recipe.architecture.stage_names)
    run_log.print(f"starting from {source}")
    if frozen:
        run_log.print(f"frozen, their weights and biases do not change: {', '.join(frozen)}")
    learner = (net, optimizer, precision, mean, train_loader, val_loader)
    records = (state, last_step, metrics, run_log, checkpoints)
    return Trainer(settings, recipe, prepared, ranks, *learner, *records, stop or StopSignal())


def _require_steps(settings: Settings, state: RunState, last_step: int, steps_per_epoch: int) -> None:
    """Refuses an end that the run has passed: its config.json would say what the run is not."""
    if state.step > last_step:
        by_epochs = last_step == settings.epochs * steps_per_epoch
        option = f"--epochs {settings.epochs}" if by_epochs else f"--max-steps {settings.max_steps}"
        done = f"{state.step} steps, {state.step / steps_per_epoch:g} epochs,"
        raise UserError(f"{option}: the run has done {done} already; give more, or resume without it")


def _loaders(
    settings: Settings, recipe: Recipe, prepared: PreparedImages, placement: Placement, ranks: Ranks
) -> tuple[Loader, Loader]:
    """Returns the loaders of the training and validation images, for this rank's slice of each batch."""
    workers, pinned = available_cores(placement.world.local_size), placement.devices[0].type == "cuda"
    loader = partial(Loader, prepared, workers=workers, pinned=pinned, slices=placement.slices)
    loader = partial(loader, all_labels=placement.scores_all_rows)
    streamed = ranks.collectives.max_over_ranks(int(prepared.train.images is None))  # on any machine
    if streamed and ranks.peers and placement.partners[1] > 1:
        merge = partial(ranks.peers.all_gather_rows, what="the exchange of decoded images")
        loader = partial(loader, partners=placement.partners, merge=merge)
    mirror, colour = not settings.no_mirror, recipe.colour_noise(settings.colour)
    train_loader = loader("train", settings.image_size, settings.batch_size, settings.seed, mirror, colour)
    return train_loader, loader("val", settings.image_size, settings.batch_size)


def _settings(given: dict[str, Any], is_restart: bool, claim: ExitStack) -> Settings:
    """Claims the run's folder, which wrong options do not create; returns the resolved settings.

    A rank that torchrun restarts resumes its run without being asked.
    """
    patience = _RESTART_PATIENCE if is_restart else 0.0
    output = Path(given.get("output", ""))
    if is_old := "output" in given and output.is_dir():
        claim.enter_context(claimed(output, patience))  # before its config.json is read
    if is_restart and _has_run(output):
        given = {name: value for name, value in given.items() if name != "config"} | {"resume": True}
    settings = resolve(given)
    require_utf8(settings.output, "--output")
    if not is_old:
        output = claim.enter_context(claimed(Path(settings.output), patience, new="output" not in given))
    settings = replace(settings, output=str(output))
    if _has_run(output) and not settings.resume:
        raise UserError(f"--output {output}: holds a run already; continue it with --resume, or name another folder")
    return settings


def _has_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG, MODEL_WEIGHTS))


def _require_memory(settings: Settings) -> None:
    """Refuses images whose mean does not fit into memory: its sums, int64, and itself, float32, of three channels."""
    side, memory = decoded_side(settings.image_size), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if (needed := 36 * side * side) > memory:
        raise UserError(
            f"--image-size {settings.image_size}: the mean image alone takes {needed / 1e9:,.0f} GB, and this machine "
            f"has {memory / 1e9:,.0f} GB of memory; give fewer pixels"
        )


def _plan(settings: Settings, world: World) -> tuple[Recipe, Placement]:
    """Returns the recipe and the placement, and checks the settings against both."""
    recipe = apply_ablation(RECIPES[settings.recipe](), settings.ablation)
    try:
        recipe.architecture.final_side(settings.image_size)
    except ValueError as error:
        raise UserError(f"--image-size: {error}") from error
    _require_memory(settings)
    check_start(settings, recipe.architecture)
    if world.is_main:
        require_tracker(settings.track)
    names = settings.devices.split(",") if settings.devices else None
    placement = choose_placement(names, recipe.architecture.towers, settings.split, world)
    if settings.compile and placement.divides_network:
        raise UserError(f"--compile: torch cannot compile the exchanges of --split {placement.split}; leave out one")
    if settings.amp == "fp16" and placement.divides_network:  # its ranks would scale their losses differently
        raise UserError(f"--amp fp16: not with --split {placement.split}; use --amp bf16, which needs no loss scale")
    kinds = dict.fromkeys(device.type for device in placement.devices)
    if settings.amp == "fp16" and len(kinds) > 1:  # torch's GradScaler does not wait for the other device's overflows
        raise UserError(f"--amp fp16: not on {' and '.join(kinds)} together; use --amp bf16, or devices of one kind")
    _, slices = placement.slices
    if settings.batch_size < slices:
        raise UserError(f"--batch-size {settings.batch_size}: must be {slices} or more, one image for each slice")
    return recipe, placement


def _prepare_machine(settings: Settings, placement: Placement) -> PreparedImages:
    """Compiles the kernels and prepares the images, once for all ranks of a machine."""
    if placement.world.local_size > 1 and placement.devices[0].type == "cpu":
        cpu_kernels.available()
    return _images(settings)


def _images(settings: Settings) -> PreparedImages:
    side, root = decoded_side(settings.image_size), data_folder(settings.data)
    val_split = None if settings.val_split is None else ValSplit(settings.val_split, settings.seed)
    return prepare(root, side, settings.cache, settings.skip_bad, None, val_split)


def _require_same_images(prepared: PreparedImages, ranks: Ranks) -> None:
    """Refuses machines whose images differ: their orders and crops would belong to different runs."""
    main = ranks.control.broadcast_from_main(prepared.fingerprint.saved)

    def compare() -> None:
        if not prepared.fingerprint.same_as(Fingerprint.of(main)):
            folder = f"{prepared.root} on the machine of rank {ranks.world.rank}"
            raise UserError(f"--data: {folder} differs from rank 0's images; copy rank 0's folder there")

    ranks.control.run_on_all(compare)
