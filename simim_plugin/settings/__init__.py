"""Check every setting of a config before anything is built.

docs/settings.md lists the rules. The modules here import only the top-level
modules of the package, and build nothing.
"""

from .channels import fit_channels
from .check import check_settings
from .forms import check_forms
from .names import changed_too_late
from .sizes import apply_img_size
