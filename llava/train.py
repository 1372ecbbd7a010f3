"""Fine-tunes the VLLM on curated conversations: load, freeze vision, encode, train, save.

    torchrun --nproc_per_node 8 -m llava.train --model_name_or_path DIR --data_path FILE --image_folder DIR \
        --output_dir DIR --deepspeed configs/deepspeed/zero3_offload.json ...

Run again, it goes on from the newest complete checkpoint; a finished run is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from egogen import cli
from egogen.later import later
from llava.tuning.train_flags import check_ours

if TYPE_CHECKING:
    from llava.tuning.run import finetune as finetune

__getattr__ = later(__name__, finetune="llava.tuning.run")


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tunes by the command line's settings."""
    check_ours(argv, __doc__)
    from llava.tuning.run import run

    run(argv, __doc__)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cli.run(main)
