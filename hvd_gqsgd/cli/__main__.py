"""``python -m hvd_gqsgd.cli``, where the script is not on the PATH."""

import sys

from hvd_gqsgd.cli import main

sys.exit(main())
