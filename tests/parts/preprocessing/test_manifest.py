import json
import re

import numpy as np
import pytest
import soundfile

from parts.preprocessing.audio_file import BadAudio
from parts.preprocessing.manifest import (
    HEADERS_PER_THREAD,
    HINTS,
    hint,
    keep_durations,
    read_manifests,
    read_table,
    seconds_of,
)
from parts.preprocessing.utterances import Utterance, UtteranceTable

KEY = "model.train_ds.manifest_filepath"


@pytest.fixture
def manifest(tmp_path):
    """Writes a manifest beside wavs/a.wav (0.5 s)."""
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", np.zeros(8000), 16000)

    def write(content: str | bytes | list[dict], name: str = "m.json") -> str:
        if isinstance(content, list):
            content = "\n".join(json.dumps(line) for line in content)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("key", ["audio_filepath", "audio_filename"])
def test_paths_start_from_the_folder_of_the_manifest(manifest, tmp_path, key):
    path = manifest([{key: "wavs/a.wav", "duration": 0.5, "text": "x", "speaker": 3}])
    (read,) = read_manifests(path, KEY)
    assert read == Utterance(str(tmp_path / "wavs" / "a.wav"), 0.5, 0.0, path, 1)


def test_byte_order_mark_blank_lines_and_windows_line_ends_do_not_matter(manifest):
    lines = b'\xef\xbb\xbf{"audio_filepath": "a.wav", "duration": 1}\r\n\r\n   \r\n{"audio_filepath": "b.wav"}'
    first, second = read_manifests(manifest(lines), KEY)
    assert first.duration == 1.0 and second.audio_filepath.endswith("b.wav")


def test_several_manifests_come_as_a_list_or_between_commas(manifest):
    one = manifest([{"audio_filepath": "a.wav", "offset": 0.25}], "1.json")
    two = manifest([{"audio_filepath": "b.wav", "duration": None}], "2.json")
    read = read_manifests([one, two], KEY)
    assert [u.offset for u in read] == [0.25, 0.0]
    assert list(read_manifests(f"{one}, {two}", KEY)) == list(read)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_to_read_the_file(manifest, encoding):
    lines = '{"audio_filepath": "è.wav"}\r\n{"audio_filepath": "語.wav"}\n'
    table = read_manifests(manifest(lines.encode(encoding)), KEY)
    assert [table.name(i) for i in range(2)] == ["è.wav", "語.wav"] and table.lines.tolist() == [1, 2]


def test_joined_files_may_have_byte_order_marks_inside(manifest):
    part = '\ufeff{"audio_filepath": "a.wav"}\n'
    assert len(read_manifests(manifest(part * 2), KEY)) == 2


def test_of_two_path_keys_audio_filename_counts_and_of_doubled_keys_the_last(manifest):
    both = '{"audio_filepath": "a.wav", "audio_filename": "b.wav", "duration": 9, "duration": 2}'
    table = read_manifests(manifest(both), KEY)
    assert table.name(0) == "b.wav" and table.durations.tolist() == [2.0]


@pytest.mark.parametrize(
    ("written", "seconds"), [("3.2", 3.2), ('"3.2"', 3.2), ("1e7", 1e7), ("0", None), ('"0.0"', None), ("null", None)]
)
def test_a_duration_may_stand_in_quotes_and_none_or_zero_means_to_the_end(manifest, written, seconds):
    (read,) = read_manifests(manifest(f'{{"audio_filepath": "a.wav", "duration": {written}}}'), KEY)
    assert read.duration == seconds


@pytest.mark.parametrize(("written", "seconds"), [("1", 1.0), ('"0.5"', 0.5), ("null", 0.0), ("-0.0", 0.0)])
def test_an_offset_may_stand_in_quotes_and_null_means_the_start(manifest, written, seconds):
    (read,) = read_manifests(manifest(f'{{"audio_filepath": "a.wav", "offset": {written}}}'), KEY)
    assert read.offset == seconds


GOOD = '{"audio_filepath": "a.wav"}\n'
NO_SECONDS = ("-1", "-1e-9", "NaN", "Infinity", "-Infinity", "true", "false", "[1.0]", "{}", '"abc"', '""', '"nan"')
ABSURD = ("1.1e7", '"1e300"', "1" + "0" * 400)


