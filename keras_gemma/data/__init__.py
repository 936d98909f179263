"""What models are trained on: people's own files, and the text of the bundled models."""

from keras_gemma.data.prepared_rows import DataReport
from keras_gemma.data.records import Records, read
from keras_gemma.data.show import show

__all__ = ["DataReport", "Records", "read", "show"]
