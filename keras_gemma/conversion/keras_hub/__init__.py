"""KerasHub's presets of all releases."""
