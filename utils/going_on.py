"""Which checkpoint a run goes on from after an interruption."""

import os
from pathlib import Path

from utils.exp_config import CallbackParams, ExpManagerConfig
from utils.logging import logger

WEIGHTS_ONLY_VARIABLE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's


def checkpoint_to_resume(options: ExpManagerConfig, folder: Path) -> str | None:
    """The last checkpoint of the folder under `resume_if_exists`, else `resume_from_checkpoint`.

    The order is that of NeMo 3.0.0's code (its docstring says the contrary): a run started from another run's
    checkpoint goes on from its own once it has one. Of several last ones NeMo takes none, we the newest.
    """
    start = options.resume_from_checkpoint
    if start and not Path(start).exists():
        raise FileNotFoundError(f"exp_manager.resume_from_checkpoint={start} doesn't exist")
    if options.resume_if_exists:
        checkpoints = checkpoint_folder(options.checkpoint_callback_params, folder)
        if (ended := next(checkpoints.rglob("*end.ckpt"), None)) and not options.resume_past_end:
            raise ValueError(f"{ended} says that this run has ended: set exp_manager.resume_past_end=true to go on")
        last = sorted(checkpoints.rglob("*last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not last and not ended and not start and not options.resume_ignore_no_checkpoint:
            raise FileNotFoundError(
                f"exp_manager.resume_if_exists: no checkpoint in {checkpoints}; "
                "set exp_manager.resume_ignore_no_checkpoint=true to start anew"
            )
        start = ended or (last[-1] if last else start)
    if start:
        logger.info(f"going on from {start}")
        os.environ[WEIGHTS_ONLY_VARIABLE] = "1"  # a checkpoint runs no code; not every Lightning has an option for it
    return str(start) if start else None


def checkpoint_folder(params: CallbackParams, folder: Path) -> Path:
    return Path(params.dirpath).absolute() if params.dirpath else folder / "checkpoints"
