import csv

import torch

from utils.experiment.csv_logger import TableLogger


def lines(folder) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def log(folder, *logged: tuple[int, dict]) -> None:
    logger = TableLogger(folder)
    for step, metrics in logged:
        logger.log_metrics(metrics, step)


def test_each_line_is_on_the_disk_when_it_is_logged(tmp_path):
    log(tmp_path, (9, {"loss": torch.tensor(0.5)}), (19, {"loss": 0.25}))
    assert lines(tmp_path) == [{"step": "9", "loss": "0.5"}, {"step": "19", "loss": "0.25"}]


def test_new_columns_leave_earlier_lines_as_they_were(tmp_path):
    log(tmp_path, (9, {"loss": 0.5}), (9, {"val_loss": 2.0}), (19, {"loss": 0.25}))
    assert lines(tmp_path) == [
        {"step": "9", "loss": "0.5", "val_loss": ""},
        {"step": "9", "loss": "", "val_loss": "2.0"},
        {"step": "19", "loss": "0.25", "val_loss": ""},
    ]


def test_a_resumed_run_goes_on_and_takes_the_place_of_what_came_after_its_checkpoint(tmp_path):
    log(tmp_path, (9, {"loss": 0.5}), (19, {"loss": 0.25}), (29, {"loss": 0.1}))
    log(tmp_path, (19, {"loss": 0.25}), (29, {"loss": 0.125, "new": 1.0}))
    assert [(line["step"], line["loss"], line["new"]) for line in lines(tmp_path)] == [
        ("9", "0.5", ""),
        ("19", "0.25", ""),
        ("29", "0.125", "1.0"),
    ]


def test_a_line_that_a_kill_cut_is_no_harm(tmp_path):
    log(tmp_path, (9, {"loss": 0.5, "x": 1.0}))
    with open(tmp_path / "metrics.csv", "a", encoding="utf-8") as file:
        file.write("19,0.")
    log(tmp_path, (19, {"loss": 0.25}))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [("9", "0.5"), ("19", "0.25")]


def test_a_run_that_starts_anew_starts_the_table_anew(tmp_path):
    log(tmp_path, (9, {"loss": 0.5}), (19, {"loss": 0.25}))
    log(tmp_path, (4, {"other": 1.0}))
    assert lines(tmp_path) == [{"step": "4", "other": "1.0"}]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log(tmp_path, (9, {"loss": 0.5}))
    assert not list(tmp_path.iterdir())
