"""`python -m hf_ecgtext_cli`, which is `hf-ecgtext`."""

import sys

from hf_ecgtext_cli.main import main

sys.exit(main())
