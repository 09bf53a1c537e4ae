import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tools.benchmark import figures
from tools.parity import speed
from tools.parity.cases import DENOISE, encoder_case, make_audio, model_case
from tools.parity.records import Job, load
from tools.parity.speed import measure_speed, prepare
from tools.side_process import SideFailed

BOTH = {"ours": sys.executable, "nemo": "other/python"}
SECONDS = {"ours": 0.01, "nemo": 0.04}  # of each part of a step
ANSWERS = {
    "imports": lambda side: {"base": 2.0, "model": {"ours": 0.5, "nemo": 3.0}[side]},
    "train": lambda side: dict.fromkeys(("forward", "backward", "optimizer"), 2 * SECONDS[side]),
    "step": lambda side: dict.fromkeys(("forward", "backward", "optimizer"), SECONDS[side]),
    "memory": lambda side: {"bytes": {"ours": 2**20, "nemo": 2**22}[side]},
    "epoch": lambda side: {"items": 16, "seconds": [SECONDS[side]] * 2},
}


class Sides(figures.Sides):
    """Sides that answer without processes; `log` has all tasks, `answers` what is answered."""

    log: list[tuple] = []  # noqa: RUF012 (of one test)
    answers = ANSWERS

    def process(self, side: str):
        def answer(task: str, /, **arguments) -> dict:
            self.log.append((task, side, arguments))
            return self.answers[task](side)

        return answer

    def __exit__(self, *exception) -> None:
        self.log.append(("end", "", {}))


@pytest.fixture
def sides(monkeypatch) -> type[Sides]:
    """In place of processes; nothing is synthesised for them but a second of speech."""
    monkeypatch.setattr(figures, "Sides", Sides)
    monkeypatch.setattr(speed, "write_data", write_lines)
    monkeypatch.setattr(speed, "make_audio", lambda **options: make_audio(seconds=[1.0]))
    monkeypatch.setattr(Sides, "log", [])
    monkeypatch.setattr(Sides, "answers", dict(ANSWERS))
    return Sides


def write_lines(folder: Path, sample_rate: int, utterances: int) -> tuple[str, str]:
    lines = [json.dumps({"audio_filepath": f"{i}.wav", "duration": 1.0}) for i in range(utterances)]
    (folder / "made.json").write_text("\n".join(lines), encoding="utf-8")
    return (str(folder / "made.json"),) * 2


@pytest.fixture(scope="module")
def job() -> Job:
    return Job("small", model_case(DENOISE), ("computation",))


def by_name(found: list[figures.Figure]) -> dict[str, figures.Figure]:
    return {figure.name: figure for figure in found}


def test_every_figure_has_a_value_per_repetition_of_each_side_and_a_ratio(sides, job):
    found = by_name(measure_speed(job, BOTH, 3))
    assert {len(values) for f in found.values() for values in (f.ours, f.nemo, f.ratios)} == {3}
    assert found["training step"].ours == pytest.approx([0.03] * 3)
    assert found["training step"].ratios == found["training step: backward"].ratios == pytest.approx([4.0] * 3)
    assert found["import of the model class"].ratios == [2.0] * 3
    assert (found["peak memory of training"].ours, found["peak memory of training"].ratios) == ([1.0] * 3, [4.0] * 3)
    assert found["data set and collate"].ours == pytest.approx([800.0] * 3)
    assert found["data set and collate"].ratios == pytest.approx([4.0] * 3)
    assert json.loads(json.dumps([f.to_json() for f in found.values()]))[0]["times_better"] == [2.0] * 3


def test_repetitions_have_processes_of_their_own_and_data_comes_after_memory(sides, job):
    measure_speed(job, BOTH, 2)
    first = sides.log[: sides.log.index(("end", "", {}))]
    order = list(dict.fromkeys(task for task, *_ in first))
    assert order == ["imports", "train", "step", "memory", "epoch"]
    assert [task for task, *_ in sides.log].count("end") == 2


def test_both_sides_get_the_same_work_and_load_a_first_batch_unmeasured(sides, job, monkeypatch):
    monkeypatch.setattr(speed, "MOST_EPOCHS", 1)
    measure_speed(job, BOTH, 1, threads=3, utterances=9)
    for task, count in (("train", 2), ("epoch", 4)):
        given = [arguments for name, _, arguments in sides.log if name == task]
        assert len(given) == count and given[0] == given[1]
    assert next(arguments["threads"] for task, _, arguments in sides.log if task == "train") == 3
    unmeasured, *_, measured = [arguments["section"] for task, _, arguments in sides.log if task == "epoch"]
    assert unmeasured["manifest_filepath"] != measured["manifest_filepath"]


@pytest.mark.parametrize(("seconds", "steps"), [(0.0001, speed.MOST_STEPS), (0.05, 6), (40.0, 1)])
def test_slow_steps_are_measured_less_often(sides, job, seconds, steps):
    sides.answers["train"] = lambda side: {"forward": seconds, "backward": 2 * seconds}
    measure_speed(job, BOTH, 1)
    assert [task for task, *_ in sides.log].count("step") == 2 * steps


