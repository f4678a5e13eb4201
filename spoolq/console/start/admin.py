"""What Streamlit runs for `spoolq console admin`."""

from spoolq.console import admin

admin.main()
