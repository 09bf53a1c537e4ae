"""Data loaders of a model: which sets its config names, when they are built, what they are called in the logs."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from torch.utils.data import DataLoader

from utils.logging import warn_once

SOURCE = "manifest_filepath"  # the key of a data section that says where its data is, and may name several sets


@dataclass
class EvaluationSets:
    """What stands in a validation or test section: one config per set, its log prefix, and whose loss is the loss."""

    configs: list[DictConfig]
    prefixes: list[str]
    main: int


class Dataloaders:
    """The part of a model that makes loaders of `train_ds`, `validation_ds` and `test_ds`.

    Under `manifest_filepath` of a validation or test section a list means one set per entry, each with metrics of its
    own, prefixed with the file's name or with the entry of `name`; an entry may be a section of its own, with a `name`
    and what differs from the section around it.
    `val_dl_idx` (`test_dl_idx`) is the set whose metrics are logged without prefix too, `val_loss` among them.
    """

    data_keys: tuple[str, ...] = (SOURCE,)  # any of these says where a section's data is; the others, of one set
    _train_dl: DataLoader | None = None
    _validation_dl: DataLoader | list[DataLoader] | None = None
    _test_dl: DataLoader | list[DataLoader] | None = None
    _validation_names: tuple[str, ...] = ()
    _test_names: tuple[str, ...] = ()
    _val_dl_idx: int = 0
    _test_dl_idx: int = 0

    def build_dataloader(self, config: DictConfig, path: str) -> DataLoader:
        """The loader of one data section. path: e.g. model.train_ds, for messages."""
        raise NotImplementedError(f"{type(self).__name__} has no build_dataloader, so it can't read {path}")

    # NeMo's verbs

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        """Build the training loader and keep its config as `cfg.train_ds`."""
        self._train_dl = self.build_dataloader(self._keep("train_ds", train_data_config), "model.train_ds")

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """Build one validation loader and keep its config as `cfg.validation_ds`."""
        config = self._keep("validation_ds", val_data_config)
        self._validation_dl = self.build_dataloader(config, "model.validation_ds")
        self._validation_names, self._val_dl_idx = (), 0

    def setup_test_data(self, test_data_config: DictConfig | dict) -> None:
        """Build one test loader and keep its config as `cfg.test_ds`."""
        config = self._keep("test_ds", test_data_config)
        self._test_dl = self.build_dataloader(config, "model.test_ds")
        self._test_names, self._test_dl_idx = (), 0

    def setup_multiple_validation_data(self, val_data_config: DictConfig | dict) -> None:
        """Build a loader for each validation set of the section."""
        sets = evaluation_sets(self._keep("validation_ds", val_data_config), "val_dl_idx", "model.validation_ds")
        self._validation_dl = [self.build_dataloader(config, "model.validation_ds") for config in sets.configs]
        self._validation_names, self._val_dl_idx = tuple(sets.prefixes), sets.main

    def setup_multiple_test_data(self, test_data_config: DictConfig | dict) -> None:
        """Build a loader for each test set of the section."""
        sets = evaluation_sets(self._keep("test_ds", test_data_config), "test_dl_idx", "model.test_ds")
        self._test_dl = [self.build_dataloader(config, "model.test_ds") for config in sets.configs]
        self._test_names, self._test_dl_idx = tuple(sets.prefixes), sets.main

    def _keep(self, section: str, config: DictConfig | dict) -> DictConfig:
        with open_dict(self.cfg):
            self.cfg[section] = config
        return self.cfg[section]

    # Lightning's hooks

    def setup(self, stage: str) -> None:
        """Build what the stage reads, unless it is there already or the config leaves it open."""
        cfg = self.cfg
        if stage == "fit" and self._train_dl is None and self.names_data(cfg.get("train_ds")):
            self.setup_training_data(cfg.train_ds)
        if stage in ("fit", "validate") and self._validation_dl is None and self.names_data(cfg.get("validation_ds")):
            self.setup_multiple_validation_data(cfg.validation_ds)
        if stage == "test" and self._test_dl is None and self.names_data(cfg.get("test_ds")):
            self.setup_multiple_test_data(cfg.test_ds)

    def train_dataloader(self) -> DataLoader:
        if self._train_dl is None:
            if self.cfg.get("train_ds") is None:
                raise ValueError("model.train_ds is missing: name the training data, or call setup_training_data")
            self.setup_training_data(self.cfg.train_ds)  # names no data: the error says how to
        return self._train_dl

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        if not self._validation_dl and self._trainer is not None and self._trainer.state.fn == "validate":
            raise ValueError(f"model.validation_ds.{SOURCE} names no data: there is nothing to validate on")
        if not self._validation_dl:  # training goes without validation, which is no reason for Lightning to worry
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        return self._validation_dl or []

    def test_dataloader(self) -> DataLoader | list[DataLoader]:
        if not self._test_dl:
            raise ValueError(f"model.test_ds.{SOURCE} names no data: there is nothing to test on")
        return self._test_dl

    def names_data(self, section: DictConfig | None) -> bool:
        """True when a data section says where its data is."""
        return section is not None and any(
            not OmegaConf.is_missing(section, key) and bool(section.get(key)) for key in self.data_keys
        )

    # names in the logs

    def logged_names(self, stage: str, metric: str, dataloader_idx: int) -> list[str]:
        """Under which names a metric of one set is logged. stage: val or test."""
        if stage == "val":
            prefixes, main, count = self._validation_names, self._val_dl_idx, len(self.trainer.num_val_batches)
        else:
            prefixes, main, count = self._test_names, self._test_dl_idx, len(self.trainer.num_test_batches)
        if count == 1:
            return [metric]
        prefix = prefixes[dataloader_idx] if len(prefixes) == count else f"{stage}_{dataloader_idx}_"
        return [prefix + metric, metric] if dataloader_idx == main else [prefix + metric]


def evaluation_sets(section: DictConfig, main_key: str, path: str) -> EvaluationSets:
    """The sets of a validation or test section.

    Raises ValueError, in one line, for two sets of one name, as many names as there aren't sets, or a main set that
    isn't there. NeMo 3.0.0 warns of equal names and then overwrites their metrics.
    """
    shared = {key: value for key, value in section.items_ex(resolve=False) if key not in (main_key, "name", SOURCE)}
    sources, names, main = section.get(SOURCE), section.get("name"), section.get(main_key) or 0
    if not isinstance(sources, ListConfig):
        if names is not None:
            warn_once(f"{path}.name={names!r} has no effect: one set is logged without a prefix")
        sources, names = [sources], None
    elif names is not None and len(names) != len(sources):
        raise ValueError(f"{path}.name has {len(names)} names for {len(sources)} sets: give each set one")

    configs, prefixes = [], []
    for index, source in enumerate(sources):
        if isinstance(source, DictConfig):
            own = {key: value for key, value in source.items_ex(resolve=False) if key != "name"}
            configs.append(OmegaConf.create({**shared, **own}))
            prefixes.append(log_prefix(source.get("name") or f"{index}", path))
        else:
            configs.append(OmegaConf.create({**shared, SOURCE: source}))
            prefixes.append(log_prefix(names[index] if names else Path(str(source)).stem, path))
    for prefix in prefixes:
        if prefixes.count(prefix) > 1:
            raise ValueError(f"{path}: two sets are called {prefix!r} in the logs: give each its own under {path}.name")
    if not 0 <= main < len(sources):
        raise ValueError(f"{path}.{main_key}={main} is not the index of one of its {len(sources)} sets")
    return EvaluationSets(configs, prefixes, main)


def log_prefix(name: str, path: str) -> str:
    """What precedes the metrics of a set: its name without the words manifest and dataset, as NeMo does it."""
    prefix = str(name).replace("-", "_").replace("manifest", "").replace("dataset", "")
    if not prefix:
        raise ValueError(f"{path}: {name!r} says nothing in the logs: give the sets names under {path}.name")
    return prefix if prefix.endswith("_") else f"{prefix}_"
