"""Weights of another model: what is read, what is loaded, and what is said of the rest."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from core.connectors.initial_weights import Part, initial_parts, load_matching, read_weights, start_from
from tests.utils.hostile import flipped
from utils.checkpoint_files.tensor_digest import METADATA_KEY, digest


class Two(nn.Module):
    """encoder: 2 x `width`, decoder: `width` x 1, and a frozen table of codes."""

    def __init__(self, width: int = 3, value: float = 0.0):
        super().__init__()
        self.encoder = nn.Linear(2, width)
        self.decoder = nn.Linear(width, 1)
        self.codes = nn.Parameter(torch.full((4,), value, dtype=torch.float64), requires_grad=False)


def equal(model: nn.Module, state_dict: dict[str, Tensor], part: str) -> bool:
    return all(torch.equal(v, state_dict[name]) for name, v in model.state_dict().items() if name.startswith(part))


@pytest.fixture
def ckpt(tmp_path) -> str:
    torch.save({"state_dict": Two(value=1.0).state_dict()}, tmp_path / "two.ckpt")
    return str(tmp_path / "two.ckpt")


# loading


def test_a_file_of_the_same_model_is_loaded_whole():
    model, theirs = Two(), Two(value=1.0).state_dict()
    report = load_matching(model, theirs, Part("x.ckpt"))
    assert equal(model, theirs, "") and report.is_whole
    assert str(report).startswith("loaded 5 of 5 tensors of the model from x.ckpt")


def test_what_is_missing_and_what_is_too_much_is_named():
    model, theirs = Two(), Two(value=1.0).state_dict()
    theirs["head.weight"] = theirs.pop("decoder.weight")
    report = load_matching(model, theirs, Part("x.ckpt"))
    assert (report.missing, report.unexpected) == (["decoder.weight"], ["head.weight"])
    assert "decoder.weight" in str(report) and "head.weight" in str(report) and not report.is_whole


def test_include_and_exclude_choose_by_parts_of_names_and_exclude_wins():
    model, before, theirs = Two(), Two().state_dict(), Two(value=1.0).state_dict()
    model.load_state_dict(before)
    report = load_matching(model, theirs, Part("x.ckpt", ["coder"], ["decoder", "bias"]))
    assert report.loaded == ["encoder.weight"]
    assert torch.equal(model.encoder.weight, theirs["encoder.weight"])
    assert torch.equal(model.encoder.bias, before["encoder.bias"]) and equal(model, before, "decoder")


def test_another_shape_is_an_error_with_both_shapes_and_changes_nothing():
    model, before, theirs = Two(), Two().state_dict(), Two(width=4).state_dict()
    model.load_state_dict(before)
    with pytest.raises(ValueError, match=r"x\.ckpt doesn't fit: .*r\.weight \[4, 2\] for \[3, 2\].*exclude") as raised:
        load_matching(model, theirs, Part("x.ckpt"))
    assert "\n" not in str(raised.value) and equal(model, before, "")
    assert load_matching(model, theirs, Part("x.ckpt", None, ["coder"])).loaded == ["codes"]


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (torch.int32, r"encoder\.weight torch\.int32 for torch\.float32"),
        (torch.bool, r"torch\.bool for torch\.float32"),
        (torch.complex64, r"torch\.complex64 for torch\.float32"),
    ],
)
def test_another_type_is_an_error_and_changes_nothing(dtype, said):
    model, before = Two(), Two().state_dict()
    model.load_state_dict(before)
    theirs = {name: value.to(dtype) for name, value in Two(value=1.0).state_dict().items()}
    with pytest.raises(ValueError, match=rf"of another shape or type: .*{said}"):
        load_matching(model, theirs, Part("x.ckpt"))
    assert equal(model, before, "")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_any_precision_are_loaded(dtype):
    model, theirs = Two(), {name: value.to(dtype) for name, value in Two(value=1.0).state_dict().items()}
    assert load_matching(model, theirs, Part("x.ckpt")).is_whole
    assert torch.equal(model.encoder.weight, theirs["encoder.weight"].float())


def test_a_message_names_the_key_of_the_config_that_asked(tmp_path):
    torch.save(Two(width=4).state_dict(), tmp_path / "four.ckpt")
    for options, said in (
        ({"include": ["encodr"]}, r"^init_from_ptl_ckpt\.a\.include: 'encodr' is in no name of .*four\.ckpt"),
        ({}, r"^init_from_ptl_ckpt\.a=.*four\.ckpt doesn't fit"),
        ({"exclude": ["er", "codes"]}, r"^nothing of init_from_ptl_ckpt\.a=.*four\.ckpt fits"),
    ):
        with pytest.raises(ValueError, match=said):
            start_from(Two(), {"init_from_ptl_ckpt": {"a": {"path": f"{tmp_path}/four.ckpt"} | options}})


def test_a_report_of_many_names_is_short():
    many = nn.ModuleDict({f"layer{i}": nn.Linear(1, 1) for i in range(200)})
    report = load_matching(many, nn.ModuleDict({"layer0": nn.Linear(1, 1)}).state_dict(), Part("x.ckpt"))
    assert len(report.missing) == 398 and "and 390 more" in str(report) and len(str(report)) < 400


def test_a_misspelt_include_is_an_error():
    with pytest.raises(ValueError, match=r"include: 'encodr' is in no name of x\.ckpt, such as codes"):
        load_matching(Two(), Two().state_dict(), Part("x.ckpt", ["encodr"]))


def test_a_file_of_which_nothing_fits_is_an_error():
    with pytest.raises(ValueError, match=r"nothing of x\.ckpt fits this model: .*unexpected: other\.weight"):
        load_matching(Two(), {"other.weight": torch.ones(1)}, Part("x.ckpt"))


def test_the_report_says_whose_frozen_codes_the_model_has():
    other = Two(value=1.0).state_dict()
    assert load_matching(Two(), other, Part("x.ckpt")).frozen_replaced == ["codes"]
    report = load_matching(Two(), other, Part("x.ckpt", ["encoder"]))
    assert report.frozen_kept == ["codes"] and "frozen, and not the file's: 1: codes" in str(report)
    same = load_matching(Two(value=1.0), other, Part("x.ckpt"))
    assert same.frozen_replaced == same.frozen_kept == []


# files


def test_a_lightning_checkpoint_gives_weights_and_config(tmp_path):
    content = {"state_dict": Two().state_dict(), "hyper_parameters": {"cfg": {"width": 3}}, "epoch": 1}
    torch.save(content, tmp_path / "two.ckpt")
    weights = read_weights(tmp_path / "two.ckpt")
    assert equal(Two(), weights.state_dict, "codes") and weights.config.width == 3


def test_a_bare_state_dict_gives_weights_and_no_config(tmp_path):
    torch.save(Two().state_dict(), tmp_path / "two.ckpt")
    assert read_weights(tmp_path / "two.ckpt").config is None


def with_averages(value: float) -> dict:
    averages = {"encoder.weight": torch.full((3, 2), value), "encoder.bias": torch.full((3,), value)}
    return {"state_dict": Two().state_dict(), "callbacks": {"EMA": {"weights": averages}}, "global_step": 7}


def test_one_read_gives_the_weights_as_trained_their_averages_and_the_step(tmp_path):
    content = with_averages(5.0)
    torch.save(content, tmp_path / "two.ckpt")
    weights = read_weights(tmp_path / "two.ckpt")
    averaged = weights.of("ema")
    assert weights.of("trained") is weights and weights.step == averaged.step == 7
    torch.testing.assert_close(weights.state_dict, dict(content["state_dict"]), rtol=0, atol=0)
    assert averaged.state_dict["encoder.weight"].eq(5.0).all()
    assert torch.equal(averaged.state_dict["decoder.weight"], content["state_dict"]["decoder.weight"])


def test_a_start_from_a_file_with_averages_says_which_weights_it_takes(tmp_path, log):
    torch.save(with_averages(5.0), tmp_path / "two.ckpt")
    model = Two()
    start_from(model, {"init_from_ptl_ckpt": f"{tmp_path}/two.ckpt"})
    assert "holds weights as trained, which are taken, and averaged ones" in log.text and "--weights ema" in log.text
    assert not model.encoder.weight.eq(5.0).any()


def test_averages_that_are_not_there_are_asked_for_in_vain(ckpt):
    with pytest.raises(ValueError, match=r"two\.ckpt holds no averaged weights"):
        read_weights(ckpt).of("ema")


@pytest.mark.parametrize("callbacks", [3, {"EMA": 3}, {"EMA": {"weights": [1]}}, {"EMA": {"weights": {"x": 1}}}])
def test_averages_that_are_none_are_refused_in_one_line(callbacks, tmp_path):
    torch.save(with_averages(1.0) | {"callbacks": callbacks}, tmp_path / "two.ckpt")
    with pytest.raises(ValueError, match=r"two\.ckpt has moving averages that aren't of its weights") as raised:
        read_weights(tmp_path / "two.ckpt")
    assert "\n" not in str(raised.value)


def with_checksum(state_dict: dict[str, Tensor], config: dict) -> dict[str, str]:
    text = json.dumps(config)
    return {"config": text, METADATA_KEY: digest(state_dict, text)}


def test_a_safetensors_file_gives_weights_and_the_config_of_its_metadata(tmp_path):
    state_dict = Two().state_dict()
    save_file(state_dict, tmp_path / "two.safetensors", metadata=with_checksum(state_dict, {"width": 3}))
    weights = read_weights(tmp_path / "two.safetensors")
    torch.testing.assert_close(weights.state_dict, dict(state_dict), rtol=0, atol=0)
    assert weights.config.width == 3
    save_file(state_dict, tmp_path / "bare.safetensors")
    assert read_weights(tmp_path / "bare.safetensors").config is None


def test_a_changed_bit_of_a_safetensors_file_with_a_checksum_is_an_error(tmp_path):
    path = tmp_path / "two.safetensors"
    state_dict = Two(value=1.0).state_dict()
    save_file(state_dict, path, metadata=with_checksum(state_dict, {"width": 3}))
    whole = path.read_bytes()
    assert read_weights(path).config.width == 3
    for position in [
        *range(len(whole) - 8, len(whole)),
        whole.index(b"3}"),
        whole.index(METADATA_KEY.encode()),
        whole.index(b"decoder.bias"),
    ]:
        path.write_bytes(flipped(whole, position, 4))
        with pytest.raises(ValueError, match=r"two\.safetensors is damaged"):
            read_weights(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.bin", b"1", r"x\.bin: weights are read from \.nemo, \.ckpt, \.safetensors"),
        ("x.safetensors", b"\x01" * 40, r"x\.safetensors can't be read"),
        ("x.ckpt", b"1" * 40, r"x\.ckpt"),
        ("x.nemo", b"1" * 40, r"x\.nemo"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_in_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        read_weights(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt holds no weights"):
        read_weights(tmp_path / "x.ckpt")


@pytest.mark.parametrize("options", [3, [1], {"cfg": 3}, {"cfg": "${oc.env:HOME}"}])
def test_a_checkpoint_with_options_that_are_none_is_refused_in_one_line(options, tmp_path):
    torch.save({"state_dict": dict(Two().state_dict()), "hyper_parameters": options}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt") as raised:
        read_weights(tmp_path / "x.ckpt")
    assert "\n" not in str(raised.value)


def test_weights_alone_are_read_from_a_checkpoint_whose_config_asks_for_the_environment(tmp_path, log):
    path = tmp_path / "two.ckpt"
    config = OmegaConf.create({"data": "${oc.env:HOME}"})
    torch.save({"state_dict": Two(value=1.0).state_dict(), "hyper_parameters": {"cfg": config}}, path)
    with pytest.raises(ValueError, match=r"two\.ckpt .*data=.*asks for more than keys.* with init_from_ptl_ckpt"):
        read_weights(path)
    model = Two()
    (report,) = start_from(model, {"init_from_ptl_ckpt": str(path)})
    assert report.is_whole and model.codes.eq(1.0).all()
    assert "asks for more than keys" in log.text and "without its hyper_parameters now" in log.text


# what a config asks for


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ("{init_from_ptl_ckpt: FILE}", [Part("FILE")]),
        ("{init_from_nemo_model: {a: {path: FILE}}}", [Part("FILE")]),
        ("{init_from_nemo_model: {path: FILE, exclude: [decoder]}}", [Part("FILE", None, ["decoder"])]),
        ("{init_from_pretrained_model: {a: {name: FILE, include: [enc]}}}", [Part("FILE", ["enc"])]),
        (
            "{init_from_ptl_ckpt: {a: {path: FILE, include: [enc], exclude: [b]}, b: {path: FILE, include: [dec]}}}",
            [Part("FILE", ["enc"], ["b"]), Part("FILE", ["dec"])],
        ),
        ("{init_from_ptl_ckpt: null, init_from_nemo_model: null}", []),
        ("{}", []),
    ],
)
def test_files_to_start_from_are_read_as_in_nemo(config, parts, ckpt):
    found = initial_parts(OmegaConf.create(config.replace("FILE", ckpt)))
    assert found == [Part(ckpt, part.include, part.exclude) for part in parts]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{init_from_ptl_ckpt: FILE, init_from_nemo_model: FILE}", "init_from_nemo_model and init_from_ptl_ckpt are"),
        ("{init_from_nemo_model: {a: {paht: FILE}}}", r"init_from_nemo_model\.a=.* must be a mapping with a path"),
        ("{init_from_nemo_model: {a: {path: FILE, inclde: [x]}}}", "did you mean 'include'"),
        ("{init_from_nemo_model: {a: {path: FILE, include: encoder}}}", r"a\.include=encoder must be a list"),
        ("{init_from_nemo_model: {a: FILE}}", r"init_from_nemo_model\.a=.* must be a mapping with a path"),
        ("{init_from_nemo_model: [FILE]}", "init_from_nemo_model=.* must be the path of a file"),
        ("{init_from_nemo_model: nothing.nemo}", r"init_from_nemo_model=nothing\.nemo is no file here$"),
        ("{init_from_pretrained_model: ssl_en_nest_large_v1.0}", "is no file here: download the model"),
        ("{init_from_pretrained_model: {a: {name: ssl_en_nest}}}", r"init_from_pretrained_model\.a=ssl_en_nest is no"),
    ],
)
def test_a_start_that_cannot_be_right_is_refused_in_one_line(config, said, ckpt):
    with pytest.raises(ValueError, match=said) as raised:
        initial_parts(OmegaConf.create(config.replace("FILE", ckpt)))
    assert "\n" not in str(raised.value)


def test_files_are_loaded_one_after_the_other(ckpt, tmp_path):
    second = Two(value=2.0)
    torch.save(second.state_dict(), tmp_path / "second.ckpt")
    codes = {"path": f"{tmp_path}/second.ckpt", "include": ["codes"]}
    config = {"init_from_ptl_ckpt": {"a": {"path": ckpt}, "b": codes}}
    model = Two()
    start_from(model, config)
    assert equal(model, second.state_dict(), "codes") and equal(model, read_weights(ckpt).state_dict, "encoder")


def test_weights_that_fit_in_part_are_a_warning_and_a_chosen_part_is_none(ckpt, log):
    model = Two()
    model.head = nn.Linear(1, 1)
    start_from(model, {"init_from_ptl_ckpt": ckpt})
    assert {record.levelname for record in log.records} == {"WARNING"} and "head.weight" in log.text
    log.clear()
    start_from(model, {"init_from_ptl_ckpt": {"a": {"path": ckpt, "include": ["encoder"]}}})
    assert {record.levelname for record in log.records} == {"INFO"} and "left out" in log.text


def test_a_run_that_goes_on_keeps_the_weights_of_its_checkpoint(ckpt, log):
    model = Two()
    assert start_from(model, {"init_from_ptl_ckpt": ckpt}, resumed_from="last.ckpt") == []
    assert torch.equal(model.codes, torch.zeros(4, dtype=torch.float64))
    assert "weights are those of last.ckpt" in log.text
