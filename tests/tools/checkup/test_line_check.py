import tracemalloc

import numpy as np
import soundfile

from parts.preprocessing.manifest import read_table
from tools.checkup.line_check import LineCheck


def test_a_line_check_tells_what_a_decoder_raises_that_nobody_expects(tmp_path, monkeypatch):
    (tmp_path / "m.json").write_text('{"audio_filepath": "a.wav", "duration": 1.0}', encoding="utf-8")
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    monkeypatch.setattr("tools.checkup.line_check.read_usable", lambda *args, **options: 1 / 0)
    result = LineCheck()(read_table([str(tmp_path / "m.json")]), 0)
    assert (result.reason, result.detail) == ("unreadable", "ZeroDivisionError: division by zero")


def test_half_an_hour_of_audio_is_held_once(shared_data, tmp_path):
    path = shared_data / "bad" / "audio" / "long_30min_silence.flac"
    (tmp_path / "m.json").write_text(f'{{"audio_filepath": "{path.as_posix()}"}}', encoding="utf-8")
    table = read_table([str(tmp_path / "m.json")])
    tracemalloc.start()
    try:
        checked = LineCheck(noise=True)(table, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert checked.measures.seconds == 1800.0
    assert peak < 2 * 1800 * 8000 * 4  # bytes of float32 samples
