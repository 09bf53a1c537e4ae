"""Negative controls: checkpoint files that aren't what they should be are seen, by the name of what is wrong."""

import zlib
from dataclasses import replace

import pytest
import torch

from core.connectors import save_restore
from models import ssl_models
from tools.parity.aspects import file_formats, files
from tools.parity.aspects.file_differences import differing_keys, differing_tensors, digests
from tools.parity.compare import compare_with
from tools.parity.records import Measured, Record, kept
from tools.parity.rows import FAILED, KNOWN, NOT_RUN, all_passed
from tools.parity.side import Side

WHAT = ("weights", "configuration", "options of its modules", "log-probabilities")
FIRST, SECOND = "encoder.layers.0.norm_out.weight", "encoder.layers.0.norm_out.bias"  # of one shape


def record_of_files(name: str = "model_pre_conv_1_book") -> Record:
    record = kept(name)
    return replace(
        record,
        job=replace(record.job, aspects=(files.NAME,)),
        measured={files.NAME: record.measured[files.NAME]},
    )


def failures(record: Record, folder) -> dict[str, str]:
    """What failed -> detail."""
    return {row.what: row.detail for row in compare_with(record, folder).rows if row.status == FAILED}


@pytest.mark.parametrize("name", ["model_pre_conv_1_book", "model_post_conv_1_book"])
def test_files_of_nemo_and_ours_hold_the_same_model(name, tmp_path):
    comparison = compare_with(record_of_files(name), tmp_path)
    assert comparison.failed == []
    passed = {row.what for row in comparison.rows if row.status == "passed"}
    for suffix in file_formats.FORMATS:
        assert {f"NeMo's {suffix}, opened here: {what}" for what in WHAT} <= passed
        assert {f"our {suffix}: weights in it", f"our {suffix}: configuration in it"} <= passed
    assert {row.module for row in comparison.rows if row.status != NOT_RUN} == {files.MODULE}


def test_what_nemo_edits_in_post_conv_mode_is_known(tmp_path):
    rows = compare_with(record_of_files("model_post_conv_1_book"), tmp_path).rows
    known = [row for row in rows if row.status == KNOWN]
    assert [row.what for row in known] == [f"our {suffix}: keys that NeMo edits" for suffix in file_formats.FORMATS]
    assert known[0].detail == "masking.block_size: 40 instead of 5"


# what is wrong with a state dict


def not_saved(state: dict) -> dict:
    return {name: value for name, value in state.items() if name != FIRST}


def swapped(state: dict) -> dict:
    return state | {FIRST: state[SECOND], SECOND: state[FIRST]}


def cast_to_half(state: dict) -> dict:
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def renamed(state: dict) -> dict:
    return {name.replace("norm_out", "norm_final"): value for name, value in state.items()}


def moved_a_little(state: dict) -> dict:
    return state | {FIRST: state[FIRST] * (1 + 1e-6)}


WRONG_STATES = {
    not_saved: f"{FIRST} is missing",
    swapped: f"{FIRST} is {SECOND} (and 1 more)",
    cast_to_half: "preprocessor.featurizer.window: float16 [400] ",
    renamed: f"{FIRST} is missing",
    moved_a_little: f"{FIRST}: float32 [16] ",
}


@pytest.mark.parametrize("wrong", WRONG_STATES, ids=lambda wrong: wrong.__name__)
def test_what_we_write_wrong_is_seen_without_nemo(wrong, monkeypatch, tmp_path):
    write = save_restore.write_nemo
    monkeypatch.setattr(save_restore, "write_nemo", lambda path, config, state: write(path, config, wrong(state)))
    found = failures(record_of_files(), tmp_path)
    assert list(found) == ["our .nemo: weights in it"]
    assert WRONG_STATES[wrong] in found["our .nemo: weights in it"]


@pytest.mark.parametrize("wrong", [swapped, moved_a_little], ids=lambda wrong: wrong.__name__)
def test_what_we_read_wrong_is_seen(wrong, monkeypatch, tmp_path):
    read = save_restore.read_nemo_weights
    monkeypatch.setattr(save_restore, "read_nemo_weights", lambda path: wrong(read(path)))
    found = failures(record_of_files(), tmp_path)
    assert WRONG_STATES[wrong] in found["NeMo's .nemo, opened here: weights"]


