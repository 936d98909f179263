"""Checkpoints in any dress: read and written tensor by tensor. Knows no layer and no model."""
