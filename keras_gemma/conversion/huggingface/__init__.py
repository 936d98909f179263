"""Folders of Transformers: configuration, safetensors, tokenizer."""
