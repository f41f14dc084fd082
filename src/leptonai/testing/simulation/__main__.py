"""Run simulated worlds: `python -m leptonai.testing.simulation --seed 7 --count 1000`."""

import argparse
import sys
import time

from leptonai.testing.simulation.simulator import SimulationFailed, simulate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first world")
    parser.add_argument("--count", type=int, default=1, help="how many worlds")
    parser.add_argument("--trace", action="store_true", help="print what happened before a failure")
    options = parser.parse_args()
    failed = 0
    began = time.monotonic()
    for seed in range(options.seed, options.seed + options.count):
        try:
            outcome = simulate(seed)
            if options.count == 1:
                print(outcome)
        except SimulationFailed as failure:
            failed += 1
            if options.trace:
                print("\n".join(failure.trace), file=sys.stderr)
            print(failure, file=sys.stderr)
    took_s = time.monotonic() - began
    print(f"{options.count} worlds in {took_s:.1f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
