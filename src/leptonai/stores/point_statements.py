"""Every SQL statement about points; compiled when the first run is opened."""

import sqlalchemy as sa
from sqlalchemy import bindparam

from leptonai.stores.databases import Database
from leptonai.stores.tables import metric_batches, metric_chunks, metric_runs, metric_writers


class PointStatements:
    """The SQL of one kind of database. Each is given `workspace` and `run`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        runs, writers, batches, chunks = metric_runs, metric_writers, metric_batches, metric_chunks
        of_run = {table: _of_run(table) for table in (runs, writers, batches, chunks)}

        self.open = self._text(database.insert(runs).on_conflict_do_nothing())
        known = sa.select(runs.c.known).where(*of_run[runs])
        self.known = self._text(known)
        self.known_to_change = self._text(known.with_for_update())
        self.known_of = self._text(
            sa.select(runs.c.run, runs.c.known).where(
                runs.c.workspace == bindparam("workspace"), database.among(runs.c.run, "runs")
            )
        )
        self.put_known = self._text(
            sa.update(runs).where(*of_run[runs]).values(known=bindparam("known"))
        )
        self.writer = self._text(
            sa.select(writers.c.sequence, writers.c.attempt).where(
                *of_run[writers], writers.c.writer == bindparam("writer")
            )
        )
        insert = database.insert(writers)
        self.put_writer = self._text(
            insert.on_conflict_do_update(
                index_elements=list(writers.primary_key),
                set_={"sequence": insert.excluded.sequence, "attempt": insert.excluded.attempt},
            )
        )
        self.add_batch = self._text(database.insert(batches))
        self.batches = self._text(
            sa.select(batches.c.attempt, batches.c.number, batches.c.body)
            .where(*of_run[batches])
            .order_by(batches.c.number)
        )
        self.drop_batches = self._text(sa.delete(batches).where(*of_run[batches]))
        self.chunks = self._text(
            sa.select(
                chunks.c.key, chunks.c.attempt, chunks.c.number, chunks.c.stream, chunks.c.points
            )
            .where(*of_run[chunks])
            .order_by(chunks.c.number)
        )
        one = (*of_run[chunks], chunks.c.key == bindparam("key"))
        of_number = (*one, chunks.c.number == bindparam("number"))
        self.chunk = self._text(sa.select(chunks.c.data).where(*of_number))
        self.drop_chunk = self._text(sa.delete(chunks).where(*of_number))
        self.add_chunk = self._text(database.insert(chunks))
        self.sums = self._text(
            sa.select(
                chunks.c.key,
                chunks.c.stream,
                chunks.c.attempt,
                chunks.c.number,
                chunks.c.first_step,
                chunks.c.last_step,
                chunks.c.sum,
            )
            .where(*of_run[chunks])
            .order_by(chunks.c.number)
        )
        self.curve = self._text(
            sa.select(chunks.c.attempt, chunks.c.number, chunks.c.stream, chunks.c.data).where(
                *one,
                chunks.c.last_step >= bindparam("from_step"),
                chunks.c.first_step <= bindparam("to_step"),
            )
        )
        self.forget = tuple(
            self._text(sa.delete(table).where(*of_run[table]))
            for table in (runs, writers, batches, chunks)
        )

    def _text(self, statement: sa.ClauseElement) -> str:
        return str(statement.compile(dialect=self._database.dialect))


def _of_run(table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.workspace == bindparam("workspace"), table.c.run == bindparam("run")