@pytest.mark.parametrize("value", NO_SECONDS + ABSURD)
@pytest.mark.parametrize("key", ["duration", "offset"])
def test_a_duration_or_offset_that_is_no_time_rejects_the_line(manifest, key, value):
    path = manifest(GOOD + f'{{"audio_filepath": "b.wav", "{key}": {value}}}')
    table = read_manifests(path, KEY)
    (bad,) = table.rejected
    assert len(table) == 1 and bad[:2] == ("b.wav", "bad_entry") and bad[3:] == (path, 2)
    assert re.match(rf"{key}=.* is not a number of seconds; write 0 or more, or leave {key} out$", bad.detail)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"audio_filepath": "a.wav", "dura', "is not a JSON object on one line: cut off"),
        ('{"audio_filepath": "a.wav"} {"audio_filepath": "b.wav"}', "is not a JSON object on one line"),
        ('["a.wav"]', "is not a JSON object on one line"),
        ("42", "is not a JSON object on one line"),
        ("[" * 100_000, "is not a JSON object on one line"),
        ("\x0c", "is not a JSON object on one line"),
        ('{"duration": 3}', "audio_filepath=None is not the path of a file"),
        ('{"audio_filepath": null, "duration": 3}', "audio_filepath=None is not the path of a file"),
        ('{"audio_filepath": ""}', "audio_filepath='' is not the path of a file"),
        ('{"audio_filepath": 5}', "audio_filepath=5 is not the path of a file"),
        ('{"audio_filepath": "a\\u0000.wav"}', r"audio_filepath='a\\x00.wav' is not the path of a file"),
        ('{"audio_filepath": ["a.wav", "b.wav"]}', r"audio_filepath=\['a.wav'"),
        ('{"audio_filepath": "a.wav", "duration": ' + "1" * 5000 + "}", ""),  # more digits than Python converts
        (b"\xff\xfe{\x00", "not UTF-8 text .*save the manifest as UTF-8"),
    ],
)
def test_a_broken_line_is_rejected_with_file_and_line(manifest, line, said):
    path = manifest(GOOD.encode() + (line if isinstance(line, bytes) else line.encode()))
    table = read_manifests(path, KEY)
    (bad,) = table.rejected
    assert len(table) == 1 and (bad.reason, bad.manifest, bad.line) == ("bad_entry", path, 2)
    assert re.match(said if said.startswith(("not", "audio")) else f".*{said}", bad.detail)
    assert "\n" not in bad.detail and len(bad.detail) < 300


BROKEN = ("a\0b", '[{"a": 1}]', "{", "{'a': 1}", '{"a": 1},', '{"a": 1')


def test_each_kind_of_broken_line_has_its_hint():
    assert [hint(line) for line in BROKEN] == list(HINTS.values())


def test_the_log_says_how_many_lines_are_broken(manifest, log):
    path = manifest(GOOD + "{\n42\n")
    read_manifests(path, KEY)
    assert f"{KEY}: 2 of 3 lines can't be used; the first: {path}:2: " in log.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no lines; expected some like"),
        ("\n \n", "has no lines; expected some like"),
        ("{\n}\n", r"has no line that can be used; the first of 2: .*m\.json:1: '\{' is not a JSON object"),
        ("RIFF\x00\xff", r"has no line that can be used; the first of 1: .*m\.json:1: "),
    ],
)
def test_a_manifest_without_a_usable_line_is_an_error(manifest, content, said):
    with pytest.raises(ValueError, match=rf"^{KEY}: '.*m\.json' {said}") as caught:
        read_manifests(manifest(content.encode("latin-1")), KEY)
    assert "\n" not in str(caught.value)


def test_one_manifest_without_a_usable_line_does_not_stop_the_others(manifest):
    empty, good, broken = manifest("", "0.json"), manifest(GOOD, "1.json"), manifest("{", "2.json")
    table = read_manifests([empty, good, broken], KEY)
    assert [u.manifest for u in table] == [good] and [bad.manifest for bad in table.rejected] == [broken]


def utterances(*durations):
    return UtteranceTable.of(Utterance(f"{i}.wav", duration, 0.0) for i, duration in enumerate(durations))


def test_bounds_include_their_ends_and_the_log_says_what_was_dropped(log):
    kept = keep_durations(utterances(0.9, 1.0, 5.0, 16.7, 17.0, 3600.0), 1.0, 16.7, "model.train_ds")
    assert [u.duration for u in kept] == [1.0, 5.0, 16.7]
    assert "model.train_ds: kept 3 utterances (0.01 h)" in log.text
    assert "1 shorter than min_duration=1.0 (0.00 h), 2 longer than max_duration=16.7 (1.00 h)" in log.text


def test_without_bounds_everything_stays():
    assert len(keep_durations(utterances(0.0, 1e6), None, None, "s")) == 2


def test_a_missing_duration_is_read_from_the_header(manifest):
    listed = read_manifests(manifest([{"audio_filepath": "wavs/a.wav", "offset": o} for o in (0.0, 0.2)]), KEY)
    assert list(keep_durations(listed, 0.4, None, "s")) == list(listed[:1])  # 0.5 s and 0.3 s are left of the file


