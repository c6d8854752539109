"""Write the embedded data set: UCI optical digits from scikit-learn, split once and for all.

The training part comes first, 1437 of 1797 images; the last 360 are the test. The split is
stratified by class and drawn from a fixed seed, because the images come in runs of one writer
and a cut by position would test on other writers than it trained on.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TARGET = Path(__file__).parents[1] / "src" / "fedbonsai" / "data" / "digits.npz"


def main() -> None:
    """Write the file and say how long it is."""
    digits = load_digits()
    train, test = train_test_split(np.arange(len(digits.target)), test_size=360, random_state=0, stratify=digits.target)
    order = np.concatenate([np.sort(train), np.sort(test)])
    np.savez_compressed(
        TARGET,
        images=digits.images[order].astype(np.uint8),
        labels=digits.target[order].astype(np.uint8),
    )
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
