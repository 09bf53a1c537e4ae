"""NeMo's side of a comparison; runs in an environment that has NeMo, with its torch, numpy, omegaconf and safetensors.

Of this project it needs `tools` and the batch types in `parts`, nothing that stands for a part of NeMo.

python -m tools.parity.nemo_side     (started by tools/compare_with_nemo.py)
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import OmegaConf

from tools.parity.aspects.table import measure
from tools.parity.cases import NEMO, Case, Levels, make_masks
from tools.parity.records import Job, Record, load, save
from tools.parity.side import Side, origin, with_start_weights
from tools.side_process import serve

LONGEST_ERROR = 300  # characters of what NeMo raised


def measure_job(job: str, record: str, folder: str) -> dict:
    """Read a job from one file, write what NeMo computes of it to another."""
    asked = load(Path(job)).job
    why = why_not_built(asked, Path(folder))
    if why:
        answer = Record(replace(asked, aspects=()), origin("nemo"), raised=why)
    else:
        answer = measure(Side("nemo", complete(asked, Path(folder)), Path(folder)))
    save(answer, Path(record))
    return {}


def complete_job(job: str, folder: str) -> dict:
    """Put into the file of a job what only NeMo can give. A model that it can't build is left to `measure_job`."""
    asked = load(Path(job)).job
    try:
        save(Record(complete(asked, Path(folder)), {"side": "nemo"}), Path(job))
    except Exception:
        if not why_not_built(asked, Path(folder)):
            raise
    return {}


def why_not_built(job: Job, folder: Path) -> str:
    """What NeMo raises where it builds the job's model; "" where it doesn't."""
    try:
        Side("nemo", job, folder).fresh()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST_ERROR]}"
    return ""


def complete(job: Job, folder: Path) -> Job:
    """The job with what only NeMo can give: start weights, features for an encoder, masks as long as the features."""
    job = with_start_weights(job, folder)
    if job.case.is_model:
        return job if "masks" in job.inputs else with_masks(job)
    return job if "features" in job.inputs else replace(job, inputs=encoder_inputs(job))


@torch.no_grad()
def with_masks(job: Job) -> Job:
    """A mask for the gradients and one for each optimizer step."""
    model_class = job.case.class_of(NEMO)
    preprocessor = model_class.from_config_dict(OmegaConf.create(job.case.config["preprocessor"])).eval()
    features, lengths = preprocessor(input_signal=job.inputs["clean"] / 32768, length=job.inputs["lengths"])
    masks = make_masks(lengths.tolist(), features.shape[2], job.steps)
    return replace(job, inputs=job.inputs | {"masks": masks})


@torch.no_grad()
def encoder_inputs(job: Job) -> Levels:
    """Log-mel features (3, F, frames) of the job's two utterances, in lengths that no subsampling factor divides; but
    for the longest where frames are stacked, since NeMo adds what completes it to the length of every utterance."""
    frames = 104 if "stacking" in job.case.config["subsampling"] else 105
    config = {"features": job.case.config["feat_in"], "dither": 0.0, "pad_to": 0, "n_fft": 512}
    preprocessor = Case("modules.audio_preprocessing.AudioToMelSpectrogramPreprocessor", config).build(NEMO)
    noisy, lengths = job.inputs["noisy"] / 32768, job.inputs["lengths"]
    features, _ = preprocessor.eval()(input_signal=noisy, length=lengths)
    features = torch.stack([features[0, :, :frames], features[1, :, :frames], features[0, :, -frames:]])
    return {"features": features, "feature_lengths": torch.tensor([frames, 74, 33])}


def describe() -> dict:
    import nemo  # here, so that what is missing is told by the first job

    return {"nemo_version": nemo.__version__, "torch_version": torch.__version__, "python": sys.version.split()[0]}


def main() -> None:
    logging.disable(logging.WARNING)
    serve({"describe": describe, "complete": complete_job, "measure": measure_job})


if __name__ == "__main__":
    main()
