"""The side of zeromodels, a collection of models in pure Keras 3."""

from shapes import SHAPES
from timing import serve, versions


class Model:
    """A `GemmaTextGenerate` of random weights."""

    def __init__(self, shape, dtype, cores):
        import keras
        from zeromodels.models.gemma import GemmaTextGenerate

        sizes = SHAPES[shape]
        keras.config.set_dtype_policy(dtype)  # its layers read the global policy
        self.model = GemmaTextGenerate(
            vocab_size=sizes["vocabulary_size"],
            embed_dim=sizes["hidden_dim"],
            mlp_dim=sizes["intermediate_dim"],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_query_heads"],
            num_kv_heads=sizes["num_key_value_heads"],
            head_dim=sizes["head_dim"],
        )
        self.facts = {"versions": versions("zeromodels", "keras", keras.config.backend())}

    def generate(self, ids, count, room):
        return self.model.generate(ids, max_new_tokens=count, eos_token_id=())


if __name__ == "__main__":
    serve(Model)
