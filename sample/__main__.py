"""Draw the sample: `python -m sample FOLDER --train-cars 8 --test-cars 4 --seed 1`."""

import argparse
import os
from pathlib import Path

from sample.archives import write_archives


def main() -> None:
    """Write the archives; their bytes depend on the numbers given alone."""
    parser = argparse.ArgumentParser(prog="python -m sample", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the archives")
    parser.add_argument("--train-cars", type=int, required=True, help="cars with masks")
    parser.add_argument("--test-cars", type=int, required=True, help="cars without")
    parser.add_argument("--seed", type=int, required=True, help="of everything drawn")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    write_archives(args.out, args.train_cars, args.test_cars, args.seed, cores)


if __name__ == "__main__":
    main()
