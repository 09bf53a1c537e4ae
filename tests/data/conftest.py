import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16000


@pytest.fixture
def speech_and_noise(tmp_path: Path) -> Callable[..., dict]:
    """`speech_and_noise(bad=(1,))`: config section over six utterances of 0.2 to 0.7 s and two noises of 0.3 and 3 s.

    bad: indices of utterances whose files hold no audio.
    """

    def make(bad: tuple[int, ...] = (), **section) -> dict:
        rng = np.random.default_rng(0)
        speech = [(f"s{i}.wav", 0.2 + 0.1 * i) for i in range(6)]
        noise = [("n0.wav", 0.3), ("n1.wav", 3.0)]
        for name, seconds in speech + noise:
            soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(round(seconds * RATE)), RATE)
        for i in bad:
            (tmp_path / f"s{i}.wav").write_bytes(b"no audio")
        for manifest, files in (("speech.json", speech), ("noise.json", noise)):
            lines = [json.dumps({"audio_filepath": name, "duration": round(s, 1)}) for name, s in files]
            (tmp_path / manifest).write_text("\n".join(lines), encoding="utf-8")
        return {
            "manifest_filepath": str(tmp_path / "speech.json"),
            "noise_manifest": str(tmp_path / "noise.json"),
            "sample_rate": RATE,
            "batch_size": 2,
            "shuffle": True,
            "min_audio_len_secs": 0.3,
        } | section

    return make
