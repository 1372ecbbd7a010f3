"""Any command with `--shard` as tasks of Ray: `python scripts/ray_job.py 8 -- python -m ldm.sample ...`."""

from egogen.cli import run
from egogen.ray_job import main

if __name__ == "__main__":
    run(main)
