import json

import pytest

from tools import doctor
from tools.checkup.text import number


def test_a_file_name_in_any_alphabet_is_shown_in_ascii(tmp_path, capsys):
    name = "\u8bed\u97f3 \u00e9\n.wav" + 90 * "x"
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": name}), encoding="utf-8")
    assert doctor.main([str(tmp_path / "m.json"), "--num_workers", "0"]) == 1
    text = capsys.readouterr().out
    assert text.isascii() and max(map(len, text.splitlines())) < 80
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": name[:5]}), encoding="utf-8")
    doctor.main([str(tmp_path / "m.json"), "--num_workers", "0"])
    assert r"\u8bed\u97f3 \xe9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        (f'[{{"audio_filepath": "{200 * "a"}", "duration": 1.0}}]', "`jq -c '.[]' MANIFEST` does"),
        (f"{{'audio_filepath': '{200 * 'a'}', 'duration': 1.0}}", "double ones, as json.dumps writes them"),
        (f'{{"audio_filepath": ["{200 * "a"}"]}}', '{"audio_filepath": "wavs/a.wav", "duration": 3.2}'),
        (f'{{"audio_filepath": "{200 * chr(0x8BED)}", "duration": 1.0}},', "remove the comma behind the object"),
    ],
)
def test_however_long_a_line_is_the_remedy_is_shown(line, remedy, tmp_path, capsys):
    (tmp_path / "m.json").write_text(line, encoding="utf-8")
    assert doctor.main([str(tmp_path / "m.json"), "--num_workers", "0"]) == 1
    text = capsys.readouterr().out
    assert remedy in " ".join(text.split()) and len(text.splitlines()) < 14


def test_numbers_have_no_exponent_where_none_is_needed():
    numbers = {44100.0: "44100", 11025.0: "11025", 0.61712: "0.6171", -0.5: "-0.5", None: ""}
    assert {size: number(size) for size in numbers} == numbers
