"""How Lightning reads and writes a run's checkpoints: whole or not at all, and without running what is in them."""

from pathlib import Path

from lightning.pytorch.plugins.io import TorchCheckpointIO

from utils.checkpoint_files.checkpoint_file import load_checkpoint, save_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's plugin for files of checkpoints, for every save and load of a Trainer.

    A kill while saving leaves the file that was there before. A file that is damaged, or asks for code, is refused with
    a BadCheckpoint of one line. Local files only.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        if storage_options is not None:
            raise TypeError("checkpoints are local files: trainer.save_checkpoint takes no storage_options here")
        save_checkpoint(checkpoint, path)

    def load_checkpoint(self, path: str | Path, map_location: object = None, weights_only: bool | None = None) -> dict:
        """The whole checkpoint on the CPU. map_location, weights_only: Lightning's; it is always CPU and True.

        A run has its own config: one in the checkpoint that can't be resolved is left out, with a warning.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no checkpoint {path}")
        return load_checkpoint(path, needs_configs=False)
