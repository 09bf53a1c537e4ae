import os

import pytest

from parts.preprocessing.manifest_paths import KINDS, MAKE_DUMMY_DATA, expand_braces, manifest_paths

KEY = "model.train_ds.manifest_filepath"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Makes these files in the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return make


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("a.json", ["a.json"]),
        (["b.json", "a.json"], ["b.json", "a.json"]),
        (("b.json",), ["b.json"]),
        ("b.json, a.json,", ["b.json", "a.json"]),
        ("m_{9..11}.json", ["m_9.json", "m_10.json", "m_11.json"]),
        ("m__OP_9..10_CL_.json,a.json", ["m_9.json", "m_10.json", "a.json"]),
        ("m_{10,9}.json,{a,b}.json", ["m_10.json", "m_9.json", "a.json", "b.json"]),
        ("m_{9,1{0..1}}.json", ["m_9.json", "m_10.json", "m_11.json"]),
        ("m_(9..10).json", ["m_9.json", "m_10.json"]),
        ("m_*.json", ["m_10.json", "m_11.json", "m_9.json"]),
        ("?.json", ["a.json", "b.json"]),
        ("m_[19].json", ["m_9.json"]),
        ("d/**/*.json", ["d/c.json", "d/e/f.json"]),
        ("{d,d/e}/*.json", ["d/c.json", "d/e/f.json"]),
        ("data (old)/{x,y}.json", ["data (old)/x.json", "data (old)/y.json"]),
        ("with,comma.json", ["with,comma.json"]),
        ("odd_[1]{2..3}.json", ["odd_[1]{2..3}.json"]),
        (["a.json", "m_{9..10}.json"], ["a.json", "m_9.json", "m_10.json"]),
        ("a.json,a.json", ["a.json", "a.json"]),
    ],
)
def test_what_names_which_files(files, value, named):
    files("a.json", "b.json", "m_9.json", "m_10.json", "m_11.json", "d/c.json", "d/e/f.json", "d/g.txt")
    files("data (old)/x.json", "data (old)/y.json", "with,comma.json", "odd_[1]{2..3}.json")
    assert [path.replace(os.sep, "/") for path in manifest_paths(value, KEY)] == named


def test_a_path_object_and_a_tilde_are_understood(files, tmp_path, monkeypatch):
    files("a.json")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert manifest_paths(tmp_path / "a.json", KEY) == [str(tmp_path / "a.json")]
    assert [os.path.samefile(p, tmp_path / "a.json") for p in manifest_paths("~/a.json, ~/?.json", KEY)] == [True] * 2


@pytest.mark.parametrize("value", [None, "", "???", [], (), ",", " , "])
def test_a_manifest_that_is_not_set_is_named_with_the_way_to_dummy_data(value):
    with pytest.raises(ValueError, match=f"{KEY} is not set.*{MAKE_DUMMY_DATA}"):
        manifest_paths(value, KEY)


@pytest.mark.parametrize("value", [5, {"a.json": 1}, [["a.json"]], [None]])
def test_what_is_no_path_is_an_error(value):
    with pytest.raises(ValueError, match=f"{KEY}=.* is not a path, a list of paths or comma-separated paths"):
        manifest_paths(value, KEY)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("speech_trian.json", r"no manifest 'speech_trian.json' \(.*; the nearest name is 'speech_train.json'\)"),
        ("m_{0..2}.json", r"no manifest 'm_1.json'"),
        ("speech_*.jsonl", r"no manifest 'speech_\*.jsonl'"),
        ("speech_train.json,zzz", r"no manifest 'zzz' \(looked from [^;]*\);"),
        ("e/m.json", r"no manifest 'e/m.json' \(nor a folder 'e'; looked from .*\);"),
    ],
)
def test_a_name_without_a_file_is_an_error_with_the_nearest_name(files, value, said):
    files("speech_train.json", "speech_val.json", "m_0.json")
    with pytest.raises(FileNotFoundError, match=f"^{KEY}: there is {said}.*{MAKE_DUMMY_DATA}") as caught:
        manifest_paths(value, KEY)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused_with_the_pattern_for_its_manifests(files):
    files("d/a.json")
    with pytest.raises(FileNotFoundError, match=f"{KEY}: 'd' is a folder; .*such as 'd.*json'"):
        manifest_paths("d", KEY)


@pytest.mark.parametrize("kind", KINDS)
def test_messages_say_what_is_looked_for(files, kind):
    files("d/a.txt")
    for value, said in ((None, f"give a {kind}"), ("b", f"there is no {kind} 'b' "), ("d", f"name the {kind}s in it")):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            manifest_paths(value, KEY, kind)


def test_a_brace_without_its_partner_is_an_error_in_one_line():
    with pytest.raises(ValueError, match=rf"{KEY}='m_{{0..3.json': .*; write ranges as \{{0..7\}} or _OP_0..7_CL_$"):
        manifest_paths("m_{0..3.json", KEY)


@pytest.mark.parametrize(
    ("pattern", "count", "some"),
    [
        ("a_{0..3}.tar", 4, {0: "a_0.tar", 3: "a_3.tar"}),
        ("a_{08..11}.tar", 4, {0: "a_08.tar", 3: "a_11.tar"}),
        ("a_{0..10..5}.tar", 3, {1: "a_5.tar"}),
        ("{c..a}", 3, {0: "c"}),
        ("{x,y{1..2}}", 3, {2: "y2"}),
        ("b{0..1}/{a,b}", 4, {1: "b0/b", 2: "b1/a"}),
        ("C:\\d\\{0..1}", 2, {1: "C:\\d\\1"}),
        ("a_[0..1]<2..3>(x,y)_OP_4,5_CL_", 16, {15: "a_13y5"}),
        ("a (b) [c] <d>{0..1}", 2, {0: "a (b) [c] <d>0"}),
        ("a(b", 1, {0: "a(b"}),
        ("plain", 1, {0: "plain"}),
    ],
)
def test_braces_expand(pattern, count, some):
    expanded = expand_braces(pattern)
    assert len(expanded) == count and {i: expanded[i] for i in some} == some
