"""`spoolq selftest`: whether a spool can be kept in a directory."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from spoolq.cli import failure
from spoolq.cli.declare import argument, command, option
from spoolq.cli.options import Json
from spoolq.cli.output import emit, say
from spoolq.cli.text import safe
from spoolq.cli.values import duration

if TYPE_CHECKING:
    from spoolq.selftest.able import Ability
    from spoolq.selftest.storm import Storm
    from spoolq.selftest.trial import Verdict

DEFAULT_S = 10.0
MOST_S = 86_400.0


@command("""
    spoolq selftest .
    spoolq selftest --seconds 60 /var/spool
""")
def selftest(
    *,
    directory: Annotated[str, argument("DIR", help="Where a spool is to be, or beside which it is.")],
    seconds: Annotated[
        float, option("--seconds", metavar="TIME", parse=duration, help="How long the storm of kills lasts.")
    ] = DEFAULT_S,
    as_json: Json = False,
) -> int:
    """Try whether the file system of a directory keeps what a spool promises, with kills; leaves nothing there.

    Exit status 1 where a spool should not be kept there.
    """
    if not 0 < seconds <= MOST_S:
        raise ValueError(f"--seconds must be over 0 and at most {MOST_S:g}, not {seconds:g}")
    from spoolq.selftest import trial

    verdict = trial.selftest(directory, seconds=seconds, tell=_tell_json if as_json else _tell)
    _conclude_json(verdict) if as_json else _conclude(verdict)
    return failure.DONE if verdict.is_fit else failure.FAILED


def _tell(ability: "Ability") -> None:
    mark = "yes" if ability.works else "NO" if ability.needed else "no"
    say(f"{ability.name:26} {mark:4} {safe(ability.found)}")


def _tell_json(ability: "Ability") -> None:
    emit(asdict(ability))


def _conclude(verdict: "Verdict") -> None:
    if verdict.storm is not None:
        say(_in_words(verdict.storm))
    for line in verdict.words:
        say(safe(line))


def _in_words(storm: "Storm") -> str:
    back = f", back {storm.back(50):.0f} ms after the kill (99 %: {storm.back(99):.0f})" if storm.back_ms else ""
    return (
        f"{storm.kills} kills in {storm.seconds:g} s: {storm.enqueued} confirmed, {storm.delivered} delivered, "
        f"{storm.delivered_again} again{back}; "
        f"{storm.lost} lost, {storm.torn} torn, {storm.twice} twice, {storm.stolen} taken from the living"
    )


def _conclude_json(verdict: "Verdict") -> None:
    storm = verdict.storm
    figures = {} if storm is None else asdict(storm) | {"back_ms": {"p50": storm.back(50), "p99": storm.back(99)}}
    emit({"fit": verdict.is_fit, "words": verdict.words, **figures})
