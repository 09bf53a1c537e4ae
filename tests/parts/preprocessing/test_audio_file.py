import io
import json
import os
import struct

import numpy as np
import pytest
import soundfile

from parts.preprocessing import audio_file
from parts.preprocessing.audio_file import REASONS, BadAudio, decode, header_seconds, open_audio

RATE = 16000


@pytest.fixture
def noise():
    """Five seconds (N,)."""
    return 0.1 * np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)


def flac_with_total(samples: np.ndarray, total: int) -> io.BytesIO:
    """A FLAC whose header says that it has `total` samples; 0 means unknown, as from a pipe."""
    whole = io.BytesIO()
    soundfile.write(whole, samples, RATE, format="FLAC")
    content = bytearray(whole.getvalue())
    content[21] = content[21] & 0xF0 | total >> 32  # STREAMINFO: 36 bits from the middle of byte 21 on
    content[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    return io.BytesIO(bytes(content))


@pytest.mark.parametrize("total", [2**36 - 1, 0, 6 * RATE], ids=["4 TB claimed", "unknown", "a second too much"])
@pytest.mark.parametrize("offset", [0.0, 2.5])
def test_a_header_that_claims_too_much_gives_what_is_there(noise, total, offset):
    expected, _ = decode(flac_with_total(noise, len(noise)), offset)
    samples, rate = decode(flac_with_total(noise, total), offset)
    np.testing.assert_array_equal(samples, expected)
    assert rate == RATE and samples.base is None  # no view of a larger array


def test_an_offset_that_only_the_header_has_is_a_bad_entry(noise):
    with pytest.raises(BadAudio) as caught:
        decode(flac_with_total(noise, 2**36 - 1), offset=6.0)
    assert caught.value.reason in ("bad_entry", "unreadable")


def test_claimed_memory_is_never_asked_for(noise, monkeypatch):
    largest = []
    empty = np.empty

    def watched(shape, *args, **options):
        largest.append(np.prod(shape))
        return empty(shape, *args, **options)

    monkeypatch.setattr(np, "empty", watched)
    decode(flac_with_total(noise, 2**36 - 1))
    assert 0 < max(largest) <= audio_file.BLOCK_SAMPLES


@pytest.mark.parametrize("num_channels", [1, 2, 7])
@pytest.mark.parametrize("block_samples", [1, 1000, 4097])
@pytest.mark.parametrize("offset", [0.0, 1.234])
def test_blocks_make_the_whole(tmp_path, noise, monkeypatch, num_channels, block_samples, offset):
    if block_samples == 1:
        noise = noise[:300]
        offset /= 100
    monkeypatch.setattr(audio_file, "BLOCK_SAMPLES", block_samples)
    channels = np.stack([np.roll(noise, i) for i in range(num_channels)], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype="FLOAT")
    start = int(offset * RATE)
    np.testing.assert_array_equal(decode(tmp_path / "a.wav", offset)[0], channels[start:])
    mixed, _ = decode(tmp_path / "a.wav", offset, mix=lambda block: block[:, -1])
    np.testing.assert_array_equal(mixed, channels[start:, -1])


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_24", 0),
        ("WAV", "IMA_ADPCM", 0),
        ("WAV", "GSM610", 0),
        ("W64", "ULAW", 0),
        ("RF64", "DOUBLE", 0),
        ("AIFF", "PCM_16", 0),
        ("AU", "ALAW", 0),
        ("CAF", "ALAC_16", 0),
        ("AU", "G721_32", 0),  # libsndfile can't seek in this one
        ("FLAC", "PCM_24", 0),
        ("OGG", "VORBIS", 0),
        ("OGG", "OPUS", 5e-3),  # an Opus decoder converges, it does not restart
        ("MP3", "MPEG_LAYER_III", 5e-7),
    ],
)
def test_a_late_piece_is_that_of_the_whole(tmp_path, container, subtype, tolerance):
    if subtype not in soundfile.available_subtypes(container):
        pytest.skip(f"this libsndfile has no {container} {subtype}")
    seconds = np.arange(5 * RATE) / RATE
    chirp = 0.3 * np.sin(2 * np.pi * (100 + 300 * seconds) * seconds)
    path = tmp_path / f"a.{container.lower()}"
    soundfile.write(path, chirp, RATE, format=container, subtype=subtype)
    whole, rate = decode(path)
    for offset in [0.001, 1.23, 2.5, *np.linspace(3.9, 4.69, 12)]:
        piece, _ = decode(path, offset, 0.3)
        start = int(offset * rate)
        np.testing.assert_allclose(piece, whole[start : start + int(0.3 * rate)], rtol=0, atol=tolerance)
        member, _ = decode(io.BytesIO(path.read_bytes()), offset, 0.3)
        np.testing.assert_array_equal(member, piece)


