"""Check every setting of a config before anything is built.

docs/settings.md lists the rules. None of the modules here imports another
room, and nothing is built.
"""

from .channels import fit_channels
from .check import check_settings
from .forms import check_forms
from .sizes import apply_img_size
