"""procrastinate on the same database, one job at a time; a thing of the benchmark only: `pip install procrastinate`."""

from __future__ import annotations

import asyncio
import importlib.util
import time

import psycopg

IS_THERE = importlib.util.find_spec("procrastinate") is not None


def rates(dsn: str, count: int) -> tuple[float, float]:
    """Jobs deferred a second, and jobs fetched and finished (deleted) a second."""
    return asyncio.run(_rates(dsn, count))


async def _rates(dsn: str, count: int) -> tuple[float, float]:
    import procrastinate
    from procrastinate.jobs import Status

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS peer CASCADE")
        connection.execute("CREATE SCHEMA peer")
    connector = procrastinate.PsycopgConnector(conninfo=dsn, kwargs={"options": "-c search_path=peer"})
    app = procrastinate.App(connector=connector)

    @app.task(name="nothing")  # type: ignore[untyped-decorator, unused-ignore]
    async def nothing(body: str) -> None:
        """Nothing."""

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = await app.job_manager.register_worker()
        begun = time.perf_counter()
        for _ in range(count):
            await nothing.defer_async(body="x" * 200)
        put = count / (time.perf_counter() - begun)
        begun = time.perf_counter()
        for _ in range(count):
            job = await app.job_manager.fetch_job(None, worker)
            assert job is not None
            await app.job_manager.finish_job(job, Status.SUCCEEDED, True)
        take = count / (time.perf_counter() - begun)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA peer CASCADE")
    return put, take
