"""Speed and memory of both sides, beside each other: import, training step, and loading of data.

Every repetition has a fresh process of each side, and they take turns at every figure. The first training step and the
first batch are not measured. Other programs that run meanwhile make all figures worse, and ratios less so.
"""

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from tools.benchmark.figures import Figure, Sides, Values, repeat
from tools.benchmark.manifests import SECTION, pick_lines
from tools.parity.cases import make_audio
from tools.parity.records import Job, Record, save
from tools.parity.training_speed import PARTS
from tools.prepare_dummy_ssl_data import manifest_path, noise_lines, parse_arguments, speech_lines, write_manifest
from tools.side_process import SideFailed, SideProcess

SIDE = "tools.parity.speed_side"
REPETITIONS = 3
BATCH = (4, 4.0)  # utterances, seconds each
UTTERANCES, NOISES = 16, 8  # of the manifests that are loaded
STEP_SECONDS, MOST_STEPS = 1.0, 10  # as many steps of a side per repetition as fit in here, but one at least
EPOCH_SECONDS, MOST_EPOCHS = 1.0, 200  # the data is loaded over and over for so long, or so often
MIB = 2**20
WITHOUT_NEMO = "NeMo's figures need the Python of an environment with NeMo"
NO_MEMORY = "peak memory can't be asked for on this system"
FALLBACK_OPTIM = {"name": "adamw", "lr": 1e-3}  # where the config has none


@dataclass(frozen=True)
class Work:
    """What both sides are given: the file of a job, threads of torch, and the section of a data set.

    first_batch: a manifest of as much of the data set as is loaded once unmeasured, which imports decoders.
    data: what is loaded, in words.
    """

    job: Path
    threads: int
    section: dict
    first_batch: Path
    data: str


def measure_speed(
    job: Job,
    pythons: Mapping[str, str],
    repetitions: int = REPETITIONS,
    *,
    batch: tuple[int, float] | None = BATCH,
    threads: int | None = None,
    utterances: int = UTTERANCES,
) -> list[Figure]:
    """All figures, on the CPU in float32.

    job: of a model; its weights don't matter, its manifest is loaded if it has one, else a synthetic one.
    pythons: `ours`, and `nemo` where there is one. Where NeMo fails, our figures come alone, and their notes say why.
    batch: utterances of synthetic speech, and seconds of each; None: the audio of the job.
    threads: of torch, on both sides; None: as many as torch has here.  utterances: loaded of the manifest, at most.
    """
    check(job, pythons, repetitions, batch)
    threads = threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as temporary:
        work = prepare(job, batch, threads, utterances, Path(temporary))
        if "nemo" not in pythons:
            return measure(work, pythons, repetitions, WITHOUT_NEMO)
        try:
            return measure(work, pythons, repetitions)
        except SideFailed as error:
            reason = f"NeMo has no figures, as it failed: {error.in_one_line}"
            return measure(work, {"ours": pythons["ours"]}, repetitions, reason)


def check(job: Job, pythons: Mapping[str, str], repetitions: int, batch: tuple[int, float] | None) -> None:
    """Raise ValueError for what can't be measured."""
    if not job.case.is_model:
        raise ValueError(f"job={job.name!r} is no model, and only a model has training steps: give the job of one")
    if "ours" not in pythons:
        raise ValueError(f"pythons={dict(pythons)} has no Python for `ours`: give this one, sys.executable")
    if repetitions < 1:
        raise ValueError(f"repetitions={repetitions} is below 1")
    if batch and not (batch[0] >= 1 and batch[1] >= 1.0):
        raise ValueError(f"batch={batch} is not at least one utterance of at least one second")
    if not batch and "clean" not in job.inputs:
        raise ValueError(f"job={job.name!r} has no audio: give a batch of utterances and seconds")


# what both sides are given


def prepare(job: Job, batch: tuple[int, float] | None, threads: int, utterances: int, folder: Path) -> Work:
    """Write the job and, where it has none, a data set to the folder."""
    rate = job.case.config.get("sample_rate", 16000)
    inputs = make_audio(sample_rate=rate, seconds=[batch[1]] * batch[0]) if batch else job.inputs
    inputs = {name: inputs[name] for name in ("clean", "noisy", "lengths")}
    config = job.case.config | {"optim": job.case.config.get("optim") or FALLBACK_OPTIM}
    path = folder / "speed.safetensors"
    save(Record(replace(job, inputs=inputs, start={}, case=replace(job.case, config=config)), {}), path)
    manifest, noise = (job.manifest, job.noise_manifest) if job.manifest else write_data(folder, rate, utterances)
    speech = pick_lines(Path(manifest), folder / "speech.json", utterances)
    if not speech.read_text(encoding="utf-8"):
        raise ValueError(f"{manifest} lists no utterances to load: give a manifest that does")
    section = SECTION | {"sample_rate": rate, "drop_last": False, "min_duration": None, "max_duration": None}
    section |= {"manifest_filepath": str(speech), "noise_manifest": noise}
    first_batch = pick_lines(speech, folder / "first_batch.json", section["batch_size"])
    return Work(path, threads, section, first_batch, told(job, utterances))


