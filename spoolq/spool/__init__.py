"""The local engine: messages are files. docs/spool-format.md is its specification."""
