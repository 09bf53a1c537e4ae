"""Rows of the scenes: every item and batch that NeMo gives, and where ours differs on purpose."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tools.parity.data.reading import TENSORS
from tools.parity.data.samples import compare_samples, is_usable
from tools.parity.data.scenes import Scene
from tools.parity.records import Measured
from tools.parity.rows import BROKEN, FAILED, KNOWN, NOT_RUN, PASSED, Row

BATCH, LOADER, MANIFEST = "data.collate", "data.loader", "parts.preprocessing.manifest"
ITEM = {
    "audio": "data.audio_to_text",
    "audio_len": "data.noisy_speech",
    "noise": "data.noise",
    "noise_len": "data.noise",
}
BOTH_RUN = "both sides must run"
STEREO = "NeMo passes all channels on, which its collate can't pad; ours averages them"
CUT = "NeMo cuts items that its augmentor left alone to the length of their noise"
UNUSABLE = "there is nothing to learn from in it: ours puts another in its place, and says so"


def compare_scene(name: str, scene: Scene, ours: Measured, nemo: Measured, step: int, is_users: bool) -> Iterator[Row]:
    """ours, nemo: what `reading.read` kept of it. is_users: files may be bad, which those of the tool aren't."""
    if "raised" in nemo.facts or "raised" in ours.facts:
        yield raised_row(f"{name}: reading", ours.facts.get("raised"), nemo.facts.get("raised"), "data.ssl_dataset")
        return
    yield count_row(f"{name}: number of items", ours.facts["items"], nemo.facts["items"], MANIFEST)
    for index, item in enumerate(numbered("item", nemo)):
        maker = scene.item_modules[index] if scene.item_modules else ITEM["audio"]
        yield from compare_item(name, item, ours, nemo, step, maker, is_users)
    raised = [side.facts.get("batches raised") for side in (ours, nemo)]
    if any(raised):
        yield raised_row(f"{name}: batches", *raised, BATCH, is_users)
        return
    if "batches" not in nemo.facts:
        return
    yield count_row(f"{name}: number of batches", ours.facts["batches"], nemo.facts["batches"], LOADER)
    replaced = [item for item in numbered("item", ours) if f"{item}/replaced" in ours.facts]
    for batch in numbered("batch", nemo):
        if replaced and is_users:
            reason = f"{', '.join(replaced)}: ours puts others in their place"
            yield Row("data", f"{name} {batch}", NOT_RUN, reason=reason, module=BATCH)
        else:
            yield from compare_batch(name, batch, ours, nemo, step, scene.module)


def numbered(kind: str, measured: Measured) -> list[str]:
    """item 0, item 1, ..., those that were read or raised."""
    names = {fact.split("/")[0] for fact in measured.facts if fact.startswith(f"{kind} ")}
    return sorted(names, key=lambda name: int(name.split()[1]))


def compare_item(
    name: str, item: str, ours: Measured, nemo: Measured, step: int, module: str, is_users: bool
) -> Iterator[Row]:
    """module: what makes its samples what they are."""
    what = f"{name} {item}"
    raised = [side.facts.get(f"{item}/raised") for side in (ours, nemo)]
    replaced, expected = ours.facts.get(f"{item}/replaced"), nemo.tensors.get(f"{item}/audio")
    if replaced:
        is_bad = expected is None or not is_usable(expected)
        status = KNOWN if is_users and is_bad else FAILED
        yield Row("data", what, status, reason=UNUSABLE, detail=replaced, module=module)
    elif any(raised):
        yield raised_row(what, *raised, module, is_users)
    elif len(nemo.facts[f"{item}/audio/form"]) > 2:
        yield averaged_row(what, ours.facts[f"{item}/audio/form"], nemo.facts[f"{item}/audio/form"], module)
    else:
        yield from compare_tensors(name, item, ours, nemo, step, ITEM | {"audio": module})


def averaged_row(what: str, ours: list, nemo: list, module: str) -> Row:
    """NeMo's item has several channels (N, C); ours must have as many samples, of one."""
    status = KNOWN if ours == nemo[:2] else FAILED
    return Row("data", f"{what}: audio", status, reason=STEREO, detail=f"{ours} instead of {nemo}", module=module)


def compare_batch(name: str, batch: str, ours: Measured, nemo: Measured, step: int, module: str) -> Iterator[Row]:
    for row in compare_tensors(name, batch, ours, nemo, step, dict.fromkeys(TENSORS, module)):
        if row.status == FAILED and row.what.endswith(": noisy_audio_len") and is_cut(batch, ours, nemo):
            row = replace(row, status=KNOWN, reason=CUT)
        yield row


def is_cut(batch: str, ours: Measured, nemo: Measured) -> bool:
    """Ours has the length of the audio, NeMo that of the noise."""
    our_length, audio_length = (ours.tensors.get(f"{batch}/{kind}") for kind in ("noisy_audio_len", "audio_len"))
    nemo_length, noise_length = (nemo.tensors[f"{batch}/{kind}"] for kind in ("noisy_audio_len", "noise_len"))
    return our_length is not None and our_length.equal(audio_length) and nemo_length.equal(noise_length)


def compare_tensors(
    name: str, of: str, ours: Measured, nemo: Measured, step: int, modules: Mapping[str, str]
) -> Iterator[Row]:
    """modules: for each of TENSORS."""
    for tensor in TENSORS:
        key = f"{of}/{tensor}"
        if key in nemo.tensors:
            forms = ours.facts.get(f"{key}/form"), nemo.facts[f"{key}/form"]
            got, expected = ours.tensors.get(key), nemo.tensors[key]
            yield compare_samples(
                f"{name} {of}: {tensor}", got, expected, module=modules[tensor], forms=forms, step=step
            )


def count_row(what: str, ours: int, nemo: int, module: str) -> Row:
    status, detail = (PASSED, "") if ours == nemo else (FAILED, f"{ours} instead of {nemo}")
    return Row("data", what, status, abs(ours - nemo), 0.0, "counts have no rounding", detail, module)


def raised_row(what: str, ours: str | None, nemo: str | None, module: str, is_expected: bool = False) -> Row:
    """Where NeMo raises there is nothing to compare with, which some files of a user's make it do; where only ours
    does, it has failed."""
    if nemo:
        status = NOT_RUN if is_expected else BROKEN
        return Row("data", what, status, reason=f"not compared: NeMo raises {nemo}", module=module)
    return Row("data", what, FAILED, reason=BOTH_RUN, detail=f"ours raised {ours}", module=module)
