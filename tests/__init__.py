from simim_plugin.environment import distributions

UPSTREAM = 'mmengine' in distributions('mmengine')
"""Whether OpenMMLab's own libraries are installed, not OneDL's forks."""
