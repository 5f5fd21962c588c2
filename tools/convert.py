"""Take weights elsewhere: python tools/convert.py IN OUT --to FORMAT."""

from simim_plugin.environment import require
from simim_plugin.errors import told_in_a_sentence

if __name__ == '__main__':
    with told_in_a_sentence():
        require('classification')
    from simim_plugin.checkpoint.export import main

    main()
