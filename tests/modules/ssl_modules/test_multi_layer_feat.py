import pytest
import torch

from modules.conformer_encoder import ConformerEncoder
from modules.ssl_modules.multi_layer_feat import POOLING, Aggregator, ConformerMultiLayerFeatureExtractor


def encoder(**options):
    torch.manual_seed(0)
    sizes = {"subsampling": "dw_striding", "subsampling_conv_channels": 4, "n_heads": 2, "conv_kernel_size": 3}
    return ConformerEncoder(8, 3, 16, **sizes, **options).eval()


def extract(module, **options):
    x = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(1))
    return ConformerMultiLayerFeatureExtractor(module, **options)(audio_signal=x, length=torch.tensor([40, 23]))


def test_features_are_the_states_of_the_listed_blocks_and_the_final_output():
    module, states = encoder(), []
    for layer in module.layers:
        layer.register_forward_hook(lambda layer, inputs, output: states.append(output.transpose(1, 2)))
    features, lengths = extract(module, layer_idx_list=[-1, 0])
    assert len(features) == len(lengths) == 3 and lengths[0].tolist() == [10, 6]
    for feature, expected in zip(features, [states[0], states[2], states[2]], strict=True):
        assert torch.equal(feature, expected)


def test_all_blocks_are_taken_by_default():
    assert len(extract(encoder())[0]) == 4
    assert len(extract(encoder(), include_final_output=False)[0]) == 3


def test_features_go_through_the_output_projection_and_keep_their_own_lengths():
    module = encoder(feat_out=6, reduction="pooling", reduction_position=1, reduction_factor=2)
    features, lengths = extract(module)
    assert [feature.shape[1:] for feature in features] == [(6, 10), (6, 5), (6, 5), (6, 5)]
    assert [length.tolist() for length in lengths] == [[10, 6], [5, 3], [5, 3], [5, 3]]


def test_blocks_behind_the_last_listed_one_are_frozen_and_do_not_run_without_the_final_output():
    module, runs = encoder(), []
    for index, layer in enumerate(module.layers):
        layer.register_forward_hook(lambda *_, index=index: runs.append(index))
    extract(module, layer_idx_list=[1], include_final_output=False)
    assert runs == [0, 1]
    assert [all(p.requires_grad for p in layer.parameters()) for layer in module.layers] == [True, True, False]


def test_detached_features_have_no_gradient_but_the_final_output_has():
    features, _ = extract(encoder(), detach=True)
    assert [feature.requires_grad for feature in features] == [False, False, False, True]
    assert all(feature.requires_grad for feature in extract(encoder(), convert_to_cpu=True)[0])


def test_a_block_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="layer_idx_list: 3 is no block"):
        extract(encoder(), layer_idx_list=[3])


@pytest.mark.parametrize("mode", POOLING)
def test_an_aggregator_makes_one_representation(mode):
    states = [torch.full((2, 3, 4), value) for value in (1.0, 2.0, 6.0)]
    expected = {"cat": None, "sum": 9.0, "mean": 3.0, "avg": 3.0, "max": 6.0, "min": 1.0, "weighted_sum": 3.0}[mode]
    out, lengths = Aggregator(mode, None, [0, 1, 2])(states, [torch.tensor([4, 2])] * 3)
    assert lengths.tolist() == [4, 2]
    if mode == "cat":
        assert torch.equal(out, torch.cat(states, dim=1))
    else:
        torch.testing.assert_close(out, torch.full((2, 3, 4), expected))


def test_weights_of_the_sum_are_learnt_or_given():
    assert Aggregator("weighted_sum", None, [0, 1]).weights.tolist() == [0.5, 0.5]
    given = Aggregator("weighted_sum", torch.tensor([1.0, 0.0]), [0, 1])
    assert torch.equal(given([torch.ones(1, 2, 3), torch.zeros(1, 2, 3)], [0])[0], torch.ones(1, 2, 3))


def test_none_keeps_the_lists_and_unknown_modes_are_refused():
    lists = ([torch.ones(1)], [torch.ones(1)])
    assert Aggregator("none", None, [0])(*lists) == lists
    with pytest.raises(ValueError, match="'summ' is not known; did you mean 'sum'"):
        Aggregator("summ", None, [0])


def test_the_extractor_gives_what_its_aggregator_makes():
    features, lengths = extract(encoder(), aggregator=Aggregator("cat", None, [0, 1, 2]))
    assert features.shape == (2, 64, 10) and lengths.tolist() == [10, 6]
