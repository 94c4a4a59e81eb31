import os
import sys
from pathlib import Path

if sys.platform == "win32":  # has no RPATH, by which the module finds the library elsewhere
    os.add_dll_directory(str(Path(__file__).parents[2] / "lib"))
