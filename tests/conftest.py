"""One thread for torch: small models are many times slower with threads that spin at every operator's barrier."""

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"

from hypothesis import settings
from typechecking import check_packages

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

check_packages()
