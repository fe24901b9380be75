"""Try what speaks with labelling tools that do not fit the tested versions, each in an environment of its own.

    python scripts/check_labelling.py label-studio   # its library holds NumPy below 2.3 and OpenCV at 4.12
    python scripts/check_labelling.py fiftyone       # its own database, where the package index has a program for it

CVAT's library and supervision fit; `make test-extras` has them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from check_package import ROOT, new_environment, run
from check_versions import TEST_TOOLS, constraint

PACKAGES = {
    "label-studio": ("label-studio-sdk>=2.1", "opencv-python-headless", "httpx"),
    "fiftyone": ("fiftyone>=1.4",),
}
TESTS = {
    "label-studio": ("test_label_studio.py", "test_label_studio_process.py", "test_regions.py", "test_pictures.py"),
    "fiftyone": ("test_fiftyone.py",),
}


def main() -> None:
    """Make the environment, and run the tests in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=sorted(PACKAGES))
    which = parser.parse_args().which
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        own = ["--editable", f"{ROOT}[serve]", f"torch=={constraint('torch')}"]
        python = new_environment(folder, [*own, *PACKAGES[which], *TEST_TOOLS])
        os.environ["HOME"] = temporary  # FiftyOne keeps files there
        tests = [f"tests/integrations/{name}" for name in TESTS[which]]
        run(python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *tests)
    print(f"{which}: passed")


if __name__ == "__main__":
    main()