def test_a_measured_utterance_is_still_read_to_its_end(manifest):
    kept = keep_durations(read_manifests(manifest([{"audio_filepath": "wavs/a.wav"}]), KEY), None, None, "s")
    assert kept.durations.tolist() == [0.5] and kept[0].duration is None and seconds_of(kept[0]) == 0.5


def test_audio_that_cannot_even_be_opened_has_no_duration(manifest, monkeypatch):
    def gone(table, row):
        raise BadAudio("unreadable", "the tar is gone")

    table = read_manifests(manifest([{"audio_filepath": "wavs/a.wav"}]), KEY)
    monkeypatch.setattr(UtteranceTable, "open", gone)
    assert np.isnan(keep_durations(table, 1.0, None, "s").durations).all()


def test_many_missing_durations_are_read_by_threads_into_their_rows(manifest, log):
    lines = [{"audio_filepath": "wavs/a.wav", "offset": i / 1000} for i in range(4 * HEADERS_PER_THREAD)]
    lines[5]["duration"] = 7.0
    kept = keep_durations(read_manifests(manifest(lines), KEY), None, None, "s")
    expected = 0.5 - np.arange(len(lines)) / 1000
    expected[5] = 7.0
    assert np.allclose(kept.durations, expected)
    assert f"reading {len(lines) - 1} durations from file headers" in log.text


def test_an_offset_beyond_the_end_stays_for_the_decoder_to_report(manifest):
    listed = read_manifests(manifest([{"audio_filepath": "wavs/a.wav", "offset": 3}]), KEY)
    assert np.isnan(keep_durations(listed, 0.1, None, "s").durations).all()
    assert seconds_of(listed[0]) is None


def test_a_file_of_unknown_length_stays_for_the_decoder_to_report(log):
    assert len(keep_durations(utterances(None), 1.0, None, "s")) == 1
    assert "1 of them have neither a duration nor a readable header" in log.text


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((10.0, None), "2 shorter than min_duration=10.0.*set min_duration to at most 4$"),
        ((None, 1.0), "2 longer than max_duration=1.0.*set max_duration to at least 3$"),
        ((3.5, 3.9), "set min_duration to at most 3 or set max_duration to at least 4$"),
    ],
)
def test_when_nothing_is_left_the_error_says_which_bound_to_move(bounds, said):
    with pytest.raises(ValueError, match=f"^model.train_ds: no utterance is left: .*{said}"):
        keep_durations(utterances(3.0, 4.0), *bounds, "model.train_ds")


@pytest.mark.parametrize("name", ["speech_train", "speech_val", "noise_train", "noise_val"])
def test_the_shared_manifests_load_and_their_files_are_there(shared_data, name):
    path = shared_data / "manifests" / f"{name}.json"
    read = read_manifests(str(path), KEY)
    assert len(read) == len(path.read_text(encoding="utf-8").split("\n")) - 1
    assert all(soundfile.info(u.audio_filepath).frames > 0 for u in read[::25])


# manifest -> lines that are used, lines that are rejected; the others have no line rejected
HOSTILE = {
    "blank_lines": ([2, 6], []),
    "bool_list_duration": ([3], [1, 2]),
    "broken_json_line": ([1, 3], [2]),
    "broken_last_line": ([1, 2], [3]),
    "empty": ([], []),
    "empty_audio_filepath": ([4], [1, 2, 3]),
    "json_array": ([], [1]),
    "latin1": ([2], [1]),
    "list_audio_filepath": ([2], [1]),
    "missing_audio_filepath": ([2], [1]),
    "nan_inf_duration": ([3], [1, 2]),
    "negative_duration": ([1, 3], [2]),
    "negative_offset": ([2], [1]),
    "non_object_lines": ([1, 6], [2, 3, 4, 5]),
    "nul_bytes": ([1, 3], [2]),
    "only_blank_lines": ([], []),
    "pretty_printed": ([], list(range(1, 11))),
    "single_quotes": ([], [1, 2]),
    "string_duration": ([1], [2]),
    "trailing_comma": ([], [1, 2]),
    "utf16": ([1, 2], []),
}


def test_of_hostile_manifests_each_line_is_used_or_rejected(shared_data):
    for path in sorted((shared_data / "bad" / "manifests").glob("*.json")):
        num_lines = len(path.read_bytes().splitlines())
        table = read_table([str(path)])
        used, rejected = HOSTILE.get(path.stem, (list(range(1, num_lines + 1)), []))
        assert table.lines.tolist() == used, path.stem
        assert [bad.line for bad in table.rejected] == rejected, path.stem
        assert {bad.reason for bad in table.rejected} <= {"bad_entry"}
        if not used:
            with pytest.raises(ValueError, match=path.name):
                read_manifests(str(path), KEY)
