"""Tokens for the REST API. Their texts are shown once, and kept nowhere."""

from typing import Annotated

from spoolq.cli import failure
from spoolq.cli.declare import argument, command, options
from spoolq.cli.options import DEFAULT_SPOOL, Json, Spool
from spoolq.cli.output import outcome
from spoolq.cli.values import one_of

SCOPES = ("enqueue", "consume", "admin")

Name = Annotated[str, argument("NAME", help="What it is called in the list and in the log.")]


@command("""
    spoolq token create importer --scope enqueue
    spoolq token create mailer --scope consume --queue emails
    spoolq token create operator --scope admin
""")
def create(
    *,
    name: Name,
    scope: Annotated[
        list[str],
        options("--scope", metavar="SCOPE", parse=one_of(*SCOPES), choices=SCOPES, help="enqueue, consume or admin."),
    ] = [],  # noqa: B006 never changed
    queue: Annotated[
        list[str], options("--queue", "-q", metavar="NAME", help="Only this queue; all of them unless given.")
    ] = [],  # noqa: B006 never changed
    spool: Spool = DEFAULT_SPOOL,
    as_json: Json = False,
) -> int:
    """Make a token and print it: once, since only its hash is kept. From then on every request needs one.

    A program sends it as a header: Authorization: Bearer TOKEN.
    """
    from spoolq import tokens

    if not scope:
        raise failure.Refused("a token needs a scope", "Say what it may do: --scope enqueue, consume or admin")
    text = tokens.create_token(spool, name, scopes=scope, queues=queue)
    outcome(as_json, {"name": name, "token": text, "scopes": scope, "queues": queue}, text)
    return failure.DONE


@command("spoolq token list")
def ls(*, spool: Spool = DEFAULT_SPOOL, as_json: Json = False) -> int:
    """List the tokens: name, scopes, queues. Not their texts, which nobody has."""
    from spoolq import tokens

    for token in tokens.list_tokens(spool):
        words = f"{token.name}\t{','.join(token.scopes)}\t{','.join(token.queues) or 'all queues'}"
        made = {"name": token.name, "scopes": list(token.scopes), "queues": list(token.queues)}
        outcome(as_json, made | {"made_at_ms": token.made_at_ms}, words)
    return failure.DONE


@command("spoolq token revoke importer")
def revoke(*, name: Name, spool: Spool = DEFAULT_SPOOL, as_json: Json = False) -> int:
    """Make a token worthless, in every server within a second. Revoking the last one opens nothing."""
    from spoolq import tokens

    tokens.revoke_token(spool, name)
    outcome(as_json, {"name": name, "revoked": True}, f"{name} revoked")
    return failure.DONE
