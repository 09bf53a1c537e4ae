import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parts.preprocessing.manifest import read_table
from tools.tarring.plan import Shard, plan_shards
from tools.tarring.shards import is_finished, manifest_path, tar_path, verify, write_shard

RATE = 16000


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """Of three files."""
    for number in range(3):
        samples = 0.1 * np.random.default_rng(number).standard_normal(RATE)
        soundfile.write(tmp_path / f"{number}.wav", samples, RATE)
    lines = [json.dumps({"audio_filepath": f"{number}.wav", "duration": 1.0}) for number in range(3)]
    (tmp_path / "m.json").write_text("\n".join(lines), encoding="utf-8")
    return plan_shards(read_table([str(tmp_path / "m.json")]), 1)[0]


@pytest.fixture
def folder(shard, tmp_path) -> Path:
    """Where that shard was written."""
    (tmp_path / "out").mkdir()
    write_shard(shard, tmp_path / "out", None, list)
    return tmp_path / "out"


def cut_tar(folder: Path) -> None:
    content = tar_path(folder, 0).read_bytes()
    tar_path(folder, 0).write_bytes(content[: len(content) // 2])


BREAK = {
    "no manifest": lambda folder: manifest_path(folder, 0).unlink(),
    "another manifest": lambda folder: manifest_path(folder, 0).write_text("{}\n", encoding="utf-8"),
    "no tar": lambda folder: tar_path(folder, 0).unlink(),
    "half a tar": cut_tar,
    "a longer source": lambda folder: soundfile.write(folder.parent / "1.wav", np.zeros(RATE + 1), RATE),
}


@pytest.mark.parametrize("what", BREAK)
def test_a_shard_that_is_not_whole_or_not_this_one_is_written_again(what, shard, folder):
    assert is_finished(shard, folder)
    BREAK[what](folder)
    assert not is_finished(shard, folder)
    assert write_shard(shard, folder, None, list).written and is_finished(shard, folder)


def test_every_member_is_read_back(folder):
    with pytest.raises(OSError, match="doesn't read back"):
        verify(tar_path(folder, 0), {"0.wav": 1, "1.wav": 2, "2.wav": 3})
