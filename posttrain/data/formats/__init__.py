"""One pure converter per input format: row -> content. Detection looks at rows and says why.

A converter gets one row (a mapping) and returns a Chat or a Preference, or raises RowError with a
countable reason. To add a format: a module here, an entry in ``catalog.FORMATS``, its name in the
recipe's ``FormatName``. Plain text has no format of its own: see ``formats.text``.
"""

from posttrain.data.formats.catalog import FORMATS, Format
from posttrain.data.formats.detection import choose_format, detect_format

__all__ = ["FORMATS", "Format", "choose_format", "detect_format"]
