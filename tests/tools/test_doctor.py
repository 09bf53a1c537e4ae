import gzip
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parts.preprocessing.audio_file import REASONS
from tools import doctor
from tools.checkup.findings import FINDINGS
from tools.checkup.report import ADVICE

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000
CLEAN, SICK, NOT_CHECKED = 0, 1, 2


def found(report: dict) -> dict[str, int]:
    return {name: finding["lines"] for name, finding in report["findings"].items() if finding["lines"]}


def rejected(report: dict) -> dict[str, int]:
    return {reason: count for reason, count in report["rejected_by_reason"].items() if count}


def sound(seconds: float = 1.0, seed: int = 0, channels: int = 1) -> np.ndarray:
    """(N, channels), RMS 0.1"""
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * RATE), channels))


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A manifest whose defects are known; what is expected of it stands in PLANTED_..."""
    files = {
        "good.wav": sound(),
        "crashes.wav": sound(seed=1, channels=2),
        "na\u00efve \u8bed\u97f3.wav": sound(seed=2),
        "clipped.wav": (20 * sound(seed=3)).clip(-1, 1),
        "exits.wav": sound(seed=4) + 0.2,
        "quiet.wav": 5e-3 * sound(seed=5),
        "zero.wav": np.zeros(RATE),
        "nan.wav": np.full(RATE, np.nan),
        "integers.wav": 32768 * sound(seed=6),
        "empty.wav": np.zeros(0),
        "a.wav": sound(seed=7),
        "b.wav": sound(seed=8),
        "c.wav": sound(seed=9),
        "d.wav": sound(seed=10),
        "e.wav": sound(seed=11),
        "telephone.wav": sound(seed=12)[::2],
    }
    for name, samples in files.items():
        rate = 8000 if name == "telephone.wav" else RATE
        soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT" if name in FLOATS else "PCM_16")
    samples, _ = soundfile.read(tmp_path / "good.wav", dtype="int16")
    soundfile.write(tmp_path / "copy.flac", samples, RATE)
    (tmp_path / "text.wav").write_text("no audio", encoding="utf-8")
    entries = [{"audio_filepath": name, "duration": 1.0, "text": "\u00fc", "speaker": 3} for name in files]
    for entry in entries:
        entry["duration"] = {"a.wav": 1.2, "b.wav": 0.5, "c.wav": 3.0, "d.wav": None, "e.wav": 0.5}.get(
            entry["audio_filepath"], 1.0
        )
    entries[-2]["offset"] = 0.0  # a piece of a file, not a wrong duration
    entries += [{"audio_filepath": name, "duration": 1.0} for name in ("copy.flac", "text.wav", "missing.wav")]
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    lines += [lines[0], '{"audio_filepath": "good.wav", "dur']
    manifest = tmp_path / "planted.json"
    manifest.write_bytes("\r\n".join(lines).encode())
    return manifest


FLOATS = ("nan.wav", "integers.wav")
PLANTED_REJECTS = {"unreadable": 2, "empty": 1, "non_finite": 1, "out_of_scale": 1, "silent": 1, "too_short": 1}
PLANTED_REJECTS |= {"bad_entry": 1}
PLANTED_FINDINGS = {
    "wrong_duration": 2,
    "no_duration": 1,
    "duplicate": 1,
    "same_content": 1,
    "clipping": 1,
    "dc_offset": 1,
    "low_level": 1,
    "low_rate": 1,
}


def test_planted_defects_are_counted_exactly(planted, check):
    code, report = check(planted)
    assert code == SICK
    assert rejected(report) == PLANTED_REJECTS
    assert found(report) == PLANTED_FINDINGS
    assert (report["lines"], report["used"], report["rejected"]) == (21, 13, 8)
    assert report["sample_rates"] == {"16000": 12, "8000": 1}
    assert report["channels"] == {"1": 12, "2": 1}
    assert report["formats"] == {"WAV PCM_16": 12, "FLAC PCM_16": 1}
    assert report["hours"]["measured"] == pytest.approx((11 * 1.0 + 2 * 0.5) / 3600)
    assert sum(one["lines"] for one in report["histogram"]) == report["used"]
    sizes = {name: [x["size"] for x in report["findings"][name]["examples"]] for name in PLANTED_FINDINGS}
    assert sizes["wrong_duration"] == pytest.approx([-0.5, 0.2])
    assert sizes["dc_offset"] == pytest.approx([0.2], abs=0.01)
    assert sizes["low_level"] == pytest.approx([20 * np.log10(5e-4)], abs=0.5)
    assert sizes["low_rate"] == [8000.0]
    assert sizes["clipping"] == pytest.approx([0.617], abs=0.02)  # |N(0, 2)| above 1


def test_rejects_are_written_as_json_lines(planted, check, tmp_path):
    check(planted, "--rejects", tmp_path / "new" / "rejects.jsonl")
    lines = (tmp_path / "new" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    rejects = [json.loads(line) for line in lines]
    assert [reject["line"] for reject in rejects] == sorted(reject["line"] for reject in rejects)
    assert all(list(reject) == ["manifest", "line", "path", "reason", "detail"] for reject in rejects)
    assert {reject["reason"] for reject in rejects} == {*REASONS}
    assert Path(rejects[0]["path"]).name == "zero.wav"


def test_fix_drops_and_corrects_what_is_wrong_and_leaves_the_rest_as_it_is(planted, check):
    old = planted.read_bytes()
    code, _ = check(planted, "--fix")
    assert code == SICK and planted.read_bytes() == old
    clean = planted.with_name("planted.clean.json")
    lines, old_lines = clean.read_bytes().splitlines(keepends=True), old.splitlines(keepends=True)
    assert len(lines) == 12
    entries = {json.loads(line)["audio_filepath"]: (line, json.loads(line)) for line in lines}
    assert entries["a.wav"][1] == {"audio_filepath": "a.wav", "duration": 1.0, "text": "\u00fc", "speaker": 3}
    assert [entries[name][1]["duration"] for name in ("b.wav", "d.wav", "e.wav")] == [1.0, 1.0, 0.5]
    assert all(line in old_lines for name, (line, _) in entries.items() if name not in ("a.wav", "b.wav", "d.wav"))
    assert all(line.endswith(b"\r\n") for line in lines)
    code, report = check(clean)
    assert code == CLEAN
    assert found(report) == dict.fromkeys(("same_content", "clipping", "dc_offset", "low_level", "low_rate"), 1)


def test_fix_overwrites_only_when_forced_and_never_what_it_checks(planted, capsys):
    clean = planted.with_name("planted.clean.json")
    clean.write_text("mine", encoding="utf-8")
    assert doctor.main([str(planted), "--num_workers", "0", "--fix"]) == NOT_CHECKED
    assert "--force" in capsys.readouterr().err and clean.read_text(encoding="utf-8") == "mine"
    assert doctor.main([str(planted), str(clean), "--num_workers", "0", "--fix", "--force"]) == NOT_CHECKED
    assert clean.read_text(encoding="utf-8") == "mine"
    assert doctor.main([str(planted), "--num_workers", "0", "--fix", "--force"]) == SICK
    assert len(clean.read_bytes().splitlines()) == 12


def test_a_manifest_named_twice_is_checked_once(planted, check, monkeypatch):
    monkeypatch.chdir(planted.parent)
    _, report = check(planted, planted.name)
    assert report["lines"] == 21 and len(report["manifests"]) == 1


def test_the_same_samples_in_two_manifests_are_found(planted, check):
    other = planted.with_name("other.json")
    other.write_text('{"audio_filepath": "good.wav", "duration": 1.0}', encoding="utf-8")
    _, report = check(planted, other)
    assert found(report)["duplicate"] == 1
    assert found(report)["same_content"] == 2
    assert [one["lines"] for one in report["manifests"]] == [21, 1]


def test_bounds_leave_lines_out_without_reading_them(planted, check):
    _, report = check(planted, "--min_duration", 0.6, "--max_duration", 1.1)
    assert report["below_min_duration"] == 2
    assert report["above_max_duration"] == 2
    assert "too_short" not in rejected(report)
    assert report["used"] + report["rejected"] + 4 == report["lines"]


def test_a_file_that_is_not_there_is_unreadable_whatever_the_bounds(tmp_path, check):
    (tmp_path / "m.json").write_text('{"audio_filepath": "gone.wav"}', encoding="utf-8")
    _, report = check(tmp_path / "m.json", "--min_duration", 1, "--max_duration", 2)
    assert rejected(report) == {"unreadable": 1}


def test_silence_is_allowed_in_a_noise_manifest_and_reported(planted, check):
    _, report = check(planted, "--noise")
    assert rejected(report) == {reason: n for reason, n in PLANTED_REJECTS.items() if reason != "silent"}
    assert found(report)["silent_noise"] == 1


def test_one_bound_may_be_given_alone(planted, check):
    assert check(planted, "--min_duration", 2)[1]["below_min_duration"] == 19
    assert check(planted, "--max_duration", 0.6)[1]["above_max_duration"] == 18


@pytest.fixture
def tarred(planted: Path) -> list[str]:
    """Arguments for planted.json with its files in two tars, as far as they exist."""
    folder = planted.parent
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".wav", ".flac"))
    for number in range(2):
        with tarfile.open(folder / f"audio_{number}.tar", "w") as tar:
            for name in names[number::2]:
                tar.add(folder / name, name)
                (folder / name).unlink()
    return [str(planted), "--tarred_audio_filepaths", f"{folder}/audio__OP_0..1_CL_.tar"]


def test_audio_in_tars_is_found_to_be_what_it_is_in_files(tarred, check):
    code, report = check(*tarred, "--fix")
    assert code == SICK
    assert rejected(report) == PLANTED_REJECTS | {"unreadable": 1, "bad_entry": 2}  # no member for missing.wav
    assert found(report) == PLANTED_FINDINGS
    clean = Path(tarred[0]).with_name("planted.clean.json")
    assert check(clean, *tarred[1:])[0] == CLEAN


@pytest.mark.slow
def test_parts_of_a_tar_table_are_sent_to_other_processes(tarred, capsys, check):
    _, alone = check(*tarred)
    assert doctor.main([*tarred, "--num_workers", "2", "--json", "-"]) == SICK
    assert json.loads(capsys.readouterr().out) == alone


def test_a_channel_can_be_chosen(shared_data, check, tmp_path):
    audio = shared_data / "bad" / "audio" / "stereo_antiphase.wav"
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": str(audio), "duration": 2.0}), encoding="utf-8")
    assert rejected(check(tmp_path / "m.json")[1]) == {"silent": 1}
    assert check(tmp_path / "m.json", "--channel_selector", "1")[0] == CLEAN
    assert rejected(check(tmp_path / "m.json", "--channel_selector", "0,2")[1]) == {"unreadable": 1}


def test_a_broken_channel_that_is_not_selected_spoils_no_number(check, tmp_path):
    samples = sound(channels=2)
    samples[5, 1], samples[6, 1] = np.nan, np.inf
    soundfile.write(tmp_path / "half.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "m.json").write_text('{"audio_filepath": "half.wav", "duration": 1.0}', encoding="utf-8")
    assert rejected(check(tmp_path / "m.json")[1]) == {"non_finite": 1}
    code, report = check(tmp_path / "m.json", "--channel_selector", "0")
    assert code == CLEAN and not found(report)
    assert report["dc_offset_mean"] < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such.json"], "no_such.json"),
        (["planted.json", "--channel_selector", "left"], "is not 'average', a channel number or a list of them"),
        (["planted.json", "--sample_rate", "0"], "--sample_rate=0 is not at least 1"),
        (["planted.json", "--num_workers", "-1"], "--num_workers=-1"),
        (["planted.json", "--min_duration", "nan"], "--min_duration=nan is not 0 or more"),
        (["planted.json", "--min_duration", "3", "--max_duration", "2"], "--max_duration=2.0"),
        (["planted.json", "--rejects", "planted.json/x.jsonl"], "planted.json"),
    ],
)
def test_what_cannot_be_checked_ends_with_2_and_one_line(arguments, message, planted, capsys, monkeypatch):
    monkeypatch.chdir(planted.parent)
    try:
        code = doctor.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == NOT_CHECKED
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_cuts_are_not_mistaken_for_a_manifest(name, tmp_path, capsys):
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write('{"id": "a", "start": 0.0, "duration": 1.0, "channel": 0, "recording": {"id": "a"}}\n')
    assert doctor.main([str(tmp_path / name), "--num_workers", "0"]) == NOT_CHECKED
    assert "lhotse's cuts" in capsys.readouterr().err


def test_a_manifest_of_tar_shards_asks_for_them(tmp_path, capsys):
    (tmp_path / "m.json").write_text('{"audio_filepath": "a.wav", "duration": 1.0, "shard_id": 0}', encoding="utf-8")
    assert doctor.main([str(tmp_path / "m.json"), "--num_workers", "0"]) == SICK
    assert "--tarred_audio_filepaths" in capsys.readouterr().err


def test_fix_drops_lines_that_repeat_others_once_they_are_corrected(tmp_path, check):
    soundfile.write(tmp_path / "a.wav", sound(), RATE)
    pieces = (("a.wav", 1.2), ("./a.wav", 1.0), ("a.wav", 0.5))
    entries = [{"audio_filepath": name, "duration": seconds} for name, seconds in pieces]
    (tmp_path / "m.json").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    check(tmp_path / "m.json", "--fix")
    clean = tmp_path / "m.clean.json"
    assert [json.loads(line)["duration"] for line in clean.read_text(encoding="utf-8").splitlines()] == [1.0]
    assert not found(check(clean)[1])


def test_the_text_fits_an_ascii_console_and_names_every_reason_and_finding(planted, capsys):
    assert doctor.main([str(planted), "--num_workers", "0"]) == SICK
    text = capsys.readouterr().out
    assert text.isascii()
    assert max(map(len, text.splitlines())) < 80
    assert "21 lines of 1 manifest: 13 used (12.00 s), 8 rejected" in text
    words = " ".join(text.split())
    assert all(f"{count} {reason}. {ADVICE[reason]}" in words for reason, count in PLANTED_REJECTS.items())
    assert all(f"{n} {FINDINGS[name].says}. {FINDINGS[name].advice}" in words for name, n in PLANTED_FINDINGS.items())


@pytest.mark.parametrize(
    "workers", ["2", pytest.param("1", marks=pytest.mark.slow), pytest.param("4", marks=pytest.mark.slow)]
)
def test_any_number_of_processes_says_the_same(workers, planted, capsys, check):
    _, alone = check(planted)
    assert doctor.main([str(planted), "--num_workers", workers, "--json", "-"]) == SICK
    assert json.loads(capsys.readouterr().out) == alone


def test_run_as_a_program_it_says_what_it_found(planted):
    command = [sys.executable, "tools/doctor.py", str(planted), "--num_workers", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == SICK
    assert "13 used" in done.stdout and "Traceback" not in done.stderr
