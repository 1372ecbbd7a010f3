"""The rooms of `llava.describe`: what a run is asked to do, how it decodes, what it keeps."""
