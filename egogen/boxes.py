"""Where hands and objects are: `hand_box_0` in the frame before an action, `hand_box_1` in its target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from egogen.annotations import validate
from egogen.errors import UserError, shorten

Frame = Literal[0, 1]
Pixels = Annotated[float, Field(allow_inf_nan=False)]
Extent = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Box(BaseModel):
    """A rectangle in pixels of the frame that the metadata describes."""

    model_config = ConfigDict(frozen=True, strict=True)

    x: Pixels
    y: Pixels
    width: Extent
    height: Extent

    def shares(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom as shares of a frame's sides, cut at its edges, 0 to 1.

        Args:
            width: the frame's, in pixels.
            height: the frame's, in pixels.
        """
        left, right = (min(max(x / width, 0.0), 1.0) for x in (self.x, self.x + self.width))
        top, bottom = (min(max(y / height, 0.0), 1.0) for y in (self.y, self.y + self.height))
        return left, top, right, bottom


def read_boxes(fields: Mapping[str, object], frame: Frame, where: str) -> dict[str, Box]:
    """The boxes of one frame among a clip's or an action's fields: `left_hand_box_0` is the "left hand".

    A field of such a name that holds null (nothing is there) or text (a note) is no box.

    Args:
        fields: JSON values by name.
        frame: 0 is the frame before the action, 1 its target.
        where: what errors name.

    Raises:
        UserError: a box is not `{x, y, width, height}`; names it, what was found and what is allowed.
    """
    boxes = {}
    ending = f"_box_{frame}"
    for name, value in fields.items():
        if not name.endswith(ending) or value is None or isinstance(value, str):
            continue
        if not isinstance(value, Mapping):
            raise UserError(
                f"{where}, field {name!r}: found {shorten(value)}, expected a box "
                '{"x": ..., "y": ..., "width": ..., "height": ...} in pixels'
            )
        boxes[name.removesuffix(ending).replace("_", " ")] = validate(Box, value, f"{where}, box {name!r}")
    return boxes
