"""What can be wrong with a preset; the command line gives each kind its own exit code."""


class PresetError(ValueError):
    """A preset can't be used: unknown, not here, or broken."""


class PresetAccessError(PresetError):
    """The preset exists, but its files are not on this machine."""


class NoSpaceError(PresetError):
    """The disk is full, or too small for what is to be fetched or written."""


class BadPresetError(PresetError):
    """A file of a preset is missing, truncated, or says something it can't say."""
