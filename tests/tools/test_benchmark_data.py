import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tools import benchmark_data
from tools.benchmark.figures import Figure, Sides
from tools.benchmark.manifests import MIXING, SECTION, pick_lines, read_lines, repeat_lines
from tools.benchmark.worker import Side
from tools.benchmark_data import cells, markdown, write_noise

RATE = 16000


@pytest.fixture
def data(tmp_path):
    """A folder with speech_train.json (9 utterances of 0.6 to 1.4 s) and noise_train.json (two of 2 s)."""
    (tmp_path / "manifests").mkdir()
    rng = np.random.default_rng(0)
    speech = [(f"s{i}.wav", 0.6 + 0.1 * i) for i in range(9)]
    noise = [("n0.wav", 2.0), ("n1.wav", 2.0)]
    for manifest, files in {"speech_train.json": speech, "noise_train.json": noise}.items():
        for name, seconds in files:
            soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(round(seconds * RATE)) + 0.05, RATE)
        lines = [json.dumps({"audio_filepath": f"../{name}", "duration": seconds}) for name, seconds in files]
        (tmp_path / "manifests" / manifest).write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def ours():
    return Side("ours")


def section(data, **changes):
    manifests = {kind: str(data / "manifests" / f"{kind}_train.json") for kind in ("speech", "noise")}
    return SECTION | {"manifest_filepath": manifests["speech"], "noise_manifest": manifests["noise"]} | changes


def test_a_ratio_says_how_many_times_better_ours_is_in_each_repetition():
    seconds = Figure("first batch", "s", more_is_better=False, goal=3.0, ours=[1.0, 2.0, 1.0], nemo=[4.0, 4.0, 5.0])
    rate = Figure("items", "items/s", more_is_better=True, goal=5.0, ours=[20.0], nemo=[5.0])
    assert seconds.ratios == [4.0, 2.0, 5.0] and rate.ratios == [4.0]
    assert cells(seconds)[-2:] == ["4 (2 to 5)", "3"] and cells(rate)[-1] == "5 (missed)"


def test_without_nemo_the_table_has_our_figures_only():
    table = markdown([Figure("items", "items/s", True, 2.0, ours=[20.0, 30.0])])
    assert table.splitlines()[-1] == "| items | items/s | 25 (20 to 30) | - | - | 2 |"


def test_an_epoch_is_timed_batch_by_batch_over_all_its_items(ours, data):
    answer = ours.epoch(section(data, batch_size=4), seed=0)
    assert answer["items"] == 8 and len(answer["seconds"]) == 2 and min(answer["seconds"]) > 0


def test_mixing_is_timed_with_every_utterance_mixed(ours):
    assert 0 < ours.mix(seconds=0.5, batch_size=3, seed=0, options=MIXING)["seconds"] < 5


def test_the_first_batch_comes_after_the_data_set_is_built(ours, data):
    answer = ours.first_batch(section(data, noise_manifest=None, shuffle=True), seed=0)
    assert 0 < answer["built"] < answer["seconds"] and (answer["bytes"] or 0) >= 0


@pytest.mark.parametrize("mean", [0.0, -0.01])
def test_noise_is_written_with_the_wanted_mean(data, mean):
    manifest = write_noise(data / "manifests" / "noise_train.json", data / "other", mean)
    for entry in read_lines(manifest):
        samples, rate = soundfile.read(entry["audio_filepath"])
        assert rate == RATE and abs(samples.mean() - mean) < 1e-4 and samples.std() > 0.09


def test_manifests_are_made_of_real_lines_in_an_order_that_stays(data):
    manifest = data / "manifests" / "speech_train.json"
    picked = read_lines(pick_lines(manifest, data / "a.json", 5))
    assert len({entry["audio_filepath"] for entry in picked}) == 5
    assert picked == read_lines(pick_lines(manifest, data / "b.json", 5))
    repeated = read_lines(repeat_lines(manifest, data / "c.json", 20))
    assert len(repeated) == 20 and repeated[0] == repeated[9] and all(entry["text"] for entry in repeated)


def test_padding_is_measured_for_fixed_sizes_and_buckets(data):
    rows = list(benchmark_data.measure_padding(data, batch_size=4))
    assert len(rows) == 3 and all(0 <= value < 100 for row in rows for value in row.ours)


@pytest.mark.slow
def test_the_program_prints_a_table_and_writes_its_figures(data):
    command = [sys.executable, benchmark_data.__file__, "--data", str(data), "--repetitions", "1", "--lines", "90"]
    command += ["--json", str(data / "out.json"), "--only", "mixing", "first batch"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads((data / "out.json").read_text(encoding="utf-8"))
    assert len(rows) == 6 and all(row["ours"] for row in rows) and done.stdout.count("\n| ") == 8


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "no manifests/speech_train.json"), (["--nemo_python", "no/python"], "no/python")]
)
def test_what_cannot_be_measured_ends_with_2_and_one_line(arguments, message, tmp_path, data, capsys):
    folder = data if arguments else tmp_path / "nowhere"
    with pytest.raises(SystemExit) as stop:
        benchmark_data.main(["--data", str(folder), "--only", "mixing", *arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_job_that_fails_is_reported_with_its_reason(tmp_path):
    with Sides({"ours": sys.executable}, benchmark_data.WORKER) as sides, pytest.raises(RuntimeError, match="manifest"):
        sides("epoch", 0, section=SECTION | {"manifest_filepath": str(tmp_path / "none.json")}, seed=0)
