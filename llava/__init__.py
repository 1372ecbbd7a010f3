"""Stage 1: a vision-language model that turns an action label and a frame into a description and features."""

from egogen import __version__ as __version__
