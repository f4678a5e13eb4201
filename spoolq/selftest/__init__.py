"""Whether a directory's file system, on this machine, keeps the promises of a spool: asked, and tried with kills.

`able` tries each thing that a spool needs; `storm` kills producers and workers; `trial` does both.
"""
