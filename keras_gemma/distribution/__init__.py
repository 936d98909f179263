"""How the weights of a Gemma are spread over many devices."""

from keras_gemma.distribution.layout_map import Placement, gemma_layout_map, placements

__all__ = ["Placement", "gemma_layout_map", "placements"]
