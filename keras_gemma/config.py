"""Every number that shapes a Gemma, written once."""

import dataclasses
from typing import NamedTuple


class AttentionRules(NamedTuple):
    """All that one layer's attention needs to know, answered by `GemmaConfig.attention_rules`."""

    num_query_heads: int
    num_key_value_heads: int
    head_dim: int
    scale: float  # of the product of query and key
    soft_cap: float | None  # of that product
    window: int | None  # tokens a query looks back on, itself included; None: all
    rope_base: float
    rope_scaling: float  # positions are divided by it before they are rotated
    normalize_query_key: bool


@dataclasses.dataclass(frozen=True)
class GemmaConfig:
    """Sizes and options of a Gemma, Gemma 2 or Gemma 3 text model.

    Names are those of the backbones' arguments, except that `intermediate_dim` counts one branch
    of the feed-forward layer here (`GemmaBackbone` counts both, `Gemma3Backbone` one).

    What differs between layers is asked of `attention_rules(layer)`:

    >>> config = GemmaConfig(256, num_layers=2, num_query_heads=4, num_key_value_heads=1,
    ...                      hidden_dim=64, intermediate_dim=128, head_dim=16,
    ...                      use_sliding_window_attention=True, sliding_window_size=8)
    >>> [config.attention_rules(layer).window for layer in range(2)]
    [8, None]
    """

    vocabulary_size: int
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    hidden_dim: int
    intermediate_dim: int
    head_dim: int
    query_head_dim_normalize: bool = True
    use_query_key_norm: bool = False
    use_post_ffw_norm: bool = False
    use_post_attention_norm: bool = False
    attention_logit_soft_cap: float | None = None
    final_logit_soft_cap: float | None = None
    use_sliding_window_attention: bool = False
    sliding_window_size: int = 4096
    windowed_layers_per_full_layer: int = 1
    rope_base: float = 10_000.0
    rope_scaling: float = 1.0
    windowed_rope_base: float = 10_000.0
    windowed_rope_scaling: float = 1.0
    layer_norm_epsilon: float = 1e-6
    dropout: float = 0.0

    def __post_init__(self):
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if self.num_query_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_query_heads={self.num_query_heads} can't be shared out evenly among "
                f"num_key_value_heads={self.num_key_value_heads}; choose a divisor of it."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim={self.head_dim} must be even: rotary positions turn its two halves."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout!r}.")

    @classmethod
    def of(cls, config: "GemmaConfig | dict") -> "GemmaConfig":
        """`config` itself, or the one that a saved dict describes."""
        return config if isinstance(config, cls) else cls(**config)

    @property
    def context_length(self) -> int:
        """Tokens of the longest text that models of this kind were published for."""
        return published_context(self.use_query_key_norm, self.rope_scaling)

    def attention_rules(self, layer: int) -> AttentionRules:
        """The rules of attention in one layer, counted from 0."""
        period = self.windowed_layers_per_full_layer + 1
        windowed = self.use_sliding_window_attention and layer % period < period - 1
        per_head = (
            self.head_dim
            if self.query_head_dim_normalize
            else self.hidden_dim // self.num_query_heads
        )
        return AttentionRules(
            num_query_heads=self.num_query_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            scale=per_head**-0.5,
            soft_cap=self.attention_logit_soft_cap,
            window=self.sliding_window_size if windowed else None,
            rope_base=self.windowed_rope_base if windowed else self.rope_base,
            rope_scaling=self.windowed_rope_scaling if windowed else self.rope_scaling,
            normalize_query_key=self.use_query_key_norm,
        )


_COUNTS = (
    "vocabulary_size",
    "num_layers",
    "num_query_heads",
    "num_key_value_heads",
    "hidden_dim",
    "intermediate_dim",
    "head_dim",
    "sliding_window_size",
    "windowed_layers_per_full_layer",
)


def published_context(is_gemma3: bool, rope_scaling: float) -> int:
    """Tokens of the longest text that the published models of a kind were made for.

    >>> published_context(is_gemma3=False, rope_scaling=1.0)
    8192
    """
    if not is_gemma3:
        return 8192
    return 131_072 if rope_scaling > 1 else 32_768
