"""A small world of hands and objects that poses LEGO's problem: the label leaves out what the frame shows."""

from egogen.toy.success import success

__all__ = ["success"]
