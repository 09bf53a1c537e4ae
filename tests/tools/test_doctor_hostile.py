"""All hostile manifests and audio go through the doctor, and what it writes of them is clean."""

import pytest

CLEAN, SICK = 0, 1

# manifest of hostile inputs -> used lines, and rejected ones by reason
BAD_MANIFESTS: dict[str, tuple[int, dict[str, int]]] = {
    "absolute_missing": (1, {"unreadable": 1}),
    "all_bad_audio": (49, {"unreadable": 14, "empty": 2, "non_finite": 4, "out_of_scale": 1, "silent": 7}),
    "blank_lines": (2, {}),
    "bom": (2, {}),
    "bool_list_duration": (1, {"bad_entry": 2}),
    "broken_json_line": (2, {"bad_entry": 1}),
    "broken_last_line": (2, {"bad_entry": 1}),
    "crlf": (3, {}),
    "directory_as_file": (1, {"unreadable": 2}),
    "duplicate_keys": (2, {}),
    "duplicates": (4, {}),
    "empty": (0, {}),
    "empty_audio_filepath": (1, {"bad_entry": 3}),
    "extra_fields": (2, {}),
    "home_tilde": (1, {"unreadable": 1}),
    "json_array": (0, {"bad_entry": 1}),
    "latin1": (1, {"bad_entry": 1}),
    "list_audio_filepath": (1, {"bad_entry": 1}),
    "missing_audio_filepath": (1, {"bad_entry": 1}),
    "missing_duration": (2, {}),
    "missing_file": (2, {"unreadable": 1}),
    "mixed_good_and_bad": (136, {"unreadable": 14, "empty": 2, "non_finite": 4, "out_of_scale": 1, "silent": 7}),
    "nan_inf_duration": (1, {"bad_entry": 2}),
    "negative_duration": (2, {"bad_entry": 1}),
    "negative_offset": (1, {"bad_entry": 1}),
    "no_text": (3, {}),
    "no_trailing_newline": (2, {}),
    "non_object_lines": (2, {"bad_entry": 4}),
    "nul_bytes": (2, {"bad_entry": 1}),
    "null_duration": (2, {}),
    "null_offset": (2, {}),
    "offset_beyond_end": (1, {"bad_entry": 2}),
    "offset_plus_duration_beyond_end": (1, {"too_short": 1}),
    "old_key_audio_filename": (2, {}),
    "only_blank_lines": (0, {}),
    "pretty_printed": (0, {"bad_entry": 10}),
    "single_quotes": (0, {"bad_entry": 2}),
    "string_duration": (1, {"bad_entry": 1}),
    "trailing_comma": (0, {"bad_entry": 2}),
    "unicode_escapes": (1, {"unreadable": 1}),
    "unusual_names": (1, {}),
    "utf16": (2, {}),
    "valid_formats": (29, {"empty": 1, "silent": 2}),
    "very_long_text": (2, {}),
    "windows_path": (2, {}),
    "wrong_duration_too_long": (0, {"too_short": 2}),
    "wrong_duration_too_short": (2, {}),
    "zero_duration": (3, {}),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_hostile_manifests_are_used_or_rejected_for_the_stated_reasons(name, shared_data, check):
    used, by_reason = BAD_MANIFESTS[name]
    code, report = check(shared_data / "bad" / "manifests" / f"{name}.json")
    counts = {reason: count for reason, count in report["rejected_by_reason"].items() if count}
    assert (report["used"], counts) == (used, by_reason)
    assert code == (CLEAN if used and not by_reason else SICK)
    assert report["lines"] == used + sum(by_reason.values()) == used + len(report["rejects"])


def test_the_table_of_hostile_manifests_is_complete(shared_data):
    assert {path.stem for path in (shared_data / "bad" / "manifests").iterdir()} == BAD_MANIFESTS.keys()


@pytest.mark.parametrize("name", sorted(BAD_MANIFESTS.keys() - {"mixed_good_and_bad", "valid_formats"}))
def test_what_fix_writes_is_clean(name, shared_data, check, tmp_path, monkeypatch):
    folder = shared_data / "bad" / "manifests"
    monkeypatch.chdir(folder)  # where relative names are looked for as well
    manifest = tmp_path / f"{name}.json"
    manifest.write_bytes((folder / f"{name}.json").read_bytes())
    _, before = check(manifest, "--fix")
    code, report = check(manifest.with_name(f"{name}.clean.json"))
    repeated = before["findings"]["duplicate"]["lines"]
    assert report["used"] == report["lines"] == before["used"] - repeated
    assert code == (CLEAN if report["used"] else SICK)
    assert not any(report["findings"][what]["lines"] for what in ("wrong_duration", "no_duration", "duplicate"))


@pytest.mark.slow
def test_one_process_and_four_say_the_same_of_all_bad_audio(shared_data, check):
    manifest = shared_data / "bad" / "manifests" / "all_bad_audio.json"
    reports = [check(manifest, "--num_workers", workers) for workers in (0, 1, 4)]
    assert reports[0] == reports[1] == reports[2]