def test_the_end_of_an_encoders_vorbis_is_that_of_the_whole(shared_data):
    """Files whose last page is cut to length, which libsndfile doesn't write."""
    clips = sorted((shared_data / "noise").rglob("*.ogg"))[:12]
    for path in clips:
        whole, rate = decode(path)
        for offset in (len(whole) / rate - 0.86, len(whole) / rate - 0.1):
            np.testing.assert_array_equal(decode(path, offset)[0], whole[int(offset * rate) :], err_msg=path.name)
    assert clips


def test_reading_forward_prints_nothing(shared_data, capfd):
    """libmpg123 complains to the terminal when it is sent back to where it is, which soundfile does after each read."""
    for path in sorted((shared_data / "speech").rglob("*.mp3"))[:40]:
        decode(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all", None])
def test_what_is_no_audio_is_unreadable(tmp_path, content):
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadAudio) as caught:
        decode(path)
    assert caught.value.reason == "unreadable" and str(caught.value)
    assert header_seconds(path) is None


@pytest.mark.parametrize("name", ["\udc80.wav", "\ud800.wav", "a\0b.wav", "-", "", "x" * 5000, "."])
def test_a_name_that_no_file_can_have_is_unreadable(name):
    with pytest.raises(BadAudio) as caught:
        decode(name)
    assert caught.value.reason == "unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(BadAudio, match="not a file"):
        decode(tmp_path / "pipe.wav")


def test_files_with_unusual_names_are_read(shared_data, tmp_path, noise):
    names = json.loads((shared_data / "bad" / "unusual_names.txt").read_text(encoding="utf-8"))
    if os.name == "posix":
        names.append(os.fsdecode(b"latin1_\xe9.wav"))
    content = io.BytesIO()
    soundfile.write(content, noise, RATE, format="WAV")
    for name in names:
        (tmp_path / name).write_bytes(content.getvalue())
        assert len(decode(tmp_path / name)[0]) == len(noise)
    assert len(names) >= 10


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_a_rate_that_no_audio_has_is_unreadable(tmp_path, rate):
    """A megabyte at 1 Hz would become 32 GB at 16 kHz."""
    soundfile.write(tmp_path / "a.wav", np.ones(10), rate)
    with pytest.raises(BadAudio, match=f"{rate} Hz") as caught:
        decode(tmp_path / "a.wav")
    assert caught.value.reason == "unreadable"


def test_more_samples_than_memory_holds_are_unreadable(tmp_path, noise, monkeypatch):
    def read(file, frames, dtype, always_2d):
        raise MemoryError("Unable to allocate 256. GiB")

    soundfile.write(tmp_path / "a.wav", noise, RATE)
    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    with pytest.raises(BadAudio, match="256") as caught:
        decode(tmp_path / "a.wav")
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("offset", [5.0, 1e300, 1e308, float("inf")])
def test_an_offset_beyond_the_end_is_a_bad_entry(tmp_path, noise, offset):
    soundfile.write(tmp_path / "a.wav", noise, RATE)
    with pytest.raises(BadAudio, match=r"beyond the end at 5\.000 s") as caught:
        decode(tmp_path / "a.wav", offset)
    assert caught.value.reason == "bad_entry"


def test_a_file_without_samples_is_empty_whatever_the_offset(tmp_path):
    soundfile.write(tmp_path / "a.wav", [], RATE)
    for offset in (0.0, 1.0):
        with pytest.raises(BadAudio) as caught:
            decode(tmp_path / "a.wav", offset)
        assert caught.value.reason == "empty"


def test_the_header_tells_the_length_unless_it_was_written_to_a_pipe(tmp_path, noise):
    soundfile.write(tmp_path / "a.wav", noise, RATE)
    assert header_seconds(tmp_path / "a.wav") == 5.0
    assert header_seconds(flac_with_total(noise, 0)) is None


def test_an_open_file_is_closed_when_its_content_is_refused(tmp_path, noise):
    soundfile.write(tmp_path / "a.wav", noise, RATE)
    with pytest.raises(BadAudio):
        decode(tmp_path / "a.wav", offset=9.0)
    (tmp_path / "a.wav").unlink()  # fails on Windows while it is open
    with pytest.raises(BadAudio):
        open_audio(tmp_path / "a.wav")


def test_audio_is_refused_for_a_reason_of_the_table_only():
    assert [BadAudio(reason, "why").reason for reason in REASONS] == [*REASONS]
    with pytest.raises(AssertionError, match="broken"):
        BadAudio("broken", "why")


@pytest.mark.skipif(os.name == "nt", reason="where such a path is right")
@pytest.mark.parametrize("path", ["C:\\data\\a.wav", "d:/data/a.wav"])
def test_a_path_of_a_windows_machine_is_called_one(path):
    with pytest.raises(BadAudio, match="no such file: a path of a Windows machine"):
        open_audio(path)
