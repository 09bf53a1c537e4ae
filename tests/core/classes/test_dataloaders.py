"""Which data a model reads, and when."""

import pytest
import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from core.classes import ModelPT
from core.classes.dataloaders import evaluation_sets


class Reader(ModelPT):
    """Notes which sections it is asked to read."""

    data_keys = ("manifest_filepath", "archive")

    def __init__(self, cfg: dict):
        super().__init__(OmegaConf.create(cfg))
        self.layer = torch.nn.Linear(1, 1)
        self.read: list[tuple[str, dict]] = []

    def build_dataloader(self, config: DictConfig, path: str) -> DataLoader:
        self.read.append((path, OmegaConf.to_container(config)))
        return DataLoader(torch.zeros(2, 1))

    def training_step(self, batch, batch_idx=0):
        return self.layer(batch).sum()

    def evaluation_step(self, batch):
        return {"loss": batch.sum()}, len(batch)


CFG = {
    "train_ds": {"manifest_filepath": "a.json"},
    "validation_ds": {"manifest_filepath": "b.json"},
    "test_ds": {"manifest_filepath": "c.json"},
    "optim": {"name": "sgd", "lr": 0.1},
}


def trainer() -> Trainer:
    return Trainer(
        max_steps=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_the_constructor_reads_nothing():
    assert Reader(CFG).read == []


@pytest.mark.parametrize(
    ("stage", "sections"),
    [("fit", ["train_ds", "validation_ds"]), ("validate", ["validation_ds"]), ("test", ["test_ds"]), ("predict", [])],
)
def test_a_stage_reads_its_own_data_once(stage, sections):
    model = Reader(CFG)
    model.setup(stage)
    model.setup(stage)
    assert [path for path, _ in model.read] == [f"model.{section}" for section in sections]


@pytest.mark.parametrize("section", [None, {"manifest_filepath": None}, {"manifest_filepath": "???"}])
def test_training_goes_without_validation_when_none_is_named(section):
    model = Reader({**CFG, "validation_ds": section})
    run = trainer()
    run.fit(model)
    assert [path for path, _ in model.read] == ["model.train_ds"]
    assert "val_loss" not in run.callback_metrics


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluating_without_data_is_an_error_that_names_the_key(stage):
    section = "validation_ds" if stage == "validate" else "test_ds"
    with pytest.raises(ValueError, match=f"model.{section}.manifest_filepath names no data"):
        getattr(trainer(), stage)(Reader({**CFG, section: None}))


def test_training_without_data_is_an_error():
    with pytest.raises(ValueError, match="train_ds is missing: name the training data"):
        trainer().fit(Reader({**CFG, "train_ds": None}))


def test_open_training_data_is_left_to_the_reader_to_refuse():
    model = Reader({**CFG, "train_ds": {"manifest_filepath": "???"}})
    model.setup("fit")
    assert [path for path, _ in model.read] == ["model.validation_ds"]
    model.train_dataloader()
    assert model.read[-1] == ("model.train_ds", {"manifest_filepath": "???"})


def test_a_model_says_which_keys_name_data():
    model = Reader({**CFG, "train_ds": {"archive": "a.tar"}, "validation_ds": {"manifest_filepath": "", "folder": "b"}})
    model.setup("fit")
    assert model.read == [("model.train_ds", {"archive": "a.tar"})]


def test_loaders_given_to_the_trainer_need_no_config():
    model = Reader({"optim": CFG["optim"], "train_ds": {"manifest_filepath": "???"}})
    trainer().fit(model, DataLoader(torch.ones(2, 1)), DataLoader(torch.ones(2, 1)))
    trainer().test(model, DataLoader(torch.ones(2, 1)), verbose=False)
    assert model.read == []


@pytest.mark.parametrize(
    ("setup", "section"),
    [
        ("setup_training_data", "train_ds"),
        ("setup_validation_data", "validation_ds"),
        ("setup_multiple_validation_data", "validation_ds"),
        ("setup_test_data", "test_ds"),
        ("setup_multiple_test_data", "test_ds"),
    ],
)
def test_a_section_given_later_is_read_and_kept_in_the_config(setup, section):
    model = Reader({"optim": None})
    getattr(model, setup)({"manifest_filepath": "new.json", "batch_size": 3})
    assert model.read == [(f"model.{section}", {"manifest_filepath": "new.json", "batch_size": 3})]
    assert model.cfg[section].batch_size == 3


def sets(**section):
    return evaluation_sets(OmegaConf.create(section), "val_dl_idx", "model.validation_ds")


def test_one_manifest_is_one_set_and_several_joined_by_commas_too():
    assert [OmegaConf.to_container(c) for c in sets(manifest_filepath="a.json,b.json", batch_size=2).configs] == [
        {"manifest_filepath": "a.json,b.json", "batch_size": 2}
    ]


def test_a_list_is_one_set_per_entry_with_the_options_of_the_section():
    found = sets(manifest_filepath=["x/dev-clean_manifest.json", "dev_other.json"], batch_size=2, val_dl_idx=1)
    assert [OmegaConf.to_container(c) for c in found.configs] == [
        {"manifest_filepath": "x/dev-clean_manifest.json", "batch_size": 2},
        {"manifest_filepath": "dev_other.json", "batch_size": 2},
    ]
    assert (found.prefixes, found.main) == (["dev_clean_", "dev_other_"], 1)


def test_sets_can_be_named():
    assert sets(manifest_filepath=["a/val.json", "b/val.json"], name=["a", "b"]).prefixes == ["a_", "b_"]


def test_an_entry_can_be_a_section_of_its_own():
    found = sets(manifest_filepath=[{"name": "loud", "manifest_filepath": "a.json", "batch_size": 1}, "b.json"])
    assert OmegaConf.to_container(found.configs[0]) == {"manifest_filepath": "a.json", "batch_size": 1}
    assert found.prefixes == ["loud_", "b_"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"manifest_filepath": ["a/val.json", "b/val.json"]}, "model.validation_ds: two sets are called 'val_' in the"),
        ({"manifest_filepath": ["a.json"], "name": ["a", "b"]}, "model.validation_ds.name has 2 names for 1 sets"),
        ({"manifest_filepath": ["manifest.json"]}, "model.validation_ds: 'manifest' says nothing in the logs"),
        ({"manifest_filepath": ["a.json", "b.json"], "val_dl_idx": 2}, "val_dl_idx=2 is not the index of one of its 2"),
        ({"manifest_filepath": "a.json", "val_dl_idx": -1}, "val_dl_idx=-1 is not the index of one of its 1 sets"),
    ],
)
def test_a_wrong_section_is_one_line_with_its_path(section, message):
    with pytest.raises(ValueError, match=message) as caught:
        sets(**section)
    assert "\n" not in str(caught.value)


def test_a_set_that_is_a_section_of_its_own_inherits_what_it_does_not_say():
    section = {
        "batch_size": 4,
        "sample_rate": 16000,
        "manifest_filepath": [{"name": "far", "manifest_filepath": "far.json", "batch_size": 2}, "near.json"],
    }
    far, near = evaluation_sets(OmegaConf.create(section), "val_dl_idx", "model.validation_ds").configs
    assert far == {"batch_size": 2, "sample_rate": 16000, "manifest_filepath": "far.json"}
    assert near == {"batch_size": 4, "sample_rate": 16000, "manifest_filepath": "near.json"}
