"""Which checkpoint a run goes on from after an interruption."""

import re
from collections.abc import Iterable
from pathlib import Path

from utils.checkpoint_files.checkpoint_file import BadCheckpoint, load_checkpoint, verify_checkpoint
from utils.experiment.exp_config import CallbackParams, ExpManagerConfig
from utils.logging import is_rank_zero, logger

# stems of files written last: NeMo's, Lightning's, its SLURM requeue's
LAST = re.compile(r"(^|-)last(-v\d+)?$|^hpc_ckpt_\d+$")
REQUEUED = "hpc_ckpt_*.ckpt"  # Lightning's, where SLURM's signal comes before training begins
LOOKED_AT_FIRST = 5  # newest files that aren't called last; to look at one is to read all of it
DAMAGED = ".damaged"  # suffix of what is set aside


def checkpoint_to_resume(options: ExpManagerConfig, folder: Path) -> str | None:
    """Under `resume_if_exists` the run's newest checkpoint that is whole, else `resume_from_checkpoint`.

    The order is that of NeMo 3.0.0's code (its docstring says the contrary): a run started from another run's
    checkpoint goes on from its own once it has one. The newest is the one furthest in training, whatever its name,
    `last` or one of the best; NeMo takes the file called last, and none where there are two. Every rank decides for
    itself, from files that don't change before all ranks have decided.
    Raises FileNotFoundError where there is none and `resume_ignore_no_checkpoint` is false; ValueError where there are
    some and none is whole, or the run has ended (`*end.ckpt`) and `resume_past_end` is false.
    """
    start = options.resume_from_checkpoint
    if start and not Path(start).is_file():
        raise FileNotFoundError(f"exp_manager.resume_from_checkpoint={start} doesn't exist")
    if options.resume_if_exists:
        checkpoints = checkpoint_folder(options.checkpoint_callback_params, folder)
        if (ended := next(checkpoints.rglob("*end.ckpt"), None)) and not options.resume_past_end:
            raise ValueError(f"{ended} says that this run has ended: set exp_manager.resume_past_end=true to go on")
        files = [*checkpoints.rglob("*.ckpt"), *folder.glob(REQUEUED)]
        if not files and not start and not options.resume_ignore_no_checkpoint:
            raise FileNotFoundError(
                f"exp_manager.resume_if_exists: no checkpoint in {checkpoints}; "
                "set exp_manager.resume_ignore_no_checkpoint=true to start anew"
            )
        start = newest(files) if files else start
    if not start:
        return None
    try:
        steps, _ = progress(Path(start))
    except BadCheckpoint as error:
        raise ValueError(
            f"exp_manager.resume_from_checkpoint: {error}; a run goes on from the .ckpt of a run, and a new one starts "
            "from any other file with init_from_ptl_ckpt, init_from_nemo_model or model.restore_from"
        ) from error
    logger.info(f"going on from {start}, after {steps} steps")
    return str(start)


def checkpoint_folder(params: CallbackParams, folder: Path) -> Path:
    return Path(params.dirpath).absolute() if params.dirpath else folder / "checkpoints"


def is_last(path: str | Path) -> bool:
    """Whether a checkpoint is called what the last one of a run is called, not one of the best."""
    return LAST.search(Path(path).stem) is not None


def newest(files: Iterable[Path]) -> Path:
    """The checkpoint furthest in training among those that a run can go on from; says which are left out, and why.

    Raises ValueError where there is none: a run must not start anew in silence.
    """
    times = {path: path.stat().st_mtime for path in files}
    by_time = sorted(times, key=times.get, reverse=True)
    others = [path for path in by_time if not is_last(path)]
    first = [path for path in by_time if path not in others[LOOKED_AT_FIRST:]]
    reached: dict[Path, tuple[int, int]] = {}
    left_out: dict[Path, BadCheckpoint] = {}
    for path in [*first, *others[LOOKED_AT_FIRST:]]:
        if path not in first and reached:
            break
        try:
            reached[path] = progress(path)
        except BadCheckpoint as error:
            left_out[path] = error
    if not reached:
        reasons = "; ".join(str(error) for error in left_out.values())
        raise ValueError(
            f"exp_manager.resume_if_exists: the run can't go on from any of its {len(times)} checkpoints: {reasons}; "
            "bring a whole one back, or give the run another folder (exp_manager.name) to start anew"
        )
    chosen = max(reached, key=lambda path: (reached[path], is_last(path), times[path], path.name))
    for path, error in left_out.items():
        logger.warning(f"left out, going on from {chosen.name} instead: {error}{set_aside(path)}")
    return chosen


def progress(path: Path) -> tuple[int, int]:
    """(steps of the optimizer, batches) that a checkpoint has behind it.

    Raises BadCheckpoint, in one line, unless a run can go on from it.
    """
    content = load_checkpoint(path, map_location="meta", needs_configs=False)
    if not {"global_step", "loops", "state_dict"} <= content.keys():
        raise BadCheckpoint(f"{path} is no checkpoint of a training run")
    if "optimizer_states" not in content:
        raise BadCheckpoint(
            f"{path} has weights and no state of the optimizer (save_weights_only=true), so that no run can go on from "
            "it: a new run can start from its weights, with init_from_ptl_ckpt"
        )
    batches = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    return content["global_step"], batches


def set_aside(path: Path) -> str:
    """Give a damaged file, of the first process only, a name that nobody takes for a checkpoint's; returns a remark."""
    try:
        verify_checkpoint(path)
    except BadCheckpoint:
        if is_rank_zero():
            path.replace(path.with_name(path.name + DAMAGED))
            return f"; it is called {path.name}{DAMAGED} now"
    return ""
