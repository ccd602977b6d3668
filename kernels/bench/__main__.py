"""`python -m isentrope.kernels.bench`."""

import sys

from isentrope.kernels.bench import main

sys.exit(main())
