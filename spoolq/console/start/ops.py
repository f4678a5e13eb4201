"""What Streamlit runs for `spoolq console ops`. Alone in this folder, which Streamlit puts on Python's path."""

from spoolq.console import ops

ops.main()
