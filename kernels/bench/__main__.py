"""`python -m isentrope.kernels.bench`, for machines without the command line's libraries."""

import sys

from isentrope.errors import IsentropeError
from isentrope.kernels.bench import main

try:
    sys.exit(main())
except IsentropeError as error:
    sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)
