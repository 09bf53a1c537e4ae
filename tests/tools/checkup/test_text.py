import json

from tools import doctor


def test_a_file_name_in_any_alphabet_is_shown_in_ascii(tmp_path, capsys):
    name = "\u8bed\u97f3 \u00e9\n.wav" + 90 * "x"
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": name}), encoding="utf-8")
    assert doctor.main([str(tmp_path / "m.json"), "--num_workers", "0"]) == 1
    text = capsys.readouterr().out
    assert text.isascii() and max(map(len, text.splitlines())) < 80
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": name[:5]}), encoding="utf-8")
    doctor.main([str(tmp_path / "m.json"), "--num_workers", "0"])
    assert r"\u8bed\u97f3 \xe9" in capsys.readouterr().out
