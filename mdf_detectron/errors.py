"""The base of every error that is the user's to mend: command lines print it as one line, without a traceback."""


class UserError(Exception):
    """Input, configuration or environment that the user can correct; the message says where and how."""


class ConfigError(UserError, ValueError):
    """A config file, key or value that cannot be used."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be read safely, or that does not belong to this model."""


class ImageReadError(UserError, OSError):
    """An image file that is absent or cannot be decoded."""


class SourceDataError(UserError, ValueError):
    """A source table, annotation or image of a data set that is absent or broken; the message names file and row."""
