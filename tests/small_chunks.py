"""The stage `predict` as a command, with chunks of four images, so that processes can share."""

from pipeline.__main__ import main
from pipeline.levels import kept

kept.CHUNK = 4
if __name__ == "__main__":
    main()
