"""From pictures, labels and weights of one's own to a config that trains.

``tools/configure.py`` is its command. Each task reads its data, chooses sizes,
batch, length and learning rate by rules, and writes a short config that
inherits a packaged one.
"""

from .configuring import configure

__all__ = ['configure']
