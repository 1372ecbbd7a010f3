"""How features may be stored, by name, and what their shape and files are like by default."""

from __future__ import annotations

from typing import Literal, get_args

Store = Literal["npy", "compact", "online"]  # what a user chooses
STORES = get_args(Store)
RowType = Literal["float16", "int8"]
ROW_TYPES = get_args(RowType)
IMAGE_TOKENS = 256
SHARD_ITEMS = 256  # features in a shard: about 0.2 GB at the published sizes
SUFFIXES = ".safetensors, .bin or .npz"  # of files with a projector's weights
