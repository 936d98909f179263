"""DeepMind's `.ckpt` files, without PyTorch and without running anything."""
