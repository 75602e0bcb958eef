"""python -m alexnet_torch."""

import sys

from alexnet_torch.cli import main

sys.exit(main())
