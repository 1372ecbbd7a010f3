"""Frames of videos, folders and tar files: found, timed, chosen, scaled and written."""
