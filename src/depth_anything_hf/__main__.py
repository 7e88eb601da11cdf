"""`python -m depth_anything_hf`, also under `accelerate launch`: the same as `depth-anything-hf`."""

import sys

from depth_anything_hf.cli.main import main

sys.exit(main())
