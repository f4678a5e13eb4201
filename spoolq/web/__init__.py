"""The REST API. docs/rest-api.md says what each route does; DESIGN 12 why.

In reading order: app.py (what it is made of), security.py (who gets in), service.py (how an event loop calls a queue),
 enqueue.py with streaming.py, multipart.py and batching.py (bodies in), dequeue.py with envelope.py and
waiting.py (messages out), then claims.py, messages.py, dead_letters.py, queues.py, keeping.py, status.py, and server.py
(uvicorn). It knows queues by `interfaces` alone.
"""
