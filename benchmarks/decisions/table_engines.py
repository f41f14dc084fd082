"""Which engine for tables: the same work with each; CPU seconds and peak memory of a process.

    python benchmarks/decisions/table_engines.py FILE.csv [polars|duckdb|pyarrow]

FILE is what `benchmarks.data_tables.make_csv` makes. Needs duckdb and pyarrow as well.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def polars(source: str, out: str) -> None:
    import polars as pl

    lazy = pl.scan_csv(source, null_values=["", "NA"])
    n = [f"n{at}" for at in range(8)]
    mean = lazy.select(pl.col(n).mean()).collect(engine="streaming").row(0, named=True)
    lazy.select((pl.col(c).fill_null(mean[c]) - mean[c]).alias(c) for c in n).sink_parquet(
        out, compression="lz4", engine="streaming"
    )


def duckdb(source: str, out: str) -> None:
    import duckdb

    at = duckdb.connect()
    at.execute("set memory_limit='768MB'")
    n = [f"n{at}" for at in range(8)]
    scan = f"read_csv('{source}', nullstr=['', 'NA'])"
    mean = at.execute(f"select {', '.join(f'avg({c})' for c in n)} from {scan}").fetchone()
    made = ", ".join(f"coalesce({c}, {m}) - {m} as {c}" for c, m in zip(n, mean, strict=True))
    at.execute(f"copy (select {made} from {scan}) to '{out}' (format parquet, compression lz4)")


def pyarrow(source: str, out: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    n = [f"n{at}" for at in range(8)]
    told = csv.ConvertOptions(
        null_values=["", "NA"], include_columns=n, column_types=dict.fromkeys(n, pa.float64())
    )

    def batches():
        return csv.open_csv(source, convert_options=told)

    sums, counts = dict.fromkeys(n, 0.0), dict.fromkeys(n, 0)
    for batch in batches():
        for c in n:
            sums[c] += pc.sum(batch[c]).as_py() or 0.0
            counts[c] += pc.count(batch[c]).as_py()
    mean = {c: sums[c] / counts[c] for c in n}
    with pq.ParquetWriter(out, pa.schema([(c, pa.float64()) for c in n]), compression="lz4") as to:
        for batch in batches():
            to.write_batch(
                pa.record_batch(
                    [pc.subtract(pc.fill_null(batch[c], mean[c]), mean[c]) for c in n], names=n
                )
            )


def main() -> None:
    source = sys.argv[1]
    if len(sys.argv) > 2:
        with tempfile.TemporaryDirectory() as out:
            globals()[sys.argv[2]](source, f"{out}/x.parquet")
        use = resource.getrusage(resource.RUSAGE_SELF)
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
        print(f"{sys.argv[2]}: {use.ru_utime + use.ru_stime:.1f} CPU-s, {peak} MiB")
        return
    for _ in range(3):
        for engine in ("polars", "duckdb", "pyarrow"):
            subprocess.run([sys.executable, __file__, source, engine], check=True)


if __name__ == "__main__":
    main()
