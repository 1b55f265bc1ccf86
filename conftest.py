"""What the tests and the notebooks share when they are tested."""

import os

# The kernels that run the notebooks inherit this. Whether a progress bar appears depends on the machine's speed.
os.environ["TQDM_DISABLE"] = "1"
