"""The consoles in the browser: `spoolq console ops` and `spoolq console admin`. docs/consoles.md.

In reading order: launch.py (starts Streamlit), guard.py (who may see anything), place.py (which spool and queue),
words.py (text that is only text), parts.py (what every page is made of), then ops/ and admin/, one module a page.
They use queues only through `interfaces`, so they work on a spool and on a server's URL.
"""
