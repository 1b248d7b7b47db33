"""`python -m camfabric.cli`."""

import sys

from camfabric.cli.main import main

sys.exit(main())
