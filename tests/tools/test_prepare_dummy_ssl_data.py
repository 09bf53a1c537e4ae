import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from tools.prepare_dummy_ssl_data import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--num_train", "5", "--num_val", "2", "--num_noise", "6", "--num_talkers", "3", "--max_duration", "5"]


def make_data(folder: Path, *arguments: str) -> Path:
    main(["--output_dir", str(folder), *SMALL, *arguments])
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("dummy"))


def manifest(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}_manifest.json").read_text(encoding="utf-8").splitlines()]


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


@pytest.mark.parametrize(("split", "count"), [("train", 5), ("val", 2), ("noise", 6), ("noise_val", 6)])
def test_manifests_name_every_file_relative_to_themselves_with_its_true_duration(data, split, count):
    lines = manifest(data, split)
    assert len(lines) == count
    for line in lines:
        assert not Path(line["audio_filepath"]).is_absolute()
        assert "\\" not in line["audio_filepath"]
        audio = samples(data / line["audio_filepath"])
        assert len(audio) / 16000 == line["duration"]
        assert 4.0 <= line["duration"] <= 5.0
        assert np.abs(audio).max() > 5000


def test_speech_has_text_and_speaker_and_validation_has_talkers_of_its_own(data):
    train, val = manifest(data, "train"), manifest(data, "val")
    assert all(line["text"] for line in train + val)
    assert len({line["speaker"] for line in train}) == 3
    assert not {line["speaker"] for line in train} & {line["speaker"] for line in val}


def test_every_kind_of_noise_is_there(data):
    kinds = {"white", "pink", "hum", "babble", "knocks", "music"}
    assert {line["label"] for line in manifest(data, "noise")} == kinds
    assert {line["label"] for line in manifest(data, "noise_val")} == kinds


def test_no_two_files_sound_the_same(data):
    lines = [line for split in ("train", "val", "noise", "noise_val") for line in manifest(data, split)]
    starts = {samples(data / line["audio_filepath"])[:16000].tobytes() for line in lines}
    assert len(starts) == len(lines)


def test_the_same_seed_gives_the_same_files_and_more_files_leave_the_first_ones_alone(data, tmp_path):
    again = make_data(tmp_path / "again", "--num_train", "7")
    other = make_data(tmp_path / "other", "--seed", "1")
    first = manifest(data, "train")
    assert manifest(again, "train")[:5] == first
    for line in first:
        name = line["audio_filepath"]
        assert (again / name).read_bytes() == (data / name).read_bytes()
        assert not (other / name).exists() or (other / name).read_bytes() != (data / name).read_bytes()


def test_run_as_a_program_it_prints_the_command_that_trains_on_the_data(tmp_path):
    command = [sys.executable, "tools/prepare_dummy_ssl_data.py", "--output_dir", str(tmp_path / "d"), *SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"python train.py model.train_ds.manifest_filepath={(tmp_path / 'd').as_posix()}/train_manifest.json" in (
        done.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_train", "0"], "--num_train=0 is below 1"),
        (["--min_duration", "9", "--max_duration", "5"], "--min_duration=9.0 is not between 1 and --max_duration=5.0"),
        (["--sample_rate", "4000"], "--sample_rate=4000 is below 8000"),
        (["--seed", "-1"], "--seed=-1 is below 0"),
    ],
)
def test_impossible_arguments_are_refused_by_name(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--output_dir", str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