def test_data_is_loaded_on_each_side_until_its_time_can_be_told(sides, job):
    """16 items in 0.02 s here, 0.08 s there: 1 s is 50 epochs of ours, and 13 of NeMo's."""
    data = by_name(measure_speed(job, BOTH, 1))["data set and collate"]
    epochs = [side for task, side, arguments in sides.log if task == "epoch" and arguments["seed"]]
    assert (epochs.count("ours"), epochs.count("nemo")) == (50, 13)
    assert data.ours == pytest.approx([800.0]) and data.nemo == pytest.approx([200.0])
    assert data.note == "data: 16 synthetic utterances and 8 noises of 4 to 10 s; one process, one thread"


def test_without_nemo_there_are_our_figures_and_the_reason(sides, job):
    found = measure_speed(job, {"ours": sys.executable}, 2)
    assert all(len(f.ours) == 2 and f.nemo == f.ratios == [] and speed.WITHOUT_NEMO in f.note for f in found)


def test_where_nemo_fails_there_are_our_figures_and_what_it_said(sides, job):
    def fail(side: str) -> dict:
        if side == "nemo":
            raise SideFailed("failed at train:\nTraceback\nValueError: no such layer")
        return ANSWERS["train"](side)

    sides.answers["train"] = fail
    found = measure_speed(job, BOTH, 2)
    assert all(len(f.ours) == 2 and f.nemo == [] and f.note.endswith("ValueError: no such layer") for f in found)


def test_what_fails_on_our_side_is_raised(sides, job):
    def fail(side: str) -> dict:
        raise SideFailed(side)

    sides.answers["step"] = fail
    with pytest.raises(SideFailed, match="ours"):
        measure_speed(job, BOTH, 1)


def test_memory_that_cannot_be_asked_for_is_said_to_be_so(sides, job):
    sides.answers["memory"] = lambda side: {"bytes": None}
    memory = by_name(measure_speed(job, BOTH, 1))["peak memory of training"]
    assert (memory.ours, memory.nemo, memory.note) == ([], [], speed.NO_MEMORY)


def test_the_batch_is_as_long_as_is_wanted_and_weights_are_left_out(job, tmp_path):
    work = prepare(replace(job, start={"weight": torch.ones(2)}), (3, 1.5), 1, 2, tmp_path)
    asked = load(work.job).job
    assert asked.inputs["clean"].shape == asked.inputs["noisy"].shape == (3, 24000)
    assert asked.inputs["lengths"].tolist() == [24000] * 3
    assert asked.start == {} and asked.case == job.case
    assert Path(work.section["noise_manifest"]).is_file()
    speech = [json.loads(line) for line in work.first_batch.read_text(encoding="utf-8").splitlines()]
    assert len(speech) == 2 and all(Path(line["audio_filepath"]).is_file() for line in speech)


def test_the_jobs_own_audio_manifest_and_optimizer_are_used(sides, job, tmp_path):
    own, _ = write_lines(tmp_path, 16000, utterances=20)
    (tmp_path / "out").mkdir()
    audio = make_audio(seconds=[1.0, 1.2])
    work = prepare(replace(job, inputs=audio, manifest=own), None, 1, 12, tmp_path / "out")
    asked = load(work.job).job
    assert asked.inputs["noisy"].equal(audio["noisy"])
    assert asked.case.config["optim"] == job.case.config["optim"]
    entries = (tmp_path / "out" / "speech.json").read_text(encoding="utf-8").splitlines()
    assert len(entries) == 12 and json.loads(entries[0])["audio_filepath"].startswith(str(tmp_path.resolve()))
    assert work.section["noise_manifest"] is None


def test_a_manifest_without_lines_is_refused_by_its_path(sides, job, tmp_path):
    (tmp_path / "none.json").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"none\.json lists no utterances"):
        measure_speed(replace(job, manifest=str(tmp_path / "none.json")), BOTH)


@pytest.mark.parametrize("optim", [{}, {"optim": None}])
def test_a_config_without_an_optimizer_gets_one(sides, job, tmp_path, optim):
    config = {key: value for key, value in job.case.config.items() if key != "optim"} | optim
    bare = replace(job, case=replace(job.case, config=config))
    assert load(prepare(bare, (1, 1.0), 1, 1, tmp_path).job).job.case.config["optim"] == speed.FALLBACK_OPTIM


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"job": Job("an_encoder", encoder_case(), ())}, "an_encoder.*no model"),
        ({"pythons": {"nemo": "python"}}, "ours"),
        ({"repetitions": 0}, "repetitions=0"),
        ({"batch": (0, 4.0)}, "batch="),
        ({"batch": (2, 0.5)}, "batch="),
        ({"batch": None}, "no audio"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(job, changes, message):
    arguments = {"job": job, "pythons": BOTH, "repetitions": 1} | changes
    with pytest.raises(ValueError, match=message):
        measure_speed(**arguments)


@pytest.mark.slow
def test_our_side_alone_is_measured(job):
    found = by_name(measure_speed(job, {"ours": sys.executable}, 1, batch=(1, 1.0)))
    assert len(found) == 9 and all(len(f.ours) == 1 and f.ours[0] > 0 for f in found.values())
