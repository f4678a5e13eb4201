"""The whole stack under supervisord: API, consoles, watch, consumer, producer, cleanup. DESIGN section 14.

In reading order: `settings` (what may be set, and where), `ports` (taken ones, before anything starts), `conf` (the
text of supervisord.conf, of which the one in the checkout is made too), `place` (where a stack lives), `programs`
(asking supervisord), `up` (start, wait until healthy), `events` (the event listener: what crashed, and how often).
`watched` is what the administration console shows of it. `running` is a stack for a while, for scripts and tests.
"""
