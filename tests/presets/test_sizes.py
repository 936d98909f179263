import pytest

from keras_gemma.presets import registry, sizes

pytestmark = pytest.mark.once

TINY = {
    "vocabulary_size": 32,
    "num_layers": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 24,
    "head_dim": 4,
}


@pytest.mark.parametrize(
    "kind, options",
    [
        ("GemmaBackbone", {}),
        ("GemmaBackbone", {"use_post_ffw_norm": True, "use_post_attention_norm": True}),
        ("Gemma3Backbone", {"image_size": None}),
        ("Gemma3Backbone", {"image_size": None, "use_query_key_norm": False}),
    ],
)
def test_sizes_foretold_are_those_of_the_variables(kind, options):
    import keras_gemma

    model = getattr(keras_gemma, kind)(**TINY, **options)
    found = {variable.path: tuple(variable.shape) for variable in model.variables}
    assert found == sizes.weight_shapes(kind, {**TINY, **options})
    assert model.count_params() == sizes.parameter_count(kind, {**TINY, **options})


@pytest.mark.parametrize(
    "name, parameters", [("gemma_2b_en", 2_506_172_416), ("gemma_7b_en", 8_537_680_896)]
)
def test_published_sizes_are_those_that_keras_hub_tells(name, parameters):
    card = registry.card(name)
    assert sizes.parameter_count(card["backbone"], card["architecture"]) == parameters


def test_the_cache_of_the_2b_takes_18_kib_a_token_in_bfloat16():
    # 18 layers x (key + value) x 1 head x 256 numbers x 2 bytes.
    config = registry.card("gemma_2b_en")["architecture"]
    assert sizes.cache_bytes(config, 1, "bfloat16") == 18 * 2 * 256 * 2
