"""Who is blamed for what no call shows, by the row that tells it."""

import pytest

from tools.parity.diagnosis.culprit import Pair
from tools.parity.diagnosis.unseen import Unseen
from tools.parity.rows import FAILED, PASSED, Row
from tools.parity.trace import Trace

CLASSES = {
    "": "models.x.Model",
    "preprocessor": "modules.x.Preprocessor",
    "mask_processor": "modules.x.Masking",
    "encoder": "modules.x.Encoder",
    "encoder.layers": "torch.nn.modules.container.ModuleList",
    "encoder.pre_encode": "modules.x.Wrapper",
    "encoder.pre_encode.pre_encode": "parts.x.Subsampling",
}
GROUPS = Row("files", "optimizer states: order of the parameters", FAILED, module="core.connectors.save_restore")


def built(option: str) -> Row:
    return Row("configuration", f"built: {option}", FAILED, module=option.rpartition(".")[0])


def unseen(*rows: Row) -> Unseen:
    return Unseen(Pair(Trace(), Trace(), CLASSES), rows, {"name": "adamw", "sched": {"name": "NoamAnnealing"}})


def gradient(name: str, detail: str, status: str = FAILED) -> Row:
    return Row("gradient", name, status, detail=detail)


@pytest.mark.parametrize(
    ("row", "module"),
    [
        (Row("configuration", "model.masking.min_masks", FAILED), "mask_processor"),
        (Row("configuration", "model.encoder.d_model", FAILED), "encoder"),
        (Row("configuration", "model.optim.lr", FAILED), "optim"),
        (Row("configuration", "model.optim.sched.warmup_steps", FAILED), "optim.sched"),
        (Row("configuration", "model.sample_rate", FAILED), "(model)"),
        (Row("token", "tokens", FAILED), "quantizer"),
        (Row("training_layer", "3", FAILED), "encoder.layers.3"),
        (Row("training_encoded", "states", FAILED), "encoder"),
        (GROUPS, "optim"),
    ],
)
def test_a_row_has_its_module(row, module):
    assert unseen(row).culprit().module == module


def test_a_python_module_is_its_own_owner_so_that_a_file_can_be_named():
    found = unseen(Row("data", "item 1", FAILED, module="parts.preprocessing.segment")).culprit()
    assert (found.module, found.owner) == ("parts.preprocessing.segment", "parts.preprocessing.segment")


def test_parameters_in_other_groups_are_the_fault_of_who_makes_the_groups():
    found = unseen(Row("parameter", "a.bias", FAILED), GROUPS).culprit()
    assert (found.module, found.class_name) == ("optim", "core.classes.model.ModelPT")
    assert unseen(Row("parameter", "a.bias", FAILED)).culprit().owner == "core.optim.optimizers.build_optimizer"


def test_a_gradient_that_nemo_cuts_off_is_the_fault_of_the_module_around_what_it_reaches():
    names = [f"encoder.pre_encode.pre_encode.{name}" for name in ("conv.0.weight", "conv.2.bias", "out.weight")]
    assert unseen(*(gradient(name, "only here") for name in names)).culprit().module == "encoder.pre_encode"
    assert unseen(gradient("mask_processor.mask_embedding", "only here")).culprit().module == "mask_processor"


def test_where_no_gradient_reaches_the_encoder_the_model_cuts_it_off():
    missing = [gradient(f"encoder.{name}", "missing instead of shape (3,)") for name in ("a.weight", "b.weight")]
    assert unseen(*missing, gradient("decoder.weight", "", PASSED)).culprit().module == "(model)"
    assert "reaches the encoder" in unseen(*missing).culprit().detail
    assert "reaches the encoder" not in unseen(*missing, gradient("encoder.c.weight", "", PASSED)).culprit().detail


@pytest.mark.parametrize(
    ("option", "module", "owner"),
    [
        ("optim.param_groups.0.lr", "optim.sched", "core.optim.lr_scheduler.NoamAnnealing"),
        ("optim.sched.interval", "optim.sched", "core.optim.lr_scheduler.NoamAnnealing"),
        ("optim.param_groups.0.betas", "optim", "core.optim.optimizers.build_optimizer"),
        ("optim.param_groups.0.params", "optim", "core.classes.model.ModelPT"),
        ("optim.param_groups", "optim", "core.classes.model.ModelPT"),
        ("encoder.pre_encode.p", "encoder.pre_encode", "modules.x.Wrapper"),
    ],
)
def test_what_the_optimizer_holds_is_of_the_schedule_the_optimizer_or_the_groups(option, module, owner):
    found = unseen(built(option)).misbuilt()
    assert (found.module, found.owner) == (module, owner)


def test_what_a_module_is_made_of_blames_it_or_the_holder_of_a_list():
    rows = [Row("feature", "clean", FAILED), Row("parameters", "count", FAILED, module="encoder.layers")]
    assert unseen(*rows).misbuilt().module == "encoder"
    assert unseen(rows[0]).misbuilt() is None
