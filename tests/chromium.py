"""A browser for tests of pages: the one named in CHROMIUM, else the first that is there."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
WHY_NOT = "no Chromium here (apt-get install chromium, or name one in CHROMIUM)"