@pytest.mark.parametrize("wrong", [not_saved, renamed], ids=lambda wrong: wrong.__name__)
def test_a_file_that_cannot_be_opened_fails_in_one_line(wrong, monkeypatch, tmp_path):
    read = save_restore.read_nemo_weights
    monkeypatch.setattr(save_restore, "read_nemo_weights", lambda path: wrong(read(path)))
    found = failures(record_of_files(), tmp_path)
    assert list(found) == ["NeMo's .nemo, opened here: opened"]
    assert "ValueError: " in found["NeMo's .nemo, opened here: opened"] and FIRST in str(found)


def test_weights_that_are_opened_in_half_precision_are_seen(monkeypatch, tmp_path):
    """A model is float32 whatever its file holds, so that names and types stay and values are rounded."""
    read = save_restore.read_nemo_weights
    monkeypatch.setattr(save_restore, "read_nemo_weights", lambda path: cast_to_half(read(path)))
    found = failures(record_of_files(), tmp_path)
    assert list(found) == ["NeMo's .nemo, opened here: weights", "NeMo's .nemo, opened here: log-probabilities"]


# what is wrong with a configuration


def test_a_key_that_we_lose_on_writing_is_named_in_both_formats(monkeypatch, tmp_path):
    to_nemo = save_restore.to_nemo

    def lossy(cfg, target):
        config, told = to_nemo(cfg, target)
        del config.encoder["xscaling" if "xscaling" in config.encoder else "conv_kernel_size"]
        return config, told

    monkeypatch.setattr(save_restore, "to_nemo", lossy)
    lost = "encoder.conv_kernel_size is lost"
    assert failures(record_of_files(), tmp_path) == {
        f"our {suffix}: configuration in it": lost for suffix in file_formats.FORMATS
    }


def test_a_key_that_we_lose_on_reading_is_named(monkeypatch, tmp_path):
    from_nemo = save_restore.from_nemo

    def lossy(config):
        config = from_nemo(config)
        del config.masking["mask_prob"]
        return config

    monkeypatch.setattr(save_restore, "from_nemo", lossy)
    found = failures(record_of_files(), tmp_path)
    assert found["NeMo's .nemo, opened here: configuration"] == "masking.mask_prob is lost"
    assert "mask_processor.mask_prob: " in found["NeMo's .nemo, opened here: options of its modules"]


def test_a_block_size_that_is_divided_once_more_is_seen(monkeypatch, tmp_path):
    """NeMo does it with its own file."""
    once = ssl_models.mask_after_subsampling

    def twice(cfg):
        steps = once(cfg)
        if cfg.loss.combine_time_steps == 1:  # NeMo's file
            steps.masking.block_size //= 2
        return steps

    monkeypatch.setattr(ssl_models, "mask_after_subsampling", twice)
    found = failures(record_of_files("model_post_conv_1_book"), tmp_path)
    seen = "encoder.pre_encode.masking.block_size: 2 instead of 5"
    assert all(
        found[f"NeMo's {suffix}, opened here: options of its modules"].startswith(seen)
        for suffix in file_formats.FORMATS
    )


# what isn't there


def test_a_save_that_raises_is_a_failure(monkeypatch, tmp_path):
    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(save_restore, "write_nemo", full)
    found = failures(record_of_files(), tmp_path)
    assert found == {"our .nemo, opened by NeMo: written": "OSError: no space left"}


def test_without_nemo_a_file_that_it_never_opened_is_not_run(tmp_path):
    record = record_of_files()
    record.measured[files.NAME].facts["opened"] = {}
    rows = {row.what: row for row in compare_with(record, tmp_path).rows}
    row = rows["our .nemo, opened by NeMo"]
    assert (row.status, row.reason) == (NOT_RUN, "needs NeMo, run now")


def test_a_model_that_nemo_cannot_compute_has_files_all_the_same(tmp_path):
    """vggnet raises in NeMo 3.0.0; its weights and its configuration are compared."""
    record = record_of_files()
    record.measured[files.NAME].facts["error"] = "RuntimeError: shapes"
    rows = compare_with(record, tmp_path).rows
    not_run = [row for row in rows if row.status == NOT_RUN]
    assert {row.what.split(": ")[1] for row in not_run if ": " in row.what} == {"log-probabilities"}
    assert all_passed(rows) and not_run[0].detail == "RuntimeError: shapes"


