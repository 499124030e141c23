"""Puts the repository's root first on sys.path, so that a script finds our packages and not others of their names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
