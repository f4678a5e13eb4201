"""The files that Streamlit runs, one a console."""
