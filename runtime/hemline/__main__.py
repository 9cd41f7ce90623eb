"""`python -m hemline` is the command `hemline`."""

import sys

from hemline.cli import main

sys.exit(main())
