import json

import pytest

from tools.checkup.clean import with_duration


@pytest.mark.parametrize(
    "line",
    [
        '{"audio_filepath": "a.wav", "duration": 1.0, "text": "ü 语", "n": 12345678901234567890, "x": [0.1, null]}\n',
        '\ufeff{"text": "\\u8bed", "audio_filepath": "a.wav"} \r\n',
        '{"audio_filepath": "\\ud800.wav", "text": "ü", "duration": "1"}',
        '{"duration": 99, "audio_filepath": "a.wav", "duration": null}\t\n',
    ],
)
def test_a_line_keeps_all_but_its_duration(line):
    changed = with_duration(line.encode(), 2.5).decode()
    body, new_body = line.strip("\ufeff \t\r\n"), changed.strip("\ufeff \t\r\n")
    assert json.loads(new_body) == json.loads(body) | {"duration": 2.5}
    assert changed.replace(new_body, "") == line.replace(body, "")  # mark and line end
    assert "语" not in line or "语" in changed
