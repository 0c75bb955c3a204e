"""The steps of on_gpu.sh, once what they need is installed and joined; see there."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

MIB = 1 << 20
SLUG = "carvana-image-masking-challenge"
CPU = [
    "--accelerator",
    "cpu",
    "--size",
    "64",
    "--epochs",
    "1",
    "--seconds",
    "0.1",
    "--workers",
    "0",
]
SMALL = ["train.model.encoder=tu-test_resnet", "train.model.decoder_channels=[8,8,8,8,8]"]
LARGEST, MOST = 16 * MIB, 8  # of a result; of results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", type=int, choices=range(1, 6))
    parser.add_argument("--state", type=Path, required=True, help="where joined files are")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks, on the CPU")
    args = parser.parse_args(arguments)
    archives = args.state / "data/competitions" / SLUG
    rehearsal = ["--rehearse", "--batch", "2", "--workers", "2"] if args.rehearse else []
    training = ["--data", str(archives), "--out", str(args.state / "training")]
    training += [*CPU, "--set", *SMALL] if args.rehearse else []
    if args.step == 1:
        import predict_gpu

        predict_gpu.main(["--raw", str(archives), *rehearsal])
    elif args.step == 3:
        import pack_gpu
        import train_gpu

        train_gpu.main([*training, "--part", "score"])
        for path in (args.state / "training/results").iterdir():
            if path.stat().st_size < LARGEST:
                shutil.copy(path, args.out)
            else:
                pack_gpu.main(["cut", str(path), "--out", str(args.out)])
    elif args.step == 4:
        import train_gpu

        train_gpu.main([*training, "--part", "speed"])
    elif args.step == 5:
        import memory
        import train_gpu

        memory.main(["--recipe", "sample"] if args.rehearse else ["--device", "cuda"])
        train_gpu.main([*training, "--part", "smoke"])
    sizes = {path.name: path.stat().st_size for path in args.out.iterdir()}
    if len(sizes) > MOST or max(sizes.values(), default=0) > LARGEST:
        sys.exit(f"error: {args.out}: found {sizes}, expected at most {MOST} files of 16 MiB")


if __name__ == "__main__":
    main()
