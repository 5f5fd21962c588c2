"""Take weights elsewhere: python tools/convert.py IN OUT --to FORMAT."""

from simim_plugin.environment import require
from simim_plugin.errors import one_line_errors

if __name__ == '__main__':
    with one_line_errors():
        require('classification')
    from simim_plugin.checkpoint.export import main

    main()