def told(job: Job, utterances: int) -> str:
    if job.manifest is None:
        return f"data: {utterances} synthetic utterances and {NOISES} noises of 4 to 10 s"
    noise = f"noise of {Path(job.noise_manifest).name}" if job.noise_manifest else "no noise"
    return f"data: up to {utterances} utterances of {Path(job.manifest).name}, {noise}"


def write_data(folder: Path, sample_rate: int, utterances: int) -> tuple[str, str]:
    """Synthetic speech and noise of 4 to 10 s; returns their manifests."""
    options = parse_arguments(["--output_dir", str(folder), "--sample_rate", str(sample_rate)])
    speech, noise = (manifest_path(folder, split) for split in ("train", "noise"))
    write_manifest(speech, speech_lines(options, "train", utterances, options.num_talkers))
    write_manifest(noise, noise_lines(options, "noise", NOISES))
    return str(speech), str(noise)


# what they are asked


def measure(work: Work, pythons: Mapping[str, str], repetitions: int, reason: str = "") -> list[Figure]:
    """reason: why there are no figures of NeMo's."""
    figures = repeat(pythons, SIDE, repetitions, partial(measure_once, work))
    return [replace(figure, note="; ".join(filter(None, (figure.note, reason)))) for figure in figures]


def measure_once(work: Work, sides: Sides, repetition: int) -> Iterator[tuple[Figure, Values]]:
    yield from import_figures(sides, repetition)
    yield from training_figures(work, sides, repetition)
    yield memory_figure(sides, repetition)
    yield data_figure(work, sides, repetition)


def import_figures(sides: Sides, repetition: int) -> Iterator[tuple[Figure, Values]]:
    """How long each side's process, which must not have started yet, takes to import what it needs."""
    seconds = sides("imports", repetition)
    yield Figure("import of the model class", "s", False), {side: sum(x.values()) for side, x in seconds.items()}
    yield Figure("of it torch and Lightning", "s", False), {side: x["base"] for side, x in seconds.items()}
    yield Figure("of it the rest", "s", False), {side: x["model"] for side, x in seconds.items()}


def training_figures(work: Work, sides: Sides, repetition: int) -> Iterator[tuple[Figure, Values]]:
    """Seconds of the median step, as a whole and in parts."""
    first = sides("train", repetition, job=str(work.job), threads=work.threads)
    slowest = max(sum(seconds.values()) for seconds in first.values())
    num_steps = min(max(int(STEP_SECONDS / slowest), 1), MOST_STEPS)
    steps = [sides("step", repetition + number, seed=number + 1) for number in range(num_steps)]
    note = f"CPU, threads: {work.threads}"
    yield Figure("training step", "s", False, note=note), medians(steps, PARTS)
    for part in PARTS:
        yield Figure(f"training step: {part}", "s", False, note=note), medians(steps, (part,))


def memory_figure(sides: Sides, repetition: int) -> tuple[Figure, Values]:
    memory = {side: x["bytes"] for side, x in sides("memory", repetition).items()}
    note = NO_MEMORY if None in memory.values() else "beyond what importing took"
    values = {side: None if x is None else x / MIB for side, x in memory.items()}
    return Figure("peak memory of training", "MiB", False, note=note), values


def data_figure(work: Work, sides: Sides, repetition: int) -> tuple[Figure, Values]:
    """Items per second, on each side over as many epochs as its time can be told from."""
    sides("epoch", repetition, section=work.section | {"manifest_filepath": str(work.first_batch)}, seed=0)
    rates = {side: items_per_second(sides.process(side), work.section) for side in sides.in_turn(repetition)}
    return Figure("data set and collate", "items/s", True, note=f"{work.data}; one process, one thread"), rates


def items_per_second(process: SideProcess, section: dict) -> float:
    items, seconds = 0, 0.0
    for seed in range(1, 1 + MOST_EPOCHS):
        epoch = process("epoch", section=section, seed=seed)
        items, seconds = items + epoch["items"], seconds + sum(epoch["seconds"])
        if seconds >= EPOCH_SECONDS:
            break
    return items / seconds


def medians(steps: list[dict[str, dict[str, float]]], parts: tuple[str, ...]) -> Values:
    return {side: statistics.median(sum(step[side][part] for part in parts) for step in steps) for side in steps[0]}