def test_what_nemo_made_of_another_file_of_ours_counts_for_nothing(monkeypatch, tmp_path):
    """A record made before our writing broke doesn't say that NeMo opens what is written now."""
    write = save_restore.write_nemo
    monkeypatch.setattr(save_restore, "write_nemo", lambda path, config, state: write(path, config, swapped(state)))
    statuses = {row.what: row.status for row in compare_with(record_of_files(), tmp_path).rows}
    assert statuses["our .nemo, opened by NeMo"] == NOT_RUN


def test_an_order_of_parameters_that_is_not_nemos_is_named(monkeypatch, tmp_path):
    groups = ssl_models.EncDecMaskedTokenPredModel.setup_optimizer_param_groups

    def backwards(self):
        return [group | {"params": list(group["params"])[::-1]} for group in groups(self)]

    monkeypatch.setattr(ssl_models.EncDecMaskedTokenPredModel, "setup_optimizer_param_groups", backwards)
    found = failures(record_of_files(), tmp_path)
    assert list(found) == ["optimizer states: order of the parameters"]
    assert found["optimizer states: order of the parameters"].startswith("number 0: decoder.")


def test_tensors_of_equal_bytes_and_another_shape_or_type_differ():
    zeros = torch.zeros(4)
    assert differing_tensors(digests({"x": zeros.view(2, 2)}), digests({"x": zeros}))
    assert differing_tensors(digests({"x": zeros.view(torch.int32)}), digests({"x": zeros}))
    assert differing_tensors(digests({"x": zeros, "y": zeros}), digests({"x": zeros})) == ["y is too many"]


def test_who_wrote_a_config_makes_no_difference_and_an_empty_section_does():
    config = {"a": {}, "b": [1], "nemo_version": "3.0.0"}
    assert differing_keys(config | {"nemo_version": "2.6.0", "own_options": {"masking": 1}}, config) == []
    assert differing_keys({"b": [1]}, config) == ["a is lost"]
    assert differing_keys(config | {"b": [2]}, config) == ["b: [2] instead of [1]"]


# what a record carries


def packed(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(zlib.compress(content)), dtype=torch.uint8)


@pytest.mark.parametrize("name", ["/../../outside", "//absolute", "/x.ours.nemo", "/other"])
def test_a_record_writes_no_file_but_nemos_of_its_job(name, tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    name = files.FILES + name.removeprefix("/").replace("/absolute", str(tmp_path / "absolute"))
    record = record_of_files()
    files.hand_over(replace(record, measured={files.NAME: Measured({name: packed(b"written")})}), inside)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_that_is_packed_too_well_is_cut_off(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "LARGEST_KEPT", 1000)
    assert files.unpacked(packed(bytes(10**6))) == bytes(1000)


def test_a_file_that_is_broken_in_the_record_is_refused():
    with pytest.raises(ValueError, match=r"a file in the record is broken .*: make the record anew"):
        files.unpacked(torch.zeros(10, dtype=torch.uint8))


def test_only_small_files_are_carried_and_the_others_said_to_be_large(monkeypatch, tmp_path):
    record = record_of_files()
    for side in (Side("ours", record.job, tmp_path), Side("nemo", record.job, tmp_path)):
        for suffix in file_formats.FORMATS:
            files.file_of(side, side.name, suffix).write_bytes(b"four")
        carried = files.kept_files(side)
        assert list(carried) == [
            f"{files.FILES}{record.job.name}.nemo{suffix}" for suffix in file_formats.FORMATS if side.is_nemo
        ]
    assert files.unpacked(next(iter(carried.values()))) == b"four"
    monkeypatch.setattr(files, "LARGEST_KEPT", 3)
    assert files.kept_files(side) == {}
    assert files.why_lacking({"size": 4}).startswith("records carry no files above")
    assert files.why_lacking({"size": 3}) == files.why_lacking({}) == "the record lacks the file"


@pytest.mark.parametrize("suffix", [".safetensors", ".nemo"])
def test_a_checkpoint_that_nemo_opens_none_of_is_said_to_be_one(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"")
    record = record_of_files()
    side = Side("ours", replace(record.job, checkpoint=str(path)), tmp_path)
    assert ("checkpoint" in files.files_to_open(side)) == (suffix in file_formats.FORMATS)
    (row,) = files.compare_checkpoint(path.name, Measured(facts={"opened": {}}), record.measured[files.NAME])
    assert (row.status, "NeMo opens no .safetensors" in row.reason) == (NOT_RUN, suffix == ".safetensors")
