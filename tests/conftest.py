"""One thread for torch: small models are many times slower with threads that spin at every operator's barrier."""

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"
