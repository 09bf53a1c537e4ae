import pickle

import numpy as np
import pytest
from lightning.fabric.utilities import move_data_to_device

from parts.batch_types import BadSample
from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.drawn_audio import MAX_TRIALS, LastTrial, as_utterance, draw_audio
from parts.preprocessing.utterances import Utterance
from utils.logging import logger
from utils.training import rejects_list


@pytest.fixture(autouse=True)
def nothing_said_yet():
    """Each test hears what an earlier one heard too."""
    next(one for one in logger.filters if hasattr(one, "seen")).seen.clear()


def lines(tmp_path, *names):
    return [Utterance(str(tmp_path / name), 1.0, 0.0, "noise.json", line) for line, name in enumerate(names, 1)]


def load(entry):
    if entry.audio_filepath.endswith("bad.wav"):
        raise BadAudio("empty", "no samples")
    return entry.line


def draw(files, rejected, seed=0, **options):
    return draw_audio(files, load, np.random.default_rng(seed), kind="noise", rejected=rejected, **options)


def test_another_line_stands_in_for_a_bad_one_which_is_listed(tmp_path):
    files, rejected = lines(tmp_path, "bad.wav", "good.wav"), []
    assert {draw(files, rejected, seed) for seed in range(20)} == {2}
    assert {*rejected} == {BadSample(files[0].audio_filepath, "noise_empty", "no samples", "noise.json", 1)}


@pytest.mark.parametrize("max_trials", [MAX_TRIALS, 3])
def test_after_so_many_bad_ones_in_a_row_there_is_nothing(tmp_path, caplog, max_trials):
    rejected = []
    for _ in range(2):
        assert draw(lines(tmp_path, "bad.wav"), rejected, max_trials=max_trials) is None
    assert {bad.reason for bad in rejected} == {"noise_empty"} and len(rejected) == 2 * max_trials
    assert [isinstance(bad, LastTrial) for bad in rejected] == 2 * [*[False] * (max_trials - 1), True]
    assert caplog.text.count("there are samples for which no noise was found") == 1


def test_the_last_trial_stays_one_in_a_worker_and_on_a_device():
    last = LastTrial("a.wav", "noise_empty", "no samples", "noise.json", 1)
    assert isinstance(pickle.loads(pickle.dumps(last)), LastTrial)
    assert isinstance(move_data_to_device((last,), "cpu")[0], LastTrial)


def test_without_lines_nothing_is_drawn(caplog):
    assert draw([], []) is None and not caplog.messages


@pytest.mark.parametrize("rejected", [[], None])
def test_a_bad_line_is_said_once_with_manifest_and_line(tmp_path, caplog, rejected):
    files = lines(tmp_path, "bad.wav")
    draw(files, rejected)
    path = files[0].audio_filepath
    assert caplog.messages[:-1] == [f"noise left out: {path}: noise_empty (no samples), noise.json:1"]


@pytest.mark.parametrize(("rejected", "times"), [([], 0), (None, 1)])
def test_a_loaders_worker_says_only_what_it_hands_back_to_nobody(tmp_path, caplog, monkeypatch, rejected, times):
    monkeypatch.setattr(rejects_list, "get_worker_info", lambda: "of a worker")
    draw(lines(tmp_path, "bad.wav"), rejected)
    assert caplog.text.count("bad.wav") == times


def test_a_dict_of_nemos_users_is_an_utterance():
    assert as_utterance({"audio_filepath": "a.wav", "duration": 0}) == Utterance("a.wav", None, 0.0)
    assert as_utterance({"audio_filepath": "a.wav", "duration": 2.0, "offset": 0.5}) == Utterance("a.wav", 2.0, 0.5)
