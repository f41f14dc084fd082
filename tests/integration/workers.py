"""Workers that train together, started as a platform would start them."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from leptonai.testing.free_ports import a_free_port

TIME_LIMIT_S = 300
FORKS = Path(__file__).with_name("forking_workers.py")


class Workers:
    """Starts workers without the seconds that each would take to import what trains."""

    def __enter__(self) -> "Workers":
        self._forks = subprocess.Popen(
            [sys.executable, str(FORKS)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.killpg(self._forks.pid, signal.SIGKILL)  # and workers that hang
        self._forks.communicate()

    def run(
        self,
        program: Path,
        arguments: Sequence[str],
        *,
        workers: int,
        logs: Path,
        only: Sequence[int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[int]:
        """Exit codes, by rank; what they printed is in ``logs / "RANK.log"``.

        Args:
            only: of these ranks; all if not given.
        """
        logs.mkdir(exist_ok=True, parents=True)
        given = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(a_free_port()),
            "WORLD_SIZE": str(workers),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        ranks = only if only is not None else range(workers)
        asked = {
            "program": str(program),
            "arguments": list(arguments),
            "environments": [
                {**given, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in ranks
            ],
            "logs": [str(logs / f"{rank}.log") for rank in ranks],
        }
        assert self._forks.stdin is not None and self._forks.stdout is not None
        print(json.dumps(asked), file=self._forks.stdin, flush=True)
        ended, _, _ = select.select([self._forks.stdout], [], [], TIME_LIMIT_S)
        assert ended, f"they have not ended after {TIME_LIMIT_S} s"
        codes: list[int] = json.loads(self._forks.stdout.readline())
        return codes
