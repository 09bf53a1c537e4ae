import logging

import pytest

from utils.logging import info_once, logger, rank, warn_once


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3),
        ({"LOCAL_RANK": "1"}, 1),
        ({"SLURM_PROCID": "2"}, 2),
        ({"RANK": ""}, 0),
    ],
)
def test_rank_is_what_the_launcher_exported(environment, expected):
    assert rank(environment) == expected


def test_once_means_once_per_sentence(caplog):
    for _ in range(3):
        info_once("a sentence of this test")
        warn_once("another sentence of this test")
    assert [record.getMessage() for record in caplog.records] == [
        "a sentence of this test",
        "another sentence of this test",
    ]


def test_plain_messages_repeat(caplog):
    logger.info("again")
    logger.info("again")
    assert len(caplog.records) == 2


def test_only_errors_come_from_other_ranks(caplog, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    logger.warning("every rank would say this")
    logger.error("this rank has a problem")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_messages_reach_stderr(capsys):
    logger.info("to the console")
    assert "INFO: to the console" in capsys.readouterr().err
