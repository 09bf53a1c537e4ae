import pytest

from parts.submodules.attention_models import attention_model
from parts.submodules.attention_options import LOCAL, AttentionOptions


@pytest.mark.parametrize("d_model, n_heads, nearest", [(512, 7, 8), (512, 12, 8), (176, 6, 4), (10, 4, 5)])
def test_heads_that_do_not_divide_d_model_are_refused_with_the_nearest_that_do(d_model, n_heads, nearest):
    with pytest.raises(ValueError) as error:
        AttentionOptions(self_attention_model="rel_pos", d_model=d_model, n_heads=n_heads)
    assert str(error.value) == (
        f"encoder.n_heads={n_heads} does not divide encoder.d_model={d_model}; the nearest that does is {nearest}"
    )


@pytest.mark.parametrize(
    "model, options, message",
    [
        ("rel_pos", {"n_heads": 0}, "encoder.n_heads=0 must be at least 1"),
        ("rel_pos", {"n_heads": -4}, "encoder.n_heads=-4 must be at least 1"),
        ("rel_pos", {"d_model": 9, "n_heads": 3}, "encoder.d_model=9 must be even"),
        ("rel_pos", {"use_pytorch_sdpa_backends": ["MATH"]}, "encoder.use_pytorch_sdpa_backends has no effect"),
        ("abs_pos", {"untie_biases": False}, "encoder.untie_biases=false"),
        (LOCAL, {"untie_biases": False}, "encoder.untie_biases=false"),
        ("rel_pos", {"global_tokens": 1}, "encoder.global_tokens=1 needs"),
        ("rel_pos", {"global_tokens_spacing": 2}, "encoder.global_tokens_spacing=2 needs"),
        ("abs_pos", {"global_attn_separate": True}, "encoder.global_attn_separate=True needs"),
        (LOCAL, {"att_context_sizes": [[-1, -1]]}, "encoder.att_context_size=[-1, -1] must be"),
        (LOCAL, {"att_context_sizes": [[0, 0]]}, "encoder.att_context_size=[0, 0] must be"),
        (LOCAL, {"att_context_sizes": [[4, 4], [2, 2]]}, "encoder.att_context_size=[[4, 4], [2, 2]] must be"),
        (LOCAL, {"att_context_style": "chunked_limited"}, "encoder.att_context_style='chunked_limited' must be"),
        (LOCAL, {"use_pytorch_sdpa": True}, "encoder.use_pytorch_sdpa=True must be"),
        (LOCAL, {"global_tokens": -1}, "encoder.global_tokens=-1 must be"),
        (LOCAL, {"global_tokens": 1, "global_tokens_spacing": 0}, "encoder.global_tokens=1 must be"),
        (LOCAL, {"global_attn_separate": True}, "encoder.global_attn_separate and global_tokens_spacing"),
        (LOCAL, {"global_tokens_spacing": 2}, "encoder.global_attn_separate and global_tokens_spacing"),
    ],
)
def test_options_that_contradict_each_other_are_refused_by_name(model, options, message):
    defaults = {"d_model": 8, "n_heads": 2, "att_context_sizes": [[4, 4]]}
    with pytest.raises(ValueError) as error:
        AttentionOptions(self_attention_model=model, **(defaults | options))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^encoder\.self_attention_model='rel' is not one of"):
        attention_model("rel")
