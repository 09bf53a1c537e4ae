"""What is compared when nobody says: the cases of the kept records, on synthetic speech."""

from tools.parity.cases import CASES, SEED, make_audio, make_masks
from tools.parity.records import Job

ENCODER_ASPECTS = ("computation",)
MODEL_ASPECTS = ("computation",)


def kept_job(name: str) -> Job:
    """The job of a case. An encoder's features, which need NeMo, are made on its side."""
    case = CASES[name]
    if case.is_model:
        return Job(name, case, MODEL_ASPECTS, make_audio() | {"masks": make_masks()}, brief_trace=True)
    return Job(name, case, ENCODER_ASPECTS, make_audio(SEED + 1), brief_trace=True)
