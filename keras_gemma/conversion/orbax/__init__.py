"""DeepMind's Flax folders."""
